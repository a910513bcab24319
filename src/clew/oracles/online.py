"""Online and iterative DPO and SPIN on enumerable worlds: the recipe's own loop, and its populations pair by pair."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from clew.batch import Batch
from clew.data.collate import collate
from clew.judges.score import RewardSource
from clew.learn.learner import Optimiser, Part
from clew.losses.pair import PairLogps, dpo
from clew.oracles import exact
from clew.oracles.recipes import NOWHERE, Rehearsal, choice
from clew.oracles.result import Result, gradient, minimise
from clew.oracles.worlds import TableEngine, TablePolicy, Tree, random_logits, random_rewards, table_of, total_variation
from clew.pairwise import pair_objective
from clew.recipes import online
from clew.types import Prompt, Rollout, Score

TREE = Tree(3, 2)
BETA = 1.0
TIGHT = 1e-6
FAST = Optimiser(lr=0.05, schedule="linear", clip=100.0, max_tokens=1 << 30)
STEADY = Optimiser(lr=0.2, schedule="constant", betas=(0.5, 0.95), eps=1e-2, clip=100.0, max_tokens=1 << 30)
"""Near its goal, where gradients are below eps, plain gradient descent: it arrives within every round."""


def trained(
    reference: TablePolicy, truth: Tensor | None = None, data: Sequence[int] = (), **options: Any
) -> TablePolicy:
    """A policy after the recipe's own loop. `data`: how often each sequence is the data's answer."""
    tree = reference.tree
    policy, begun = TablePolicy(tree, reference.logits.detach()), TablePolicy(tree, reference.logits.detach())
    answers = [row for row, n in zip(tree.rows(), data, strict=False) for _ in range(n)] or [None] * 32
    tasks = [online.Task(Prompt(str(i), (tree.start,), ""), answer) for i, answer in enumerate(answers)]
    usual: dict[str, Any] = {"learner": STEADY} | ({} if truth is None else {"reward": (RewardSource(model=""),)})
    config = online.Online(
        out="", model="", data=NOWHERE, max_tokens=tree.depth, prompts=len(tasks),
        **(usual | options),
    )  # fmt: skip

    def reward(rollouts: Sequence[Rollout]) -> list[Score]:
        assert truth is not None
        return [Score(float(truth[tree.index[tuple(r.tokens[1:])]])) for r in rollouts]

    online.train(
        policy,
        begun if config.round else None,
        begun if config.anchor == "round" else reference,
        TableEngine(begun if config.sampler == "round" else policy),
        online.unjudged if truth is None else reward,
        tasks,
        config,
        Rehearsal(),
    )
    return policy


def population(tree: Tree, law: Tensor, ref: Tensor) -> Batch:
    """All ordered pairs of different sequences, the first chosen, weighed by `law` [N, N]."""
    rows, pairs = tree.rows(), list(permutations(range(len(tree.sequences)), 2))
    batch = collate([[rows[i], rows[j]] for i, j in pairs], ranks=[[0, 1]] * len(pairs))
    return batch.with_weights(item=torch.stack([law[pair] for pair in pairs])).with_extras(
        ref_logps=torch.stack([ref[i] for pair in pairs for i in pair]),
        agreement=torch.ones(len(pairs), dtype=torch.float64),
    )


def online_dpo() -> Iterator[Result]:
    """Sampling as a constant keeps DPO's optimum, whoever samples and however many answers the pair is chosen from."""
    reference, truth = TablePolicy(TREE, random_logits(TREE, 61)), random_rewards(TREE, 62)
    ref, judged = reference.sequence_logps().detach(), exact.bradley_terry(truth)
    target, says = exact.rlhf_optimum(ref, truth, BETA), "ref exp(r / beta)"
    loss = partial(dpo, beta=BETA)
    there = table_of(TREE, target)
    law = (target[:, None] + target[None, :]).exp() * judged
    slope = gradient(there, Part(population(TREE, law, ref), pair_objective(loss)))
    yield Result(
        "online dpo, pairs from the policy", "no gradient at ref exp(r / beta)", float(slope.abs().max()), 1e-9
    )

    def off(**options: Any) -> float:
        shared: dict[str, Any] = {"steps": 50, "loss": choice("dpo", beta=BETA), "label": "soft", **options}
        return total_variation(trained(reference, truth, **shared).sequence_logps(), target)

    drawn: dict[str, Any] = {"label": "drawn", "steps": 100, "learner": FAST}
    yield Result("recipe online, dpo, soft labels", says, off(), 2e-3)
    yield Result("recipe online, dpo, best of 4 against worst", says, off(answers=4), 2e-3)
    yield Result("recipe online, dpo, drawn labels", says, off(**drawn), 4e-2)
    yield Result("the higher score always chosen", says, off(label="best"), 4e-2, wrong=True)
    means = choice(f"{__name__}:dpo_of_means", beta=BETA)
    yield Result("online dpo, mean log-ratios", says, off(loss=means), 2e-3, wrong=True)
    missed = total_variation(_through_the_sampling_law(reference, judged, loss).sequence_logps(), target)
    yield Result("online dpo, gradient through the sampling law", says, missed, 2e-3, wrong=True)
    yield Result("online dpo, its reference silently moved", says, off(round=25, anchor="round"), 2e-3, wrong=True)


