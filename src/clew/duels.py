"""What a policy learns from answers that were compared with an opponent's: journal records, batch, metrics."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clew.batch import Batch, Metric, Model, Outputs, Term, evaluate
from clew.data.collate import collate, pad
from clew.experience import scored_groups, to_record
from clew.judges.prefer import Preference
from clew.losses.nash import of_tokens
from clew.losses.token import reinforce
from clew.pairwise import described
from clew.types import Engine, Prompt, Rollout, Sampling, Score

REFERENCE, GAIN = "reference", "exploitability"
"""Parts of a score: the preference against the reference's answer; what a best response to the policy gains."""


class Sides(NamedTuple):
    """Who answers, and who says which answer is better.

    Example: `Sides(LocalEngine(policy), LocalEngine(average), LocalEngine(reference), preference)`
    """

    policy: Engine
    opponent: Engine
    reference: Engine
    preference: Preference


def compared(
    sides: Sides, prompts: Sequence[Prompt], sampling: Sampling, answers: int, key: tuple[int, int], *, measured: int
) -> list[dict[str, Any]]:
    """The policy's answers as journal records, each scored by the preference over an opponent's of its own.

    Of the first `measured` prompts also that over the reference's, and what a best response gains.
    """
    seed, step = key
    asked = (prompts, prompts, prompts[:measured])
    ours, theirs, refs = (
        _drawn(engine, some, answers, sampling, (seed, 3 * step + i), version=step) if some else []
        for i, (engine, some) in enumerate(zip(sides[:3], asked, strict=True))
    )
    values = sides.preference(ours, theirs)
    against_refs = sides.preference(ours[: len(refs)], refs) if refs else []
    starts = range(0, len(refs), answers)
    pools = [[*theirs[i : i + answers], *refs[i : i + answers]] for i in starts]
    gains = best_responses(sides.preference, [ours[i : i + answers] for i in starts], pools)
    records = list[dict[str, Any]]()
    for i, (rollout, other, value) in enumerate(zip(ours, theirs, values, strict=True)):
        parts = {REFERENCE: against_refs[i], GAIN: gains[i // answers]} if i < len(refs) else {}
        score = Score(value, {name: x for name, x in parts.items() if x is not None})
        written = sum(sum(r.mask) for r in (other, *refs[i : i + 1]))
        records.append({**to_record(rollout, score), "opponent": other.text, "tokens_of_others": written})
    return records


def _drawn(
    engine: Engine, prompts: Sequence[Prompt], n: int, sampling: Sampling, key: tuple[int, int], *, version: int
) -> list[Rollout]:
    """With noise of its own, by the key: an opponent that is the policy must not say what the policy says."""
    engine.version = version
    return engine.generate(prompts, n=n, sampling=sampling, key=key)


def best_responses(
    preference: Preference, answers: Sequence[Sequence[Rollout]], pools: Sequence[Sequence[Rollout]]
) -> list[float | None]:
    """For each prompt P(y beats pi) - 1/2 of the y in its pool that does best: on average a lower bound of max over y.

    y is chosen by half of the policy's answers and measured on the others, so that luck is not taken for strength.
    None with fewer than two answers, and where the preference abstains.
    """
    if not answers or len(answers[0]) < 2:
        return [None] * len(answers)
    pairs = [pair for ours, pool in zip(answers, pools, strict=True) for pair in product(pool, ours)]
    found = preference([y for y, _ in pairs], [y for _, y in pairs])
    grid = torch.tensor([torch.nan if p is None else p for p in found], dtype=torch.float64)
    gains = list[float | None]()
    for wins in grid.view(len(answers), -1, len(answers[0])):  # [pool, answers]
        best = wins[:, ::2].mean(1).argmax()
        gain = float(wins[best, 1::2].mean() - 0.5)
        gains.append(None if bool(wins.isnan().any()) else gain)
    return gains


def experience(
    records: Sequence[Mapping[str, Any]], reference: Model, *, tau: float, max_tokens: int
) -> tuple[Batch, dict[str, float]]:
    """A batch of answers with extras old_logps, ref_logps and advantages [B, T], and the metrics of what was sampled.

    Weights `token` make the loss a mean over answers of sums over tokens: the estimator itself, longer answers not
    weighed down.
    """
    rollouts, scores, abstained = scored_groups(records, 1)
    batch = collate([[r] for r in rollouts])
    old, ref = pad([r.logps for r in rollouts], 0.0), evaluate(reference, batch, max_tokens=max_tokens).logps
    assert ref is not None
    ref = ref.cpu()
    preferences = torch.tensor([s.value for s in scores])
    advantages = of_tokens(preferences, old, ref, batch.mask, tau=tau)
    metrics = described(rollouts, [], dict(zip(map(id, rollouts), batch.per_row(ref), strict=True)))
    metrics |= {"preference/opponent": float(preferences.mean()), "preference/abstained": abstained}
    for part, name in ((REFERENCE, "preference/reference"), (GAIN, "exploitability/lower_bound")):
        known = [s.parts[part] for s in scores if part in s.parts]
        metrics |= {name: sum(known) / len(known)} if known else {}
    batch = batch.with_extras(old_logps=old, ref_logps=ref, advantages=advantages)
    return batch.with_weights(token=batch.mask / batch.num_rows), metrics


def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
    assert outputs.logps is not None and outputs.entropy is not None
    old: Tensor = batch.extras["old_logps"]
    loss = reinforce(outputs.logps, old, batch.extras["advantages"])
    metrics = [
        Metric.mean("policy/entropy_avg", outputs.entropy, batch.mask),
        Metric.mean("val/ratio", (outputs.logps.detach() - old).exp(), batch.mask),
    ]
    return [Term("policy", loss, "token")], metrics
