"""From several raters' votes to one answer an item: majority, weighted, Dawid-Skene, one coin."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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

    def counts(self, weight: Floats | None = None) -> Floats:
        """Votes of each class on each item, each vote counted as `weight` [votes], 1 by default. [items, classes]"""
        n, k = len(self.items), len(self.classes)
        return np.bincount(self.item * k + self.label, weight, n * k).astype(np.float64).reshape(n, k)

    def seen(self, posterior: Floats) -> Floats:
        """How often each rater says a label (last) where this is the truth (middle). [raters, classes, classes]"""
        k = len(self.classes)
        return (self._used.T @ posterior).reshape(len(self.raters), k, k).transpose(0, 2, 1)

    def evidence(self, confusion: Floats) -> Floats:
        """Log likelihood of the votes on each item under each class. [items, classes]"""
        k = len(self.classes)
        return self._used @ np.log(np.maximum(confusion, SMALLEST)).transpose(0, 2, 1).reshape(-1, k)

    @cached_property
    def _used(self) -> csr_array:
        """Which label of which rater stands on which item. [items, raters * classes]"""
        k = len(self.classes)
        shape = (len(self.items), len(self.raters) * k)
        return csr_array((np.ones(len(self.item)), (self.item, self.rater * k + self.label)), shape=shape)


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


def majority(votes: Votes) -> Consensus:
    """Shares of the votes as the posterior; an item without votes gets the shares of all votes."""
    return weighted(votes, {})


def weighted(votes: Votes, weights: Mapping[str, float]) -> Consensus:
    """Shares of the votes, each counted as much as its rater weighs: 1 for raters without a weight.

    ValueError where a weight is negative.
    """
    if negative := {name: w for name, w in weights.items() if not w >= 0}:
        raise ValueError(f"weights of raters must be numbers from 0 up; got {negative}")
    per_rater = np.array([weights.get(name, 1.0) for name in votes.raters])
    counts = votes.counts(per_rater[votes.rater])
    total = counts.sum(1, keepdims=True)
    posterior = np.where(total > 0, counts, counts.sum(0) + SMALLEST)
    posterior /= posterior.sum(1, keepdims=True)
    seen = votes.seen(posterior)
    return Consensus(votes, posterior, shrunk(seen, row_shares(seen.sum(0)), strength=1.0), posterior.mean(0))


def dawid_skene(votes: Votes, *, strength: float = 1.0, max_steps: int = 200, tolerance: float = 1e-6) -> Consensus:
    """A matrix of confusion for every rater, by EM from the majority (Dawid & Skene, Applied Statistics 28, 1979).

    `strength` is the weight, in votes, of what all raters together do where the majority says what is true: the
    Dirichlet prior of each row of each matrix, so whoever voted little is like the others. 0 is maximum likelihood.
    Stops when a step gains less than `tolerance` of log likelihood a vote.
    """
    start = majority(votes).posterior
    everyone = row_shares(votes.seen(start).sum(0))

    def fit(seen: Floats) -> tuple[Floats, float]:
        confusion = shrunk(seen, everyone, strength=strength)
        return confusion, strength * float((everyone * np.log(confusion)).sum())

    return expectation_maximisation(votes, start, fit, strength=strength, max_steps=max_steps, tolerance=tolerance)


def one_coin(votes: Votes, *, strength: float = 1.0, max_steps: int = 200, tolerance: float = 1e-6) -> Consensus:
    """One accuracy for every rater, whose mistakes spread evenly over the other classes: Dawid-Skene with one coin.

    Options as there; the prior is the accuracy of all raters together.
    """
    start = majority(votes).posterior
    everyone = row_shares(coins(votes.seen(start).sum(0)))

    def fit(seen: Floats) -> tuple[Floats, float]:
        confusion = shrunk(coins(seen), everyone, strength=strength)
        return confusion, strength * float((everyone[0] * np.log(confusion[:, 0])).sum())

    return expectation_maximisation(votes, start, fit, strength=strength, max_steps=max_steps, tolerance=tolerance)


def expectation_maximisation(
    votes: Votes,
    start: Floats,
    fit: Callable[[Floats], tuple[Floats, float]],
    *,
    strength: float,
    max_steps: int,
    tolerance: float,
) -> Consensus:
    """Alternates raters from posteriors and posteriors from raters, whatever the model of a rater is.

    `fit` turns what each rater said of each class (`Votes.seen`) into matrices of confusion and their log prior.
    The shares of the classes are pulled towards equal ones with `strength` votes.
    """
    posterior, trace = start, list[float]()
    while True:
        confusion, log_prior = fit(votes.seen(posterior))
        shares = shrunk(posterior.sum(0), 1 / len(votes.classes), strength=strength)
        joint = np.log(shares) + votes.evidence(confusion)
        evidence = np.asarray(logsumexp(joint, axis=1, keepdims=True))
        posterior = np.exp(joint - evidence)
        trace.append(float(evidence.sum()) + log_prior + strength * float(np.log(shares).mean()))
        converged = len(trace) > 1 and trace[-1] - trace[-2] < tolerance * max(1, len(votes.item))
        if converged or len(trace) >= max_steps:
            return Consensus(votes, posterior, confusion, shares, tuple(trace))


def shrunk(counts: Floats, prior: Floats | float, *, strength: float) -> Floats:
    """Counts as shares along the last axis, with `strength` counts more that are shared out as `prior` says."""
    some = np.maximum(counts + strength * prior, SMALLEST)
    return some / some.sum(-1, keepdims=True)


def row_shares(counts: Floats) -> Floats:
    """What all raters together say where each class is true; one count more, spread evenly, keeps all possible."""
    return shrunk(counts, 1 / counts.shape[-1], strength=1.0)


def coins(seen: Floats) -> Floats:
    """Counts of right and wrong in every row, the wrong ones spread evenly over the other classes. [..., K, K]"""
    k = seen.shape[-1]
    right = np.einsum("...kk->...", seen)
    wrong = (seen.sum((-2, -1)) - right) / max(k - 1, 1)
    same = np.eye(k)
    return right[..., None, None] * same + wrong[..., None, None] * (1 - same)


def comparison_votes(
    records: Iterable[Feedback], *, kept: Sequence[Verdict] = ("first", "second", "tie")
) -> list[Vote]:
    """Votes on which of two items is better, whichever was shown first.

    The item of a vote is the pair as `smaller id|larger id`; "first" means the smaller. Other verdicts than `kept`
    are no votes (unsure never says anything; "both_bad", when kept, is a class of its own). The last record of a
    rater on a pair counts, be it an edit or a planned repeat.
    """
    votes: dict[tuple[str, str], Vote] = {}
    for record in records:
        if not isinstance(record.answer, Comparison):
            continue
        pair, verdict = "|".join(sorted(record.items)), record.answer.verdict
        if record.items[0] > record.items[1]:
            verdict = {"first": "second", "second": "first"}.get(verdict, verdict)
        votes[pair, record.rater.id] = Vote(pair, record.rater.id, verdict)
    return [vote for vote in votes.values() if vote.label in kept]


def rating_votes(records: Iterable[Feedback], *, scale: str) -> list[Vote]:
    """Ratings on one scale as votes; the last record of a rater on an item counts."""
    votes: dict[tuple[str, str], Vote] = {}
    for record in records:
        if isinstance(record.answer, Rating) and scale in record.answer.scales:
            item, rater = record.items[0], record.rater.id
            votes[item, rater] = Vote(item, rater, record.answer.scales[scale])
    return list(votes.values())


def _places(values: Sequence[Label], names: Sequence[Label]) -> Ints:
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[value] for value in values], dtype=np.int64)
