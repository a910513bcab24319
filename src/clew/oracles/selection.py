"""Sampling and filtering held to the law of the best of n: the filters by enumeration, and the recipe's own loop."""

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clew.constrained import likelihood
from clew.data.collate import collate
from clew.judges.score import RewardSource
from clew.learn.learner import Optimiser, Part
from clew.oracles import exact
from clew.oracles.exact import best_of_n_bound as bound
from clew.oracles.recipes import NOWHERE, Rehearsal
from clew.oracles.result import Result, gradient, minimise
from clew.oracles.worlds import (
    TableEngine,
    TablePolicy,
    Tree,
    random_logits,
    random_rewards,
    total_variation,
)
from clew.recipes import reject
from clew.selection import Candidates, at_least, best, normalised, selected
from clew.selection import exact as to_the_letter
from clew.types import Prompt, Rollout, Score

ARMS, TREE = Tree(4, 1), Tree(3, 2)
TIGHT = 1e-9
NEAR = 0.06
"""Of 1500 samples a round."""
FAST = Optimiser(lr=0.5, schedule="constant", betas=(0.5, 0.9), eps=1e-3, clip=100.0, max_tokens=1 << 30)

Kept = Callable[[Candidates], Sequence[int]]


def law_of(kept: Kept, logp: Tensor, rewards: Sequence[float], n: int) -> Tensor:
    """Log-share of each arm among what is kept of n draws: over all tuples, and all orders of their tie-breakers."""
    probs, mass = logp.exp().tolist(), np.zeros(len(logp))
    for arms in product(range(len(probs)), repeat=n):
        chance = np.prod([probs[a] for a in arms])
        orders = list(permutations(range(n)))
        for ties in orders:
            worth = np.array([rewards[a] for a in arms])
            for place in kept(Candidates(["p"] * n, [str(a) for a in arms], worth, np.array(ties) / n)):
                mass[arms[place]] += chance / len(orders)
    return torch.tensor(mass / mass.sum()).log()


def filters() -> Iterator[Result]:
    """What is kept of three draws on a bandit with a tie."""
    logp, n = TablePolicy(ARMS, random_logits(ARMS, 71)).sequence_logps().detach(), 3
    distinct, tied = [0.3, -0.4, 1.2, 0.1], [1.0, 0.0, 1.0, 1.0]
    says = "F(r)^n - F(r-)^n"

    def off(kept: Kept, rewards: Sequence[float]) -> float:
        found = law_of(kept, logp, rewards, n)
        return total_variation(found, exact.best_of_n(logp, torch.tensor(rewards, dtype=torch.float64), n))

    def ours(candidates: Candidates) -> list[int]:
        return selected(candidates, best)

    yield Result("filter best", says, off(ours, distinct), TIGHT)
    yield Result("filter best, ties", f"{says}, shared as the policy does", off(ours, tied), TIGHT)
    wrong = off(lambda c: ours(c._replace(ties=np.array([-float(t) for t in c.texts]))), tied)
    yield Result("the best of n, ties by the first arm", says, wrong, TIGHT, wrong=True)
    wrong = off(lambda c: selected(c, lambda every: _one_of_each(every, best)), tied)
    yield Result("the best of the distinct of n", says, wrong, TIGHT, wrong=True)

    correct = [0.0, 1.0, 1.0, 0.0]
    target = torch.where(torch.tensor(correct) > 0, logp, -torch.inf).log_softmax(0)
    says = "pi restricted to correct answers"
    found = law_of(lambda c: selected(c, at_least), logp, correct, n)
    yield Result("filter at_least (ReST-EM)", says, total_variation(found, target), TIGHT)
    found = law_of(lambda c: selected(c, at_least, to_the_letter), logp, correct, n)
    missed = total_variation(found, target)
    yield Result("distinct answers taken for all", says, missed, TIGHT, wrong=True)


def _one_of_each(candidates: Candidates, keep: Callable[[Candidates], Any]) -> list[bool]:
    first = {text: place for place, text in reversed(list(enumerate(candidates.texts)))}
    places = sorted(first.values())
    left = Candidates(
        [candidates.prompts[i] for i in places], [candidates.texts[i] for i in places], candidates.rewards[places],
        candidates.ties[places],
    )  # fmt: skip
    kept = {places[i] for i in np.flatnonzero(keep(left))}
    return [place in kept for place in range(len(candidates.texts))]


