"""From several raters' votes to one answer an item: majority, weighted, Dawid-Skene, one coin."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import logsumexp

from clew.feedback.records import Comparison, Feedback, Rating, Verdict

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Label = str | int | float

SMALLEST = 1e-10
"""A chance never falls below it: the logarithm of what nobody did stays finite."""


class Vote(NamedTuple):
    """One rater's label of one item. Example: `Vote("q1", "anna", "first")`"""

    item: str
    rater: str
    label: Label


@dataclass(frozen=True)
class Votes:
    """A table of votes as places in lists of names, made once and read by every method.

    Example: `Votes.of([Vote("q1", "anna", "yes"), Vote("q1", "ben", "no")])`
    """

    item: Ints  # [votes], places in items
    rater: Ints  # [votes], places in raters
    label: Ints  # [votes], places in classes
    items: tuple[str, ...]
    raters: tuple[str, ...]
    classes: tuple[Label, ...]

    @classmethod
    def of(cls, votes: Iterable[Vote], *, classes: Sequence[Label] | None = None) -> "Votes":
        """Names in sorted order. `classes` fixes the classes and their order, those nobody chose included.

        ValueError where a label is not among `classes`.
        """
        rows = list(votes)
        items, raters = sorted({v.item for v in rows}), sorted({v.rater for v in rows})
        found = {v.label for v in rows}
        known = sorted(found, key=lambda label: (isinstance(label, str), label)) if classes is None else list(classes)
        if unknown := found - set(known):
            raise ValueError(f"votes have the labels {sorted(map(str, unknown))}, which are not in classes {known}")
        return cls(
            _places([v.item for v in rows], items),
            _places([v.rater for v in rows], raters),
            _places([v.label for v in rows], known),
            tuple(items),
            tuple(raters),
            tuple(known),
        )

    def only(self, chosen: NDArray[np.bool_]) -> "Votes":
        """The votes where `chosen` [votes] is true; every name keeps its place."""
        return replace(self, item=self.item[chosen], rater=self.rater[chosen], label=self.label[chosen])

    def counts(self) -> Floats:
        """Votes of each class on each item. [items, classes]"""
        return self._count(self.item, len(self.items))

    def _count(self, rows: Ints, num_rows: int, weight: Floats | None = None) -> Floats:
        k = len(self.classes)
        return np.bincount(rows * k + self.label, weight, num_rows * k).reshape(num_rows, k).astype(np.float64)


@dataclass(frozen=True)
class Consensus:
    """What a method believes of each item and each rater."""

    votes: Votes
    posterior: Floats  # [items, classes]
    confusion: Floats  # [raters, classes, classes]: chance of a label (last) where the truth is (middle)
    shares: Floats  # [classes], how common each class is
    trace: tuple[float, ...] = ()
    """Log likelihood of the votes, with the log prior, after each step; empty for methods without a model."""

    @property
    def best(self) -> Ints:
        """The most probable class of each item; of equal ones the first. [items]"""
        return np.argmax(np.round(self.posterior, 12), axis=1)

    @property
    def labels(self) -> dict[str, Label]:
        return {item: self.votes.classes[k] for item, k in zip(self.votes.items, self.best.tolist(), strict=True)}

    @property
    def accuracy(self) -> Floats:
        """Chance that a rater is right on an item drawn as the classes are. [raters]"""
        return np.einsum("k,akk->a", self.shares, self.confusion)


def _places(values: Sequence[Label], names: Sequence[Label]) -> Ints:
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[value] for value in values], dtype=np.int64)
