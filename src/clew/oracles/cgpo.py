"""CGPO held to its text: exact means over all groups of a bandit's arms, laws, and its own recipe on a tree."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clew.config import Choice
from clew.constrained import likelihood, of_task
from clew.data.collate import collate
from clew.engines.baseline import WithBaseline, one_sample
from clew.judges.constraints import JUDGE, judged_reward, satisfied
from clew.learn.learner import Optimiser, Part
from clew.losses.cgpo import Judged, best_and_worst, calibrated, codpo, crpg, crraft, regularised
from clew.losses.pair import PairLogps, dpo
from clew.oracles.recipes import NOWHERE, Rehearsal
from clew.oracles.result import Result, gradient
from clew.oracles.rl import ARMS, TIGHT, TREE, Setting, off
from clew.oracles.worlds import TableEngine, TablePolicy, Tree, random_logits, random_rewards
from clew.recipes.cgpo import CGPO, Task, World, train
from clew.types import Prompt, Rollout, Score

KL_MAX = 0.8
SMALL = Tree(3, 2)
STEEP = Optimiser(lr=0.3, schedule="linear", clip=100.0, max_tokens=1 << 30)
PASSES = torch.tensor([True, False, True, True, False])
"""Of five arms."""
K = 3


class Bandit(Setting):
    """Rewards below zero: where masks by multiplication go wrong."""

    def __init__(self) -> None:
        super().__init__(ARMS, seed=3)
        self.rewards = self.rewards - self.rewards.max() - 0.5
        self.ratios = self.policy.sequence_logps().detach() - self.ref


def groups(num: int, k: int) -> Tensor:
    """Every way in which `num` prompts may get `k` arms each: [ways, num, k]."""
    return torch.tensor(list(product(range(ARMS.vocab), repeat=num * k))).view(-1, num, k)


def judged(world: Bandit, arms: Tensor, passes: Tensor) -> Judged:
    """Prompts whose answers are these arms, [P, K]; the first prompt's baseline is the first arm, and so on."""
    num = len(arms)
    return Judged(world.rewards[arms], passes[arms], world.ratios[arms], world.rewards[:num], passes[:num])


def exact_mean(world: Bandit, weigh: Callable[[Judged], Tensor], passes: Tensor, *, num: int, k: int) -> Tensor:
    """Expected gradient of the sum of weights * log pi(y), over all answers to `num` prompts."""
    logp, ways = world.policy.sequence_logps(), groups(num, k)
    chances = logp.detach()[ways].sum((1, 2)).exp()
    weights = torch.stack([weigh(judged(world, arms, passes)) for arms in ways])
    answers = torch.cat([logp[ways], logp[:num].expand(len(ways), num)[..., None]], 2)
    total = (chances[:, None, None] * weights * answers).sum()
    return torch.autograd.grad(total, world.policy.logits)[0].flatten()


def policy_gradients() -> Iterator[Result]:
    """CRPG."""
    world, free = Bandit(), torch.ones(5, dtype=torch.bool)
    says = "(1 - 1/n) times the gradient of E sigma(r - baseline)"
    worth = torch.stack([calibrated(world.rewards[None], world.rewards[i][None])[0] for i in range(2)]).mean(0)
    target = world.exact_gradient(lambda logp: (logp.exp() * worth).sum())
    for kl_max in (torch.inf, 1e12):
        found = exact_mean(world, partial(crpg, kl_max=kl_max), free, num=2, k=2)
        yield Result(f"crpg, no judges, kl_max {kl_max:g}", says, off(found, (1 - 1 / 4) * target), TIGHT)
    yield Result("crpg taken for unbiased", says, off(found, target), TIGHT, wrong=True)

    says = "its published definition, enumerated"
    found = exact_mean(world, partial(crpg, kl_max=KL_MAX), PASSES, num=1, k=K)
    logp = world.policy.sequence_logps()
    ratio, plain = world.ratios, torch.sigmoid(world.rewards - world.rewards[0])

    def published(worth: Tensor) -> Tensor:
        return (1 - 1 / K) * torch.autograd.grad((logp.detach().exp() * worth * logp).sum(), world.policy.logits,
                                                 retain_graph=True)[0].flatten()  # fmt: skip

    factor = torch.tensor([max(1 - x / KL_MAX, 0.0) for x in ratio.tolist()], dtype=torch.float64)
    expected = published(factor * plain * PASSES)
    yield Result("crpg, judges and kl_max", says, off(found, expected), TIGHT)
    penalised = published((plain - ratio / KL_MAX) * PASSES)
    yield Result("crpg with the KL subtracted", says, off(found, penalised), TIGHT, wrong=True)
    moving = (1 - (logp - world.ref) / KL_MAX).clamp(min=0) * plain * PASSES
    through = torch.autograd.grad((logp.detach().exp() * moving).sum(), world.policy.logits)[0].flatten()
    wrong = off(expected + (1 - 1 / K) * through, expected)
    yield Result("crpg with a gradient through its reward", says, wrong, TIGHT, wrong=True)
    some = exact_mean(world, lambda j: -crpg(j, kl_max=KL_MAX), PASSES, num=1, k=K)
    yield Result("crpg with the sign turned", says, off(some, expected), TIGHT, wrong=True)