def abstentions() -> Iterator[Result]:
    """An answer without a reward is no answer: not one of reward 0, which is the best where the others are negative."""
    logp = TablePolicy(ARMS, random_logits(ARMS, 72)).sequence_logps().detach()
    rewards = [-1.0, float("nan"), -0.2, -2.0]
    lowest = torch.tensor([-torch.inf if np.isnan(r) else r for r in rewards], dtype=torch.float64)
    target = torch.where(lowest.isinf(), -torch.inf, exact.best_of_n(logp, lowest, 3)).log_softmax(0)
    says = "F(r)^n - F(r-)^n of answers with a reward"

    def ours(candidates: Candidates) -> list[int]:
        values = [None if np.isnan(r) else r for r in candidates.rewards]
        rollout = {"prompt_id": "p", "mask": [True], "text": "", "stop": "end"}
        records = [
            {"place": i, "rollout": rollout, "score": {"value": value}, "tie": tie}
            for i, (value, tie) in enumerate(zip(values, candidates.ties, strict=True))
        ]
        return [record["place"] for record in reject.chosen(records, configured(answers=3))]

    missed = total_variation(law_of(ours, logp, rewards, 3), target)
    yield Result("best of n, some without a reward", says, missed, TIGHT)
    masked = law_of(lambda c: selected(c._replace(rewards=np.nan_to_num(c.rewards)), best), logp, rewards, 3)
    yield Result("argmax(known * r)", says, total_variation(masked, target), TIGHT, wrong=True)


def divergence() -> Iterator[Result]:
    """How far the best of n is from the policy."""
    worst = 0.0
    for seed, n in product(range(20), (1, 2, 7)):
        logp = TablePolicy(TREE, random_logits(TREE, seed, 2.0)).sequence_logps().detach()
        worst = max(worst, float(exact.kl(exact.best_of_n(logp, random_rewards(TREE, seed), n), logp)) - bound(n))
    yield Result("KL(best of n || pi)", "at most log n - (n - 1) / n", max(0.0, worst), TIGHT)
    many, few, says = _even(2000), _even(10), "log n - (n - 1) / n"
    found = float(exact.kl(exact.best_of_n(many, torch.arange(2000.0), 4), many))
    yield Result("KL(best of 4 || pi), 2000 answers", says, abs(found - bound(4)), 1e-4)
    yield Result("log n taken for the KL", "KL(best of 4 || pi)", abs(np.log(4) - found), 1e-4, wrong=True)
    found = float(exact.kl(exact.best_of_n(few, torch.arange(10.0), 8), few))
    yield Result("the bound taken for the KL, 10 answers", says, abs(found - bound(8)), 1e-4, wrong=True)


def _even(num: int) -> Tensor:
    return torch.full((num,), -np.log(num), dtype=torch.float64)


def populations() -> Iterator[Result]:
    """What imitating all that would be kept comes to."""
    start, rewards = TablePolicy(TREE, random_logits(TREE, 73)), random_rewards(TREE, 74)
    logp = start.sequence_logps().detach()

    def imitated(weights: Tensor) -> Tensor:
        policy = TablePolicy(TREE, start.logits.detach())
        minimise(policy, part_of(weights))
        return policy.sequence_logps().detach()

    target, says = exact.best_of_n(logp, rewards, 4), "F(r)^K - F(r-)^K"
    yield Result("RAFT, a step of its population", says, total_variation(imitated(target.exp()), target), 1e-6)
    lengths = torch.tensor([len(s) for s in TREE.sequences])
    missed = total_variation(imitated(target.exp() / lengths), target)
    yield Result("RAFT, the mean over tokens of each answer", says, missed, 1e-6, wrong=True)
    says = "a fixed point"
    slope = gradient(TablePolicy(TREE, start.logits.detach()), part_of(exact.best_of_n(logp, rewards, 1).exp()))
    yield Result("RAFT, K = 1: self-distillation", says, float(slope.abs().max()), TIGHT)
    cold = TablePolicy(TREE, start.logits.detach() / 0.7).sequence_logps().detach()
    slope = gradient(TablePolicy(TREE, start.logits.detach()), part_of(cold.exp()))
    yield Result("self-distillation at temperature 0.7", says, float(slope.abs().max()), TIGHT, wrong=True)


def pools() -> Iterator[Result]:
    """The best of two rounds of K, the second from the best of K: by rewards that mean the same in both."""
    logp, rewards = TablePolicy(TREE, random_logits(TREE, 77)).sequence_logps().detach(), random_rewards(TREE, 78)
    first, second = exact.best_of_n(logp, rewards, 2), exact.best_of_n(logp, rewards, 4)
    target, says = exact.best_of_n(logp, rewards, 6), "F^K F^(K K)"

    def pooled(worth: Tensor, later: Tensor) -> Tensor:
        mass = torch.zeros_like(logp)
        for (i, p), (j, q) in product(enumerate(first.exp().tolist()), enumerate(second.exp().tolist())):
            values = np.array([float(worth[i]), float(later[j])])
            for ties in ((0.0, 0.5), (0.5, 0.0)):
                kept = selected(Candidates(["p"] * 2, ["", ""], values, np.array(ties)), best)
                mass[(i, j)[kept[0]]] += p * q / 2
        return mass.log()

    found = pooled(rewards, rewards)
    yield Result("the pool of two rounds (Llama 2)", says, total_variation(found, target), TIGHT)
    stale, fresh = (_whitened(rewards, law) for law in (logp, first))
    missed = total_variation(pooled(stale, fresh), target)
    yield Result("the pool, rewards whitened in each round", says, missed, TIGHT, wrong=True)
    yield Result("the newest round taken for the pool", says, total_variation(second, target), TIGHT, wrong=True)