def dpo_of_means(pair: PairLogps, *, beta: float) -> Tensor:
    """What becomes of DPO when log-ratios are averaged over tokens."""
    gap = pair.chosen_ratio / pair.chosen_length - pair.rejected_ratio / pair.rejected_length
    return -torch.nn.functional.logsigmoid(beta * gap)


def _through_the_sampling_law(reference: TablePolicy, judged: Tensor, loss: partial[Tensor]) -> TablePolicy:
    """The minimum of the expected loss under pairs of the policy, as if it were to choose them well."""
    policy, ref = TablePolicy(reference.tree, reference.logits.detach()), reference.sequence_logps().detach()
    solver = torch.optim.LBFGS([policy.logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        logp = policy.sequence_logps()
        ratio = logp - ref
        value = torch.nn.functional.softplus(-loss.keywords["beta"] * (ratio[:, None] - ratio[None, :]))
        total = ((logp[:, None] + logp[None, :]).exp() * judged * value).sum()
        total.backward()
        return total

    solver.step(closure)  # type: ignore[arg-type]
    return policy


def iterative_dpo() -> Iterator[Result]:
    """Round by round: a reference that is kept ends where one round does, one that moves goes on by r / beta."""
    reference, truth = TablePolicy(TREE, random_logits(TREE, 63)), 0.5 * random_rewards(TREE, 64)
    ref, rounds = reference.sequence_logps().detach(), 2
    shared: dict[str, Any] = {
        "steps": 35 * rounds, "round": 35, "sampler": "round", "label": "soft", "loss": choice("dpo", beta=1.0),
    }  # fmt: skip
    kept = trained(reference, truth, **shared).sequence_logps()
    moved = trained(reference, truth, **shared, anchor="round").sequence_logps()
    once, often = (exact.rlhf_optimum(ref, n * truth, 1.0) for n in (1, rounds))
    yield Result("recipe online, iterative dpo, reference kept", "ref exp(r / beta)", total_variation(kept, once), 2e-3)
    yield Result(
        "recipe online, iterative dpo, reference moved", f"ref exp({rounds} r / beta), {rounds} rounds",
        total_variation(moved, often), 2e-3,
    )  # fmt: skip
    yield Result(
        "iterative dpo, a kept reference taken for a moved one", f"ref exp({rounds} r / beta)",
        total_variation(kept, often), 2e-3, wrong=True,
    )  # fmt: skip


def spin() -> Iterator[Result]:
    """A round's optimum is pi_t (p / pi_t)^(1 / lambda), since p(y) pi_t(y') are odds of Bradley-Terry kind."""
    start = TablePolicy(TREE, random_logits(TREE, 65))
    counts = [9, 3, 6, 12, 2, 8, 4]
    data = (torch.tensor(counts, dtype=torch.float64) / sum(counts)).log()

    def part(opponent: Tensor, ref: Tensor, lam: float) -> Part:
        law = (data[:, None] + opponent[None, :]).exp()
        return Part(population(TREE, law, ref), pair_objective(partial(dpo, beta=lam)))

    slope = gradient(table_of(TREE, data), part(data, data, 0.1))
    yield Result("spin at the data's distribution", "no gradient on average", float(slope.abs().max()), 1e-12)

    def after(rounds: int, lam: float, *, kept: bool = False) -> Tensor:
        policy, ref = TablePolicy(TREE, start.logits.detach()), start.sequence_logps().detach()
        for _ in range(rounds):
            opponent = policy.sequence_logps().detach()
            minimise(policy, part(opponent, ref if kept else opponent, lam))
        return policy.sequence_logps().detach()

    before, says = start.sequence_logps().detach(), "data (start / data)^(1/4): nearer every round"
    target = (data + (before - data) / 4).log_softmax(0)
    yield Result("spin, 2 rounds of their population, lambda 2", says, total_variation(after(2, 2.0), target), TIGHT)
    kept = total_variation(after(2, 2.0, kept=True), target)
    yield Result("spin, its reference kept", says, kept, TIGHT, wrong=True)
    policy = trained(
        start, None, counts, opponent="data", answers=3, steps=60, round=60, sampler="round", anchor="round",
        loss=choice("dpo", beta=1.0), learner=STEADY.model_copy(update={"schedule": "linear"}),
    )  # fmt: skip
    miss = total_variation(policy.sequence_logps(), data)
    yield Result("recipe online, spin, a round at lambda 1", "the distribution of the data", miss, 5e-2)


def checks() -> Iterator[Result]:
    yield from online_dpo()
    yield from iterative_dpo()
    yield from spin()