def rewards() -> Iterator[Result]:
    """The calibrated and the regularised reward."""
    generator = torch.Generator().manual_seed(0)
    r, base = (torch.randn(size, dtype=torch.float64, generator=generator) for size in ((64, 4), (64,)))
    found = calibrated(r, base)
    shift = 10 * torch.randn(64, dtype=torch.float64, generator=generator)
    moved = float((calibrated(r + shift[:, None], base + shift) - found).abs().max())
    yield Result("calibrated reward", "blind to what a prompt adds", moved, TIGHT)
    unmoved = float((torch.sigmoid(r + shift[:, None]) - torch.sigmoid(r)).abs().max())
    yield Result("sigma(r) without the baseline", "blind to what a prompt adds", unmoved, TIGHT, wrong=True)
    same = float((calibrated(base[:, None], base) - 0.5).abs().max())
    yield Result("calibrated reward of the baseline", "1/2", same, TIGHT)
    yield Result("calibrated reward", "in (0, 1)", float(((found <= 0) | (found >= 1)).sum()), 0.0)
    every = torch.ones_like(r, dtype=torch.bool)
    at = Judged(r, every, torch.zeros_like(r), base, every[:, 0])
    yield Result(
        "crpg's factor at the reference", "1", float((regularised(at, kl_max=KL_MAX) - found).abs().max()), 0.0
    )
    far = regularised(at._replace(log_ratios=KL_MAX + r.abs()), kl_max=KL_MAX)
    yield Result("crpg's factor beyond kl_max", "0", float(far.abs().max()), 0.0)
    none = at._replace(satisfied=~every, baseline_satisfied=~every[:, 0])
    left = [crpg(none, kl_max=KL_MAX), crraft(none, kl_max=KL_MAX), best_and_worst(none) + 1]
    yield Result("crpg, crraft, codpo, all violated", "no gradient", max(float(x.abs().max()) for x in left), 0.0)


def best_of_n() -> Iterator[Result]:
    """CRRAFT's law of what is learnt from: that of RAFT, the best of K, among those allowed."""
    world = Bandit()
    probs = world.policy.sequence_logps().detach().exp()
    free = torch.ones(5, dtype=torch.bool)

    def law(choose: Callable[[Judged], Tensor], passes: Tensor) -> Tensor:
        """Probability of each arm to be learnt from, then of the baseline, then of none."""
        found = torch.zeros(7, dtype=torch.float64)
        for arms in groups(1, K):
            taken = choose(judged(world, arms, passes)).nonzero()
            place = 6 if not len(taken) else 5 if int(taken[0, 1]) == K else int(arms[0, taken[0, 1]])
            found[place] += probs[arms].prod()
        return found

    def closed(allowed: Tensor, baseline: bool) -> Tensor:
        """F(r)^K - F(r-)^K with what is not allowed below all else."""
        below, found = float(probs[~allowed].sum()), torch.zeros(7, dtype=torch.float64)
        found[5 if baseline else 6] = below**K
        for arm in [a for a in world.rewards.argsort().tolist() if allowed[a]]:
            found[arm] = (below + float(probs[arm])) ** K - below**K
            below += float(probs[arm])
        return found

    raft = float((law(crraft, free) - closed(free, True)).abs().max())
    yield Result("crraft, no judges, kl_max inf", "RAFT: F(r)^K - F(r-)^K", raft, TIGHT)
    says = "the best of those allowed, else the baseline"
    target = closed(PASSES & (world.ratios <= KL_MAX), True)
    found = law(partial(crraft, kl_max=KL_MAX), PASSES)
    yield Result("crraft, judges and kl_max", says, float((found - target).abs().max()), TIGHT)
    for name, choose in (
        ("argmax(ok * r), rewards below zero", lambda j: F.one_hot((j.satisfied * j.rewards).argmax(1), K + 1)),
        ("crraft with a ratio of logs", partial(_ratio_of_logs, world)),
    ):
        yield Result(name, says, float((law(choose, PASSES) - target).abs().max()), TIGHT, wrong=True)


