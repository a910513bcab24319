"""The recipes themselves, their own loops and learners, on enumerable worlds: sampled, shuffled, cut into batches."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clew.batch import Batch, Metric, Outputs, Term, evaluate, token_weights
from clew.config import Choice
from clew.data.chat import Encoded
from clew.data.collate import collate, pad
from clew.data.formats import Example
from clew.data.sources import Source
from clew.feedback.aggregate import Outcome, bradley_terry
from clew.feedback.raters import honest, length_biased
from clew.feedback.records import Item, Task
from clew.judges.score import RewardSource
from clew.learn.learner import Learner, Optimiser, Part
from clew.learn.trust_region import TrustRegion
from clew.losses.token import nll
from clew.models.remembered import Remembered
from clew.oracles import exact
from clew.oracles.result import Result
from clew.oracles.worlds import (
    TableEngine,
    TablePolicy,
    TableReward,
    TableValue,
    Tree,
    random_logits,
    random_rewards,
    total_variation,
)
from clew.policy_gradient import PTX, Critic
from clew.recipes import preference, pretrain, reward, rl, sft
from clew.runs import State, Step
from clew.shaping import KL
from clew.types import Prompt, Reward, Rollout, Sampling, Score

TREE = Tree(3, 3)
BETA = 0.5
FAST = Optimiser(lr=0.05, schedule="linear", clip=100.0, max_tokens=1 << 30)
FASTER = Optimiser(lr=0.1, schedule="linear", clip=100.0, max_tokens=1 << 30)
FASTEST = Optimiser(lr=0.2, schedule="linear", clip=100.0, max_tokens=1 << 30)
SLOW: dict[str, Any] = {"steps": 200, "learner": FAST}
NOWHERE = Source(path="an enumerable world")


def choice(name: str, **options: float) -> Choice:
    return Choice.model_validate({"name": name, **options})


class Rehearsal:
    """A run that leaves nothing on disk."""

    def __init__(self) -> None:
        self.ledger: Counter[str] = Counter()
        self.history: list[Mapping[str, float]] = []

    def account(self, *spent: Mapping[str, float]) -> None: ...

    def steps(self, total: int, state: State, *, save_every: int, keep: int | None) -> Iterator["RehearsedStep"]:
        for number in range(total):
            step = RehearsedStep(number)
            yield step
            self.history.append(step.metrics)


class RehearsedStep(Step):
    def __init__(self, number: int) -> None:
        self.number = number
        self.is_saved = False
        self.metrics: dict[str, float] = {}

    def journal(self, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return compute()

    def samples(self, records: Sequence[Mapping[str, Any]]) -> None: ...


def imitation() -> Iterator[Result]:
    """sft and pretrain end at the distribution of their data."""
    counts = np.random.default_rng(0).integers(1, 9, size=len(TREE.sequences))
    data = [row for row, n in zip(TREE.rows(), counts, strict=True) for _ in range(n)]
    target = torch.tensor(counts / counts.sum()).log()
    says = "the distribution of the data"
    shared: dict[str, Any] = {"out": "", "data": NOWHERE, "batch": len(data), "learner": FASTER}
    policy = TablePolicy(TREE)
    sft.train(policy, data, [], sft.SFT(model="", steps=200, **shared), Rehearsal())
    yield Result("recipe sft", says, total_variation(policy.sequence_logps(), target), 2e-3)
    policy = TablePolicy(TREE)
    pretrain.train(policy, data, pretrain.Pretrain(steps=200, **shared), Rehearsal())
    yield Result("recipe pretrain", says, total_variation(policy.sequence_logps(), target), 2e-3)

    # Half as many optimiser steps with the two halves of the data as micro-batches, averaged the wrong way.
    policy = TablePolicy(TREE)
    _train_with_mean_per_micro_batch(policy, data)
    yield Result("mean per micro-batch", says, total_variation(policy.sequence_logps(), target), 2e-3, wrong=True)
    policy = TablePolicy(TREE)
    shifted = [Encoded(r.tokens, [False, *r.mask[:1], *r.mask[1:-1]], True) for r in data]
    late = [row for row in shifted if any(row.mask)]
    sft.train(policy, late, [], sft.SFT(model="", steps=200, **shared), Rehearsal())
    yield Result("mask one token late", says, total_variation(policy.sequence_logps(), target), 2e-3, wrong=True)


def preferences() -> Iterator[Result]:
    """preference and reward, on all pairs of answers weighed by how often they are drawn and judged so."""
    reference = TablePolicy(TREE, random_logits(TREE, 1))
    ref, truth = reference.sequence_logps().detach(), random_rewards(TREE, 2)
    judged, rows = exact.bradley_terry(truth), TREE.rows()
    items: list[tuple[Example, list[Encoded]]] = [
        (Example("", "", ranks=(0, 1), weight=float(judged[i, j])), [rows[i], rows[j]])
        for i in range(len(rows))
        for j in range(len(rows))
        if i != j
    ]
    shared: dict[str, Any] = {
        "out": "",
        "model": "",
        "data": NOWHERE,
        "batch": len(items),
        "epochs": 200,
        "learner": FASTER,
    }
    for name, target, says in (
        ("dpo", exact.rlhf_optimum(ref, truth, BETA), "ref exp(r / beta)"),
        ("ipo", exact.ipo_optimum(ref, torch.full_like(ref, 1 / len(ref)), judged, BETA), "ref exp(p / tau)"),
    ):
        policy = TablePolicy(TREE, reference.logits.detach())
        options = {"beta": BETA} if name == "dpo" else {"tau": BETA}
        config = preference.Preference(loss=choice(name, **options), **shared)
        preference.train(policy, Remembered(reference, max_tokens=1 << 30), items, [], config, Rehearsal())
        yield Result(f"recipe preference, {name}", says, total_variation(policy.sequence_logps(), target), 2e-3)

    model = TableReward(TREE)
    reward.train(model, items, [], reward.RewardConfig(**shared), Rehearsal())
    found = model.table.detach()
    miss = float(((found - found.mean()) - (truth - truth.mean())).abs().max())
    yield Result("recipe reward", "the true reward, up to an offset", miss, 5e-3)


def reinforcement() -> Iterator[Result]:
    """rl, sampling from the policy as it learns; the gap is J* - J = beta KL(pi || pi*)."""
    reference = TablePolicy(TREE, random_logits(TREE, 21))
    ref, truth = reference.sequence_logps().detach(), random_rewards(TREE, 22)
    says = "J* - J = beta KL(pi || pi*)"

    def gap(policy: TablePolicy) -> float:
        return exact.gap_to_optimum(policy.sequence_logps(), ref, truth, BETA)

    in_reward = KL(coefficient=BETA)
    ppo: dict[str, Any] = {
        "critic": Critic(model="", learner=FASTER),
        "advantages": choice("gae", lam=0.95),
        "epochs": 2,
        "minibatches": 2,
        "steps": 60,
    }
    single: dict[str, Any] = {"group": 1, "loss": Choice(name="reinforce")}
    rloo: dict[str, Any] = {"group": 4, "advantages": Choice(name="leave_one_out")}
    yield Result("recipe rl: PPO, value model", says, gap(_trained(reference, truth, in_reward, **ppo)), 3e-3)
    a2c = _trained(reference, truth, in_reward, critic=ppo["critic"], advantages=choice("gae", lam=1.0), **single)
    yield Result("recipe rl: A2C, one step", says, gap(a2c), 3e-3)
    yield Result("recipe rl: RLOO", says, gap(_trained(reference, truth, in_reward, **rloo)), 3e-3)
    in_loss = KL(coefficient=BETA, place="loss", loss="reverse")
    yield Result("recipe rl: RLOO, KL in the loss", says, gap(_trained(reference, truth, in_loss, **rloo)), 3e-3)
    baseline = _trained(reference, truth, in_reward, advantages=Choice(name="batch_mean"), **single)
    yield Result("recipe rl: REINFORCE with baseline", says, gap(baseline), 3e-3)
    for name, more in (("ReMax", "minus_greedy"), ("REINFORCE++", "to_go")):
        policy = _trained(reference, truth, in_reward, advantages=Choice(name=more), **single)
        yield Result(f"recipe rl: {name}", says, gap(policy), 3e-3)
    natural = TrustRegion(max_kl=0.01, iterations=5)
    trpo = _trained(reference, truth, in_reward, trust_region=natural, steps=60, **rloo)
    yield Result("recipe rl: TRPO", says, gap(trpo), 3e-3)
    dr_grpo: dict[str, Any] = {"group": 4, "advantages": Choice(name="group_mean"), "averaging": "fixed"}
    yield Result("recipe rl: Dr. GRPO", says, gap(_trained(reference, truth, in_reward, **dr_grpo)), 3e-3)

    arms = Tree(5, 1)
    start, worth = TablePolicy(arms, random_logits(arms, 31)), random_rewards(arms, 32)
    forward = KL(coefficient=BETA, place="loss", loss="forward")
    policy = _trained(start, worth, forward, **rloo)
    target = exact.forward_kl_optimum(start.sequence_logps().detach(), worth, BETA)
    miss = total_variation(policy.sequence_logps(), target)
    yield Result("recipe rl: k3 in the loss, bandit", "argmax E r - beta KL(ref || pi)", miss, 2e-2)

    free = KL(coefficient=0.0)
    for name, more in (
        ("GRPO", {"averaging": "sequence"}),
        ("DAPO", {"averaging": "token", "loss": choice("clipped", low=0.2, high=0.28), "draws": 2}),
        ("GSPO", {"averaging": "sequence", "ratio": "sequence"}),
    ):
        normalised = {"group": 8, "advantages": Choice(name="group_normalised"), "learner": FASTEST, **more}
        policy = _trained(reference, truth, free, **normalised)
        lost = 1 - float(policy.sequence_logps().detach().exp()[truth.argmax()])
        yield Result(f"recipe rl: {name}, no KL", "all mass on the best answer", lost, 2e-2)

    yield Result(
        "rl without its KL, as if it had one", says, gap(_trained(reference, truth, free, **rloo)), 3e-3, wrong=True
    )


def step_0() -> Iterator[Result]:
    """What is checked before the first step of every real run, and what it refuses."""
    policy = TablePolicy(TREE, random_logits(TREE, 51))
    prompts = [Prompt(str(i), (TREE.start,), "") for i in range(64)]
    for name, drawn_at in (("importance ratio at step 0", None), ("rollouts of another temperature", 1.5)):
        engine = TableEngine(policy, drawn_at=drawn_at)
        rollouts = engine.generate(prompts, n=1, sampling=Sampling(TREE.depth), key=(0, 0))
        logps = evaluate(policy, collate([[r] for r in rollouts]), max_tokens=1 << 30).logps
        assert logps is not None
        gap = float((logps - pad([r.logps for r in rollouts], 0.0)).abs().max())
        yield Result(name, "log-ratio 0", gap, 1e-5, wrong=drawn_at is not None)


def controllers() -> Iterator[Result]:
    """Steered to a KL, the rollouts have it: mean over the last quarter of the steps."""
    arms, target = Tree(5, 1), 0.4
    reference, truth = TablePolicy(arms, random_logits(arms, 31)), random_rewards(arms, 32)
    for controller in ("adaptive", "dual"):
        steered = KL(coefficient=0.3, target=target, controller=controller, horizon=4000.0)
        run = Rehearsal()
        _trained(reference, truth, steered, run, group=4, advantages=Choice(name="leave_one_out"), **SLOW)
        late = [float(step["objective/kl"]) for step in run.history[-50:]]
        yield Result(f"KL controller, {controller}", "KL(pi || ref) = target", abs(float(np.mean(late)) - target), 0.04)


def _trained(
    reference: TablePolicy,
    truth: Tensor,
    kl: KL,
    run: Rehearsal | None = None,
    *,
    drawn_at: float | None = None,
    **more: Any,
) -> TablePolicy:
    """A policy after 100 steps of the recipe or as many as are asked for, 256 rollouts a step."""
    tree = reference.tree
    policy = TablePolicy(tree, reference.logits.detach())
    config = rl.RL(
        out="", model="", data=NOWHERE, reward=(RewardSource(model=""),), max_tokens=tree.depth, kl=kl,
        prompts=256 // more.get("group", 1), **{"learner": FASTER, "steps": 100, **more},
    )  # fmt: skip
    critic = TableValue(tree) if config.critic else None
    engine = TableEngine(policy, drawn_at=drawn_at)
    prompts = [Prompt(str(i), (tree.start,), "") for i in range(config.prompts)]
    rl.train(policy, reference, critic, engine, _table_reward(tree, truth), prompts, [], config, run or Rehearsal())
    return policy


def _table_reward(tree: Tree, truth: Tensor) -> Reward:
    def score(rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(float(truth[tree.index[tuple(r.tokens[1:])]])) for r in rollouts]

    return score


def continued_pretraining() -> Iterator[Result]:
    """PPO-ptx: both terms in one update end where the sum of both objectives does."""
    arms, gamma = Tree(5, 1), 0.7
    reference = TablePolicy(arms, random_logits(arms, 31))
    ref, truth = reference.sequence_logps().detach(), random_rewards(arms, 32)
    counts = torch.tensor([6, 1, 3, 2, 4])
    share = counts / counts.sum()

    direct = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([direct], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        logp = direct.log_softmax(0)
        loss = -exact.rlhf_objective(logp, ref, truth, BETA) - gamma * (share * logp).sum()
        loss.backward()
        return loss

    solver.step(closure)  # type: ignore[arg-type]
    target = direct.detach().log_softmax(0)
    texts = [row for row, n in zip(arms.rows(), counts.tolist(), strict=True) for _ in range(n)]
    policy = TablePolicy(arms, reference.logits.detach())
    config = rl.RL(
        out="", model="", data=NOWHERE, reward=(RewardSource(model=""),), steps=150, prompts=64, group=4, max_tokens=1,
        advantages=Choice(name="leave_one_out"), kl=KL(coefficient=BETA), learner=FASTER,
        ptx=PTX(data=NOWHERE, coefficient=gamma, batch=len(texts)),
    )  # fmt: skip
    prompts = [Prompt(str(i), (arms.start,), "") for i in range(64)]
    rl.train(
        policy, reference, None, TableEngine(policy), _table_reward(arms, truth), prompts, texts, config, Rehearsal()
    )  # type: ignore[arg-type]
    miss = total_variation(policy.sequence_logps(), target)
    yield Result("recipe rl: PPO-ptx", "argmax E r - beta KL + gamma E log pi", miss, 2e-2)


def labelling() -> Iterator[Result]:
    """Raters on a known gold reward, aggregated: honest ones give it back, biased ones their bias."""
    texts = ["a", "b b", "c c c", "d d d d"]
    gold = dict(zip(texts, (0.3, -0.5, 0.4, -0.2), strict=True))
    items = {t: Item(prompt="p", completion=t) for t in texts}
    worth = {items[t].id: gold[t] for t in texts}
    rng = np.random.default_rng(0)

    def aggregated(rater: Any) -> Tensor:
        judged: list[Outcome] = []
        for _ in range(6000):
            a, b = (items[texts[i]] for i in rng.choice(4, size=2, replace=False))
            task = Task(kind="comparison", prompt="p", items=(a.id, b.id))
            answer = rater.judge(task, [a, b], worth, rng).answer
            judged.append(Outcome(a.id, b.id, answer.probability))
        strengths = bradley_terry(judged)
        return torch.tensor([strengths[items[t].id] for t in texts])

    truth = torch.tensor([gold[t] for t in texts])
    found = aggregated(honest("h", sharpness=2.0)) / 2.0
    miss = float(((found - found.mean()) - (truth - truth.mean())).abs().max())
    yield Result("label, bradley_terry, honest raters", "the gold reward", miss, 0.06)
    biased = aggregated(length_biased("l", weight=0.2, sharpness=2.0)) / 2.0
    missed = float(((biased - biased.mean()) - (truth - truth.mean())).abs().max())
    yield Result("length-biased raters taken for honest", "the gold reward", missed, 0.06, wrong=True)


def micro_batches() -> Iterator[Result]:
    """The learner's gradient is one number, however the batch is cut."""
    policy = TablePolicy(TREE, random_logits(TREE, 41))
    batch = collate([[row] for row in TREE.rows()])
    batch = batch.with_weights(token=token_weights(batch.mask, "token"))
    whole, cut = (_accumulated(policy, batch, budget) for budget in (1 << 30, 7))
    yield Result("learner, any split into micro-batches", "the same gradient", float((whole - cut).abs().max()), 1e-10)
    parts = [_accumulated(policy, _reweighed(part), 1 << 30) for part in batch.split(7)]
    wrong = float((whole - torch.stack(parts).mean(0)).abs().max())
    yield Result("mean of each micro-batch's mean", "the same gradient", wrong, 1e-10, wrong=True)


def _accumulated(policy: TablePolicy, batch: Batch, budget: int) -> Tensor:
    policy.zero_grad()
    Learner(policy, Optimiser(max_tokens=budget), total_steps=1).accumulate(Part(batch, sft.objective))
    assert policy.logits.grad is not None
    return policy.logits.grad.clone()


def _reweighed(batch: Batch) -> Batch:
    return batch.with_weights(token=token_weights(batch.mask, "token"))


def _train_with_mean_per_micro_batch(policy: TablePolicy, data: list[Encoded]) -> None:
    learner = Learner(policy, FAST, total_steps=400)
    by_length = sorted(data, key=lambda row: len(row.tokens))
    halves = [by_length[: len(data) // 4], by_length[len(data) // 4 :]]

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.logps is not None
        return [Term("nll", nll(outputs.logps), "token", 0.5)], []

    for _ in range(400):
        learner.step(*(Part(_reweighed(collate([[row] for row in half])), objective) for half in halves))


def checks() -> Iterator[Result]:
    yield from micro_batches()
    yield from step_0()
    yield from imitation()
    yield from preferences()
    yield from reinforcement()
    yield from controllers()
    yield from continued_pretraining()
    yield from labelling()
