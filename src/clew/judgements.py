"""What a reward model learns from: answers with what was said of them, as batches; and what is wanted of its scores."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from clew.batch import Batch, Metric, Model, Objective, Outputs, Term, item_weights
from clew.config import Config
from clew.data.chat import Item
from clew.data.collate import collate
from clew.data.example import Example
from clew.losses.rank import Ranked, centring, rater_prior
from clew.losses.single import ordered_cuts, ordinal


class Scoring(Model, Protocol):
    """A model with scores and, where its labels are levels, raw cut points; where raters err, log-odds of each."""

    cuts: nn.Parameter | None
    raters: nn.Parameter | None
    rater_names: list[str]

    def set_cuts(self, raw: Tensor) -> None: ...
    def set_raters(self, names: list[str], log_odds: Tensor) -> None: ...


class RaterPrior(Config):
    """What is expected of raters whose reliabilities are learnt."""

    right: float = Field(default=4.0, gt=0)
    """Before anything is known of a rater it is as if it had been seen right so many times,"""
    wrong: float = Field(default=1.0, gt=0)
    """and wrong so many times: a Beta prior. Less than `right`: it says which order is meant."""
    judges: tuple[str, ...] = ()
    """Raters of whom nothing is expected, AI judges say: what they are worth is learnt from all others."""
    lr: float = Field(default=0.1, gt=0)
    """Peak learning rate of their log-odds."""


class Raters(NamedTuple):
    """Those who judged, by number, and what is expected of each before anything is learnt.

    Example: `Raters(log_odds, tensor([4.0]), tensor([1.0]), tensor([120.0]))`
    """

    log_odds: Tensor  # [R] of being right: learnt
    right: Tensor  # [R] the prior, as if seen right so many times,
    wrong: Tensor  # [R] and wrong
    votes: Tensor  # [R] in the whole data set: each brings its share of the prior along


def make_batch(items: Sequence[Item], numbers: Mapping[str, int] | None = None) -> Batch:
    """Answers of an item together, best first; one forward pass each, however many pairs they form.

    `numbers` of raters go along as "rater", where they are to be learnt about.
    """
    ranks = [example.ranks or (0,) for example, _ in items]
    batch = collate([rows for _, rows in items], ranks=ranks)
    columns = {
        "margin": [e.margin for e, _ in items],
        "agreement": [e.agreement for e, _ in items],
        "label": [0.0 if e.label is None else e.label for e, _ in items],
    }
    if numbers is not None:
        columns["rater"] = [numbers[rater_of(e)] for e, _ in items]
    batch = batch.with_extras(**{name: torch.tensor(values) for name, values in columns.items()})
    return batch.with_weights(item=item_weights(batch, torch.tensor([e.weight for e, _ in items])))


def rater_of(example: Example) -> str:
    """Who judged, by the column `rater`; empty where the row does not say."""
    return str(example.info.get("rater") or "")


def reliabilities(model: Scoring) -> dict[str, float]:
    """How reliable each rater was found to be: 1 always right, 0.5 a coin, 0 always opposite."""
    assert model.raters is not None
    return dict(zip(model.rater_names, torch.sigmoid(model.raters.detach()).tolist(), strict=True))


def rank_objective(loss: Callable[[Ranked], Tensor], centre: float, raters: Raters | None = None) -> Objective:
    """A loss over rankings, with centring where its coefficient is not 0, and with raters who are learnt about."""

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.scores is not None
        ranked = laid_out(outputs.scores, batch)
        terms: list[Term] = []
        if raters is not None:
            rater = batch.extras["rater"]
            ranked = ranked._replace(log_odds=raters.log_odds[rater])
            before = rater_prior(*raters[:3]) / raters.votes
            terms.append(Term("raters", before[rater], "item"))
        terms.append(Term("rank", loss(ranked), "item"))
        if centre:
            terms.append(Term("centring", centring(ranked), "item", centre))
        gap = (ranked.scores[:, :, None] - ranked.scores[:, None, :]).detach()
        metrics = [
            Metric.mean("accuracy", (gap > 0) + 0.5 * (gap == 0), ordered(ranked)),
            Metric.mean("mean_reward", outputs.scores),
            Metric.max("max_reward", outputs.scores),
        ]
        return terms, metrics

    return objective


def point_objective(loss: Callable[[Tensor, Tensor], Tensor]) -> Objective:
    """A loss of single answers, from their scores and labels."""

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.scores is not None
        values = loss(outputs.scores, batch.extras["label"])
        return [Term("point", values, "item")], [Metric.mean("mean_reward", outputs.scores)]

    return objective


def levelled(model: Scoring, scores: Tensor, labels: Tensor) -> Tensor:
    assert model.cuts is not None
    return ordinal(scores, labels.long(), ordered_cuts(model.cuts))


def laid_out(scores: Tensor, batch: Batch) -> Ranked:
    """Scores [B] by item, with what is known of their order."""
    known = (batch.extras[name] for name in ("margin", "agreement"))
    return Ranked(batch.per_item(scores), batch.per_item(batch.rank), batch.present(), *known)


def ordered(ranked: Ranked) -> Tensor:
    """Where the first of two rows ranks better than the second: [N, K, K] bool."""
    both = ranked.present[:, :, None] & ranked.present[:, None]
    return (ranked.ranks[:, :, None] < ranked.ranks[:, None, :]) & both