def _ratio_of_logs(world: Bandit, j: Judged) -> Tensor:
    """As the paper prints the filter: log pi / log ref <= KL_max."""
    logp, arms = world.policy.sequence_logps().detach(), [int((world.rewards == r).nonzero()) for r in j.rewards[0]]
    return crraft(j._replace(log_ratios=(logp[arms] / world.ref[arms])[None]), kl_max=KL_MAX)


def pairs() -> Iterator[Result]:
    """CODPO against best-against-worst online DPO, and against its text."""
    world, free, beta = Bandit(), torch.ones(5, dtype=torch.bool), 0.3
    logp = world.policy.sequence_logps()
    probs = logp.detach().exp()

    def mean(loss: Callable[[PairLogps], Tensor], choose: Callable[[Judged], Sequence[int]], passes: Tensor) -> Tensor:
        chances, found = list[Tensor](), list[Tensor]()
        for arms in groups(1, K):
            places = list(choose(judged(world, arms, passes)))
            if min(places) >= 0:
                chances.append(probs[arms].prod())
                found.append(arms[0, places])
        two, one = torch.stack(found), torch.ones(len(found))
        chosen, rejected = two.unbind(1)
        pair = PairLogps(logp[chosen], logp[rejected], world.ref[chosen], world.ref[rejected], one, one)
        total = (torch.stack(chances) * loss(pair)).sum()
        return torch.autograd.grad(total, world.policy.logits, retain_graph=True)[0].flatten()

    def ours(j: Judged) -> list[int]:
        return best_and_worst(j)[0].tolist()

    def extremes(j: Judged) -> list[int]:
        best, worst = int(j.rewards.argmax()), int(j.rewards.argmin())
        return [best, worst] if best != worst else [-1, -1]

    def by_text(j: Judged) -> list[int]:
        good = [i for i in range(K) if j.satisfied[0, i]]
        bad = [i for i in range(K) if i not in good] or list(range(K))
        two = [max(good or [0], key=lambda i: j.rewards[0, i]), min(bad, key=lambda i: j.rewards[0, i])]
        return two if good and two[0] != two[1] else [-1, -1]

    plain = partial(codpo, beta=beta, lam=0.0)
    online = mean(partial(dpo, beta=beta), extremes, free)
    says = "online DPO, best against worst"
    yield Result("codpo, lambda 0, a judge that passes all", says, off(mean(plain, ours, free), online), TIGHT)
    climbing = mean(lambda pair: -plain(pair), ours, free)
    yield Result("codpo as printed, a descent on its objective", says, off(climbing, online), TIGHT, wrong=True)
    says, whole = "best that passes against worst violator", partial(codpo, beta=beta, lam=0.2)
    target = mean(whole, by_text, PASSES)
    yield Result("codpo", says, off(mean(whole, ours, PASSES), target), TIGHT)

    def multiplied(j: Judged) -> list[int]:
        return [int((j.satisfied * j.rewards).argmax()), int((~j.satisfied * (j.rewards + 10)).argmin())]

    yield Result(
        "codpo, masks by multiplication", says, off(mean(whole, multiplied, PASSES), target), TIGHT, wrong=True
    )


