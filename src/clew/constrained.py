"""What a policy learns from answers that were judged: groups of a prompt's answers, the last of them its baseline."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from clew.batch import Batch, Metric, Outputs, Term
from clew.data.collate import collate
from clew.data.example import Example
from clew.judges.constraints import JUDGE, satisfied
from clew.learn.learner import Part
from clew.losses.cgpo import Judged, best_and_worst, calibrated, codpo
from clew.pairwise import described, make_batch, pair_objective
from clew.types import Rollout, Score


def judged_of(rollouts: Sequence[Rollout], scores: Sequence[Score], refs: Mapping[int, Tensor], group: int) -> Judged:
    """Of groups of so many rollouts; `refs` is the reference's log-probability by a rollout's id."""
    rewards = torch.tensor([s.value for s in scores], dtype=torch.float32).view(-1, group)
    passed = torch.tensor([satisfied(s) for s in scores]).view(-1, group)
    ratios = torch.tensor([sum(r.logps) - float(refs[id(r)]) for r in rollouts], dtype=torch.float32).view(-1, group)
    return Judged(rewards[:, :-1], passed[:, :-1], ratios[:, :-1], rewards[:, -1], passed[:, -1])


def part_of(
    optimiser: partial[Tensor], rollouts: Sequence[Rollout], judged: Judged, refs: Mapping[int, Tensor]
) -> Part | None:
    """What the optimiser learns from a step's answers; None where it is nothing. Means are over all prompts."""
    num, answers = judged.rewards.shape
    groups = [rollouts[i : i + answers + 1] for i in range(0, len(rollouts), answers + 1)]
    if optimiser.func is codpo:
        places = best_and_worst(judged).tolist()
        pairs = [
            (Example("", ""), [rows[i] for i in two]) for rows, two in zip(groups, places, strict=True) if min(two) >= 0
        ]
        if not pairs:
            return None
        return Part(
            make_batch(pairs, refs).with_weights(item=torch.full((len(pairs),), 1 / num)), pair_objective(optimiser)
        )
    weights: Tensor = optimiser(judged)
    kept = [[r for r, w in zip(rows, of, strict=True) if w] for rows, of in zip(groups, weights.tolist(), strict=True)]
    items = [rows for rows in kept if rows]
    return Part(collate(items).with_weights(answer=weights[weights != 0]), likelihood) if items else None


def likelihood(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
    """Weights `answer` [B] on log pi(y): positive ones make an answer likelier, negative ones less likely."""
    assert outputs.logps is not None and outputs.entropy is not None
    metrics = [Metric.mean("entropy", outputs.entropy, batch.mask)]
    return [Term("likelihood", -batch.per_row(outputs.logps), "answer")], metrics


def of_task(name: str, weight: float, part: Part) -> Part:
    """A part among those of other tasks: its own names in metrics, its own weight in the update."""

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        terms, metrics = part.objective(outputs, batch)
        named = [t._replace(name=f"{name}/{t.name}", coefficient=weight * t.coefficient) for t in terms]
        return named, [m._replace(name=f"{name}/{m.name}") for m in metrics]

    return Part(part.batch, objective)


def measured(
    rollouts: Sequence[Rollout], scores: Sequence[Score], judged: Judged, refs: Mapping[int, Tensor]
) -> dict[str, float]:
    """Metrics of a task's answers, the baselines left out but for how many of them pass."""
    group = judged.rewards.shape[1] + 1
    ours = [i for i in range(len(rollouts)) if (i + 1) % group]
    found = described([rollouts[i] for i in ours], [scores[i] for i in ours], refs)
    found["rewards/calibrated"] = float(calibrated(judged.rewards, judged.baseline).mean())
    found["violations"] = float((~judged.satisfied).float().mean())
    found["violations/baseline"] = float((~judged.baseline_satisfied).float().mean())
    for name in scores[0].parts:
        if name.startswith(JUDGE):
            said = [scores[i].parts[name] for i in ours]
            found[f"violations/{name.removeprefix(JUDGE)}"] = 1 - sum(said) / len(said)
    return found
