"""What a loss sees and what it gives back: Batch, Outputs, Term, Metric.

Averaging is data: `Batch.weights` is fixed once for a whole optimiser step, so the sum of `loss * weight` over any
split into micro-batches or ranks is the same number, and so is its gradient.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from clew.failure import memory_for

Averaging = Literal["token", "sequence", "fixed"]


@dataclass(frozen=True)
class Batch:
    """Rows of tokens in groups. Logical layout: how a model packs or pads them inside is the model's business.

    Rows of one item are adjacent and ordered by rank, best first. Every mapping holds tensors that lead with B
    (rows) or N (items), so a batch can be cut between items; when B = N each row is its own item and both agree.

    Example: one pair, chosen then rejected, has tokens [2, T], item [0, 0], rank [0, 1], weights {"item": [1.0]}.
    """

    tokens: Tensor  # [B, T] long
    real: Tensor  # [B, T] bool: False on padding, on whichever side it stands; ids are never compared with a pad id
    mask: Tensor  # [B, T] bool: True where the token is scored; never a row's first token, which nothing predicts
    item: Tensor  # [B] long, 0..N-1, non-decreasing
    rank: Tensor  # [B] long; equal ranks tie
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # [B], [B, T] or [N]
    extras: Mapping[str, Tensor] = field(default_factory=dict)  # old_logps, ref_logps, advantages, …

    def __post_init__(self) -> None:
        shape = self.tokens.shape
        if not (self.real.shape == self.mask.shape == shape and self.item.shape == self.rank.shape == shape[:1]):
            raise ValueError(
                "Batch: tokens, real and mask must be [B, T], item and rank [B]; got "
                f"{[tuple(x.shape) for x in (self.tokens, self.real, self.mask, self.item, self.rank)]}"
            )

    @property
    def num_rows(self) -> int:
        return self.tokens.shape[0]

    @property
    def num_items(self) -> int:
        return int(self.item[-1]) + 1 if self.num_rows else 0

    def with_weights(self, **weights: Tensor) -> Self:
        return replace(self, weights={**self.weights, **weights})

    def with_extras(self, **extras: Tensor) -> Self:
        return replace(self, extras={**self.extras, **extras})

    def take(self, items: Sequence[int] | Tensor) -> Self:
        """The batch of these items, in this order; weights come along unchanged."""
        wanted = torch.as_tensor(items, device=self.item.device)
        rows = [(self.item == i).nonzero()[:, 0] for i in wanted]
        item = torch.repeat_interleave(torch.arange(len(wanted)), torch.tensor([len(found) for found in rows]))
        return self._select(torch.cat(rows), wanted, item)

    def split(self, max_tokens: int) -> Iterator[Self]:
        """Micro-batches of at most `max_tokens` real tokens; an item is never cut, so a large one stands alone."""
        lengths = torch.zeros(self.num_items, dtype=torch.long)
        lengths.index_add_(0, self.item.cpu(), self.real.sum(1).cpu())
        start, used = 0, 0
        for i, length in enumerate(lengths.tolist()):
            if i > start and used + length > max_tokens:
                yield self._slice(start, i)
                start, used = i, 0
            used += length
        if start == 0:
            yield self
        else:
            yield self._slice(start, len(lengths))

    def to(self, device: torch.device | str) -> Self:
        moved = {k: getattr(self, k).to(device) for k in ("tokens", "real", "mask", "item", "rank")}
        return replace(
            self,
            **moved,
            weights={k: v.to(device) for k, v in self.weights.items()},
            extras={k: v.to(device) for k, v in self.extras.items()},
        )

    def per_row(self, x_BT: Tensor) -> Tensor:
        """Sum over each row's scored tokens: [B, T] -> [B]."""
        return (x_BT * self.mask).sum(1)

    def lengths(self) -> Tensor:
        """Scored tokens of each row: [B]."""
        return self.mask.sum(1)

    def per_item(self, x_B: Tensor) -> Tensor:
        """Rows laid out by item, in rank order: [B] -> [N, K]; places that no row fills hold zero."""
        slot, width = self._slots()
        laid_out = x_B.new_zeros(self.num_items, width)
        return laid_out.index_put((self.item, slot), x_B)

    def present(self) -> Tensor:
        """Which places of `per_item` hold a row: [N, K] bool."""
        return self.per_item(torch.ones_like(self.item, dtype=torch.bool))

    def _slots(self) -> tuple[Tensor, int]:
        first = torch.searchsorted(self.item, self.item)
        slot = torch.arange(self.num_rows, device=self.item.device) - first
        return slot, int(slot.max()) + 1

    def _slice(self, start: int, end: int) -> Self:
        low, high = torch.searchsorted(self.item, torch.tensor([start, end], device=self.item.device)).tolist()
        return self._select(slice(low, high), slice(start, end), self.item[low:high] - start)

    def _select(self, rows: Tensor | slice, items: Tensor | slice, item: Tensor) -> Self:
        def cut(x: Tensor) -> Tensor:
            return x[rows] if len(x) == self.num_rows else x[items]

        return replace(
            self,
            **{k: getattr(self, k)[rows] for k in ("tokens", "real", "mask", "rank")},
            item=item.to(self.item.device),
            weights={k: cut(v) for k, v in self.weights.items()},
            extras={k: cut(v) for k, v in self.extras.items()},
        )