def judges() -> Iterator[Result]:
    """Positive when every judge passes, in whatever order they are asked."""
    missed = counted = 0
    for verdicts in product((0.0, 1.0), repeat=3):
        orders = [Score(0.0, {f"{JUDGE}{i}": verdicts[i] for i in order}) for order in permutations(range(3))]
        missed += sum(satisfied(score) != (sum(verdicts) == 3) for score in orders)
        counted += any(verdicts) != all(verdicts)
    yield Result("judges, in any order", "all of them pass", float(missed), 0.0)
    yield Result("judges as Algorithm 1 prints them, one passes", "all of them pass", float(counted), 0.0, wrong=True)


def tasks() -> Iterator[Result]:
    """The update of several tasks is the sum of their gradients, each with its weight."""
    policy = TablePolicy(TREE, random_logits(TREE, 61))
    parts = []
    for seed in (62, 63):
        batch = collate([[row] for row in TREE.rows()])
        parts.append(Part(batch.with_weights(answer=random_rewards(TREE, seed)), likelihood))
    alone = [gradient(policy, part) for part in parts]
    together = gradient(policy, of_task("a", 2.0, parts[0]), of_task("b", 0.5, parts[1]))
    yield Result("cgpo, two tasks", "sum of weights * gradients", off(together, 2 * alone[0] + 0.5 * alone[1]), TIGHT)


RULES: tuple[dict[str, Any], ...] = ({"name": "forbidden", "words": ["2"]}, {"name": "required", "text": "1"})
EITHER = ({"name": "clew.oracles.cgpo:either"},)


def either(prompts: Sequence[str], completions: Sequence[str]) -> list[bool]:
    """The judges of the tree with OR in place of AND."""
    return ["2" not in c or "1" in c for c in completions]


def on_a_tree() -> Iterator[Result]:
    """The recipe: in the limit no violator is left, and of those that pass the best has all."""
    violates = torch.tensor([2 in s or 1 not in s for s in SMALL.sequences])
    truth = random_rewards(SMALL, 71) - 4 + 2 * violates
    free, says = {"kl_max": torch.inf}, "no mass on violators"
    for name, options in (("crpg", free), ("crraft", free), ("codpo", {"beta": 0.1, "lam": 0.1})):
        probs = _trained(truth, RULES, {"name": name, **options}).sequence_logps().detach().exp()
        yield Result(f"recipe cgpo: {name}", says, float(probs[violates].sum()), 1e-2)
        best = truth.masked_fill(violates, -torch.inf).argmax()
        yield Result(f"recipe cgpo: {name}", "all mass on the best that passes", 1 - float(probs[best]), 3e-2)
    probs = _trained(truth, EITHER, {"name": "crpg", **free}).sequence_logps().detach().exp()
    yield Result("recipe cgpo, OR in place of AND", says, float(probs[violates].sum()), 1e-2, wrong=True)


def _trained(truth: Tensor, rules: Sequence[dict[str, Any]], optimiser: dict[str, Any]) -> TablePolicy:
    reference = TablePolicy(SMALL, random_logits(SMALL, 72))
    policy = TablePolicy(SMALL, reference.logits.detach())
    choice = Choice.model_validate(optimiser)
    task = Task(data=NOWHERE, reward=[{"model": ""}], judges=rules, optimiser=choice, prompts=16, answers=4)  # type: ignore[arg-type]
    config = CGPO(out="", model="", tasks={"tree": task}, steps=60, max_tokens=SMALL.depth, learner=STEEP)

    def score(rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(float(truth[SMALL.index[tuple(r.tokens[1:])]])) for r in rollouts]

    engine = WithBaseline(TableEngine(policy), one_sample(TableEngine(reference), 0))
    prompts = [Prompt(str(i), (SMALL.start,), "") for i in range(task.prompts)]
    world = World(task, prompts, engine, judged_reward(score, task.judges))
    train(policy, reference, {"tree": world}, config, Rehearsal())  # type: ignore[arg-type]
    return policy


def checks() -> Iterator[Result]:
    for part in (policy_gradients, rewards, best_of_n, pairs, judges, tasks, on_a_tree):
        yield from part()
