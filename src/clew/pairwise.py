"""What a policy learns from pairs of answers, chosen and rejected: which two are compared, the batch, the objective."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import exp
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clew.batch import Batch, Metric, Model, Objective, Outputs, Term, evaluate, item_weights
from clew.config import Config, option
from clew.data.collate import TokenRow, collate
from clew.data.example import Example
from clew.learn.invariants import Precision, check_loss_at_reference, check_reference
from clew.losses.pair import REFERENCE_FREE, PairLogps, expected_loss, implicit_rewards
from clew.models.remembered import row_logps
from clew.types import Rollout, Score

Judged = tuple[Example, Sequence[TokenRow]]
"""What is said of answers, and these, best first."""


class Labels(Config):
    """How scores of two answers say which is the better one."""

    label: Literal["best", "soft", "drawn"] = "best"
    """best: the higher score. soft: both ways, each weighed by its Bradley-Terry probability. drawn: one way, drawn
    with it."""
    sharpness: float = Field(default=1.0, gt=0)
    """The Bradley-Terry probability is sigma(sharpness * difference of scores)."""
    ties: Literal["drop", "half"] = "drop"
    """Pairs of equal scores: left out, or either way with one half."""
    cut_penalty: float = Field(default=0.0, ge=0)
    """Taken from the score of an answer that was cut by length."""


class Pair(NamedTuple):
    """Places of two answers among those of a prompt, and how surely the first is the better one."""

    chosen: int
    rejected: int
    agreement: float = 1.0


def best_against_worst(scores: Sequence[float], labels: Labels, rng: np.random.Generator) -> Pair | None:
    """The pair that a prompt's scores give, of equals the first best and the last worst; None where ties are left out.

    Which two are compared depends on the scores alone and not on how the label falls, so that Bradley-Terry labels
    keep the optimum of the loss.
    """
    best, worst = int(np.argmax(scores)), len(scores) - 1 - int(np.argmin(scores[::-1]))
    difference = scores[best] - scores[worst]
    if difference == 0:
        return None if labels.ties == "drop" else Pair(best, worst, 0.5)
    if labels.label == "best":
        return Pair(best, worst)
    probability = 1 / (1 + exp(-labels.sharpness * difference))
    if labels.label == "soft":
        return Pair(best, worst, probability)
    return Pair(best, worst) if rng.random() < probability else Pair(worst, best)


def judged(
    rollouts: Sequence[Rollout], scores: Sequence[Score], labels: Labels, group: int, key: tuple[int, int]
) -> list[Judged]:
    """Of every `group` rollouts, those of a prompt, the best against the worst; two that are the same teach nothing."""
    rng, pairs = np.random.default_rng((*key, 1)), list[Judged]()
    for start in range(0, len(rollouts), group):
        ours = rollouts[start : start + group]
        values = [
            float(s.value or 0.0) - labels.cut_penalty * (r.stop != "end")
            for r, s in zip(ours, scores[start : start + group], strict=True)
        ]
        found = best_against_worst(values, labels, rng)
        if found is not None and ours[found.chosen].tokens != ours[found.rejected].tokens:
            pairs.append((Example("", "", agreement=found.agreement), [ours[found.chosen], ours[found.rejected]]))
    return pairs


def against(answers: Sequence[TokenRow], rollouts: Sequence[Rollout], group: int) -> list[Judged]:
    """Each prompt's answer of the data as the chosen one, against each of the `group` sampled for it (SPIN)."""
    both = [(answers[i // group], rollout) for i, rollout in enumerate(rollouts)]
    return [(Example("", ""), [data, ours]) for data, ours in both if data.tokens != ours.tokens]


def logps_by_id(reference: Model | None, rows: Sequence[TokenRow], *, max_tokens: int) -> dict[int, Tensor]:
    """The reference's log-probability of every row, by the row's id; none without a reference."""
    if reference is None:
        return {}
    found = torch.cat(row_logps(reference, [[row] for row in rows], max_tokens=max_tokens))
    return dict(zip(map(id, rows), found.unbind(), strict=True))


def described(rollouts: Sequence[Rollout], scores: Sequence[Score], refs: Mapping[int, Tensor]) -> dict[str, float]:
    """Metrics of what was sampled; the KL is the sampler's from the reference, where there is one."""
    found = {
        "completions/mean_length": sum(sum(r.mask) for r in rollouts) / len(rollouts),
        "completions/clipped_ratio": sum(r.stop != "end" for r in rollouts) / len(rollouts),
    }
    if scores:
        values = np.array([s.value for s in scores], dtype=float)
        found |= {"objective/scores": float(values.mean()), "objective/scores_std": float(values.std())}
    if refs:
        found["objective/kl"] = sum(sum(r.logps) - float(refs[id(r)]) for r in rollouts) / len(rollouts)
    return found


def make_batch(items: Sequence[Judged], refs: Mapping[int, Tensor] | None = None) -> Batch:
    """Answers of an item together; kto's are single. Weights `item` are the mean over items, as the rows weigh.

    With `refs`, by a row's id, there are extras ref_logps [B], zero for rows that are not among them.
    """
    batch = collate([rows for _, rows in items], ranks=[list(range(len(rows))) for _, rows in items]).with_extras(
        desirable=torch.tensor([e.label == 1 for e, _ in items]),
        agreement=torch.tensor([e.agreement for e, _ in items]),
    )
    if refs is not None:
        known = [refs.get(id(row), torch.zeros(())) for _, rows in items for row in rows]
        batch = batch.with_extras(ref_logps=torch.stack(known))
    return batch.with_weights(item=item_weights(batch, torch.tensor([e.weight for e, _ in items])))


def pair_objective(loss: partial[Tensor]) -> Objective:
    """Any pair loss under soft labels; the batch has extras ref_logps [B], summed, and agreement [N]."""
    beta = option(loss, "beta", 1.0)

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.logps is not None and outputs.entropy is not None
        pair = pair_logps(batch, outputs.logps)
        chosen, rejected = implicit_rewards(pair, loss.func)
        metrics = [
            Metric.mean("rewards/chosen", beta * chosen),
            Metric.mean("rewards/rejected", beta * rejected),
            Metric.mean("rewards/margins", beta * (chosen - rejected)),
            Metric.mean("rewards/accuracies", (chosen > rejected) + 0.5 * (chosen == rejected)),
            Metric.mean("logps/chosen", pair.chosen),
            Metric.mean("logps/rejected", pair.rejected),
            Metric.mean("entropy", outputs.entropy, batch.mask),
        ]
        return [Term("pair", expected_loss(loss, pair, batch.extras["agreement"]), "item")], metrics

    return objective


def pair_logps(batch: Batch, logps: Tensor) -> PairLogps:
    """Log-probabilities [B, T] of a batch of pairs, by pair."""
    policy, reference, length = (
        batch.per_item(x).unbind(1) for x in (batch.per_row(logps), batch.extras["ref_logps"], batch.lengths())
    )
    return PairLogps(*policy, *reference, *length)


def check_at_reference(
    policy: Model, loss: partial[Tensor], batch: Batch, *, max_tokens: int, precision: Precision
) -> None:
    """Where policy and reference are one model, before the first step: KL = 0, and a pair's loss as at a gap of zero.

    Nothing is checked of a loss that has no reference.
    """
    if loss.func in REFERENCE_FREE:
        return
    logps = evaluate(policy, batch, max_tokens=max_tokens).logps
    assert logps is not None
    check_reference(batch.per_row(logps.cpu()), batch.extras["ref_logps"], batch.lengths(), precision=precision)
    if batch.num_rows == 2 * batch.num_items and precision == "fp32":
        pair = pair_logps(batch, logps.cpu())
        check_loss_at_reference(loss(pair), loss(pair._replace(chosen=pair.ref_chosen, rejected=pair.ref_rejected)))