def token_weights(mask: Tensor, how: Averaging, *, max_length: int | None = None) -> Tensor:
    """Weights [B, T] that turn a sum over tokens into the average a method asks for.

    "token": every scored token of the step counts the same (DAPO). "sequence": every row the same, its tokens
    sharing (the original GRPO). "fixed": every token 1 / (B * max_length), whatever the lengths (Dr. GRPO).
    Rows without a scored token weigh nothing.
    """
    mask = mask.float()
    if how == "token":
        return mask / mask.sum().clamp(min=1)
    if how == "sequence":
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / max(len(mask), 1)
    if max_length is None:
        raise ValueError('token_weights: "fixed" averaging divides by max_length; pass it')
    return mask / (len(mask) * max_length)


def item_weights(batch: Batch, confidence: Tensor | None = None) -> Tensor:
    """Weights [N] of a mean over items; `confidence` [N] scales each: labels trusted more count more.

    Over the whole data set it has mean 1 (`load_examples` sees to that), so that a vote weighs the same in any batch.
    """
    raw = torch.ones(batch.num_items, device=batch.item.device) if confidence is None else confidence.float()
    return raw / max(batch.num_items, 1)


class Outputs(NamedTuple):
    """What a model says of a batch. None: this kind of model does not say it."""

    logps: Tensor | None = None  # [B, T]; logps[:, t] belongs to tokens[:, t]; zero where mask is False
    entropy: Tensor | None = None  # [B, T] of the distribution that tokens[:, t] was drawn from, nats
    values: Tensor | None = None  # [B, T] of the state in which tokens[:, t] was chosen
    scores: Tensor | None = None  # [B] read at each row's last real token
    divergence: Tensor | None = None  # [B, T] from a teacher, of the distributions that tokens[:, t] is drawn from
    q: Tensor | None = None  # [B, T, 2] two heads' Q(s, tokens[:, t])
    q_logps: Tensor | None = None  # [B, T, 2] log softmax(Q)(tokens[:, t])
    target_q: Tensor | None = None  # [B, T] the smaller of the target heads' Q, without gradient


class Model(Protocol):
    """Language model, reward model or value model: one question, so that one learner serves all."""

    def evaluate(self, batch: Batch) -> Outputs: ...


@memory_for("reading rows", advice="lower learner.max_tokens, for `clew evaluate` max_batch_tokens")
@torch.no_grad()
def evaluate(model: Model, batch: Batch, *, max_tokens: int) -> Outputs:
    """`model.evaluate` without gradient, over micro-batches, put together again."""
    parts = [model.evaluate(micro) for micro in batch.split(max_tokens)]
    return Outputs(*(None if found[0] is None else torch.cat(found) for found in zip(*parts, strict=True)))


class Term(NamedTuple):
    """One summand of the objective: coefficient * sum(values * batch.weights[weights_key])."""

    name: str
    values: Tensor  # [B, T], [B] or [N], as the weights are
    weights_key: str
    coefficient: float = 1.0


class Metric(NamedTuple):
    """A number to report, with how it adds up over micro-batches and ranks."""

    name: str
    total: Tensor  # scalar
    places: Tensor  # scalar: how many were averaged; 1 for sums and maxima
    kind: Literal["mean", "sum", "max"] = "mean"

    @classmethod
    def mean(cls, name: str, values: Tensor, where: Tensor | None = None) -> Self:
        """Mean of `values` over the places where `where` is True (all of them by default)."""
        values = values.detach().float()
        if where is None:
            return cls(name, values.sum(), torch.tensor(float(values.numel())))
        return cls(name, (values * where).sum(), where.sum().float())

    @classmethod
    def max(cls, name: str, values: Tensor) -> Self:
        return cls(name, values.detach().float().max(), torch.tensor(1.0), "max")


Objective = Callable[[Outputs, Batch], tuple[list[Term], list[Metric]]]


def reduce_metrics(metrics: Sequence[Metric]) -> dict[str, float]:
    """Metrics of many micro-batches as one number a name; a mean over nothing is left out."""
    groups: dict[str, list[Metric]] = {}
    for metric in metrics:
        groups.setdefault(metric.name, []).append(metric)
    reduced: dict[str, float] = {}
    for name, found in groups.items():
        totals, counts = [float(m.total) for m in found], sum(float(m.places) for m in found)
        if found[0].kind == "max":
            reduced[name] = max(totals)
        elif found[0].kind == "sum":
            reduced[name] = sum(totals)
        elif counts:
            reduced[name] = sum(totals) / counts
    return reduced


def mean_of(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics averaged over the updates of a step that report them."""
    found = {name: [u[name] for u in updates if name in u] for u in updates for name in u}
    return {name: sum(values) / len(values) for name, values in found.items()}