def _whitened(rewards: Tensor, logp: Tensor) -> Tensor:
    mean = (logp.exp() * rewards).sum()
    return (rewards - mean) / (logp.exp() * (rewards - mean).square()).sum().sqrt()


def part_of(weights: Tensor) -> Part:
    """All sequences, imitated as much as they weigh: [N]."""
    return Part(collate([[row] for row in TREE.rows()]).with_weights(answer=weights), likelihood)


def laws() -> Iterator[Result]:
    """The selection of what is selected is the same, in whatever order the answers come."""
    says = "again, and in another order, the same"
    for name, keep in (("best", best), ("at_least", at_least)):
        for same in (to_the_letter, normalised):
            yield Result(
                f"{name}, distinct: {_name(same)}", says, _changed(lambda c, k=keep, s=same: selected(c, k, s, 2)), 0.05
            )
    yield Result("the first of equal answers kept", says, _changed(_first_of_equal), 0.05, wrong=True)


def _name(function: Callable[..., Any]) -> str:
    return function.__name__


def _first_of_equal(candidates: Candidates) -> list[int]:
    return [i for i, text in enumerate(candidates.texts) if text not in candidates.texts[:i]]


def _changed(kept: Kept) -> float:
    """In how many of 100 worlds the kept answers differ when shuffled, or when selected again."""
    rng, changed = np.random.default_rng(0), 0
    for _ in range(100):
        prompts, texts = rng.choice(["p", "q"], 12).tolist(), rng.choice(["a", "A", "b ", "b"], 12).tolist()
        given = Candidates(prompts, texts, rng.integers(0, 3, 12).astype(float), rng.random(12))
        places = kept(given)
        order = rng.permutation(12)
        moved = sorted(int(order[i]) for i in kept(_taken(given, order)))
        changed += sorted(places) != moved or len(kept(_taken(given, places))) < len(places)
    return changed / 100


def _taken(candidates: Candidates, places: Sequence[int] | np.ndarray) -> Candidates:
    texts, prompts = ([column[i] for i in places] for column in (candidates.texts, candidates.prompts))
    return Candidates(prompts, texts, candidates.rewards[list(places)], candidates.ties[list(places)])


def configured(**options: Any) -> reject.Reject:
    usual: dict[str, Any] = {"epochs": 12, "minibatches": 1, "learner": FAST, "max_tokens": TREE.depth}
    return reject.Reject(out="", model="", data=NOWHERE, reward=(RewardSource(model=""),), **(usual | options))


def trained(start: TablePolicy, truth: Tensor, **options: Any) -> Tensor:
    """Log-probabilities of a policy after the recipe's own loop on 1500 prompts."""
    tree, config = start.tree, configured(**options)
    policy = TablePolicy(tree, start.logits.detach())

    def reward(rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(float(truth[tree.index[tuple(r.tokens[1:])]])) for r in rollouts]

    sampler = TablePolicy(tree, start.logits.detach())
    sampler.temperature = config.temperature[0]
    prompts = [Prompt(str(i), (tree.start,), "") for i in range(1500)]
    again = TablePolicy(tree, start.logits.detach()) if config.restart else None
    reject.train(policy, sampler, again, TableEngine(policy), reward, prompts, config, Rehearsal())
    return policy.sequence_logps().detach()


def recipe() -> Iterator[Result]:
    """Round by round, from answers that the recipe samples; distances are those of so many samples."""
    start = TablePolicy(TREE, random_logits(TREE, 75))
    logp = start.sequence_logps().detach()
    truth = -logp  # the rarer the better

    def law(n: int, of: Tensor = logp) -> Tensor:
        return exact.best_of_n(of, truth, n)

    cold = TablePolicy(TREE, start.logits.detach() / 0.4).sequence_logps().detach()
    distilled = trained(start, truth, answers=4, temperature=0.4)
    says, miss = "F(r)^4 - F(r-)^4 of pi at that temperature", total_variation(distilled, law(4, cold))
    yield Result("recipe reject: best-of-n distillation, temperature 0.4", says, miss, NEAR)
    wrong = total_variation(distilled, law(4))
    yield Result("temperature 0.4 taken for 1", "F(r)^4 - F(r-)^4 of pi", wrong, NEAR, wrong=True)
    raft = trained(start, truth, answers=2, rounds=2)
    yield Result("recipe reject: RAFT, K = 2, 2 rounds", "F^4", total_variation(raft, law(4)), NEAR)
    pooled = trained(start, truth, answers=1, rounds=2, pool=True)
    yield Result("recipe reject: pool (Llama 2), K = 1, 2 rounds", "F F", total_variation(pooled, law(2)), NEAR)
    correct = truth > truth.median()
    expert = trained(start, correct.double(), answers=2, rounds=2, filter="at_least", restart=True)
    says, target = "pi restricted to correct answers", torch.where(correct, logp, -torch.inf).log_softmax(0)
    yield Result("recipe reject: ReST-EM, 2 rounds", says, total_variation(expert, target), NEAR)


def checks() -> Iterator[Result]:
    for part in (filters, abstentions, divergence, populations, pools, laws, recipe):
        yield from part()
