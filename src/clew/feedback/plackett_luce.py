"""Plackett-Luce: strengths from rankings that may be partial, tied, top-1 or best-worst."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array, eye_array, vstack

from clew.feedback.records import Feedback, ItemId, Ranking
from clew.feedback.strengths import Fit, Floats, Ints, is_strongly_connected, most_probable

MOST_TIED = 10
"""Items in one tie: its subsets are taken one by one."""


class Order(NamedTuple):
    """One ranking. Top-1 of three: `Order((("a",),), rest=("b", "c"))`; best-worst: `Order((("a",),), ("b",), "c")`."""

    groups: tuple[tuple[ItemId, ...], ...]
    """Best first; several in a group are tied."""
    rest: tuple[ItemId, ...] = ()
    """Worse than all groups; nothing is said about their order."""
    worst: ItemId | None = None
    """Picked as the worst of the rest and itself."""
    weight: float = 1.0
    rater: str = ""


def orders(records: Iterable[Feedback]) -> list[Order]:
    """Rankings of at least two items, in order, with who made them. What was not rankable is in none."""
    found = [
        Order(tuple(tuple(record.items[place] for place in group) for group in answer.groups), rater=record.rater.id)
        for record in records
        if isinstance(answer := record.answer, Ranking)
    ]
    return [order for order in found if len(_members(order)) > 1]


def fit_orders(judged: Sequence[Order], *, prior: float = 0.1, clusters: Sequence[str] | None = None) -> Fit:
    """Strengths s: each place goes to one of those left, with chances as exp(s) (Plackett 1975; Luce 1959).

    Tied items have an order that nobody saw: the log-likelihood is its mean over all their orders. So a tie of two is
    half a win each, and rankings of two items give Bradley-Terry's strengths; in Efron's (1977) form, a tie of two
    would count as two judgements. The worst is picked with chances as exp(-s) (Marley & Louviere 2005).
    `prior`: as in Bradley-Terry. `clusters`: which orders depend on each other; without, each stands for itself.
    ValueError: an item twice in an order, more than MOST_TIED in a tie, an infinite maximum likelihood.
    """
    if clusters is not None and len(clusters) != len(judged):
        raise ValueError(f"expected a cluster for each of {len(judged)} orders; got {len(clusters)}")
    counted = np.array([order.weight > 0 for order in judged], dtype=bool)
    kept = [order for order in judged if order.weight > 0]
    members = [_members(order) for order in kept]
    items = tuple(sorted({item for each in members for item in each}))
    groups = None if clusters is None else np.unique(np.array(clusters)[counted], return_inverse=True)[1]
    return most_probable(_Ranked(items, _choices(kept, members, items), groups), prior=prior)


def _members(order: Order) -> tuple[ItemId, ...]:
    """Its items, by groups, rest and worst: what the places of a pattern refer to. Checks them too."""
    groups = [item for group in order.groups for item in group]
    members = (*groups, *order.rest) if order.worst is None else (*groups, *order.rest, order.worst)
    if len(set(members)) != len(members):
        raise ValueError(f"an order has each item once; got {order}")
    if len(groups) > MOST_TIED and max(map(len, order.groups)) > MOST_TIED:
        raise ValueError(f"at most {MOST_TIED} items can be tied; got {order}; items without an order belong in rest")
    return members


@dataclass(frozen=True)
class _Ranked:
    """Log-likelihood: chosen . z - sum times log(sets . exp(z)), where z = (s, -s): worth as the best, as the worst."""

    items: tuple[ItemId, ...]
    choices: "_Choices"
    clusters: Ints | None
    extras: tuple[str, ...] = ()

    @property
    def counts(self) -> Floats:
        return np.ones(self.choices.chosen.shape[0])

    @property
    def wins(self) -> tuple[Ints, Ints]:
        return self.choices.winners, self.choices.losers

    def has_maximum(self) -> bool:
        return is_strongly_connected(*self.wins, len(self.items))

    def gradient(self, theta: Floats, counts: Floats) -> tuple[float, Floats]:
        z, worth, total = self._worth(theta)
        times, chosen = self._times(counts), self.choices.chosen.T @ counts
        value = float(chosen @ z - times @ np.log(total))
        return value, self._fold.T @ (chosen - worth * (self.choices.sets.T @ (times / total)))

    def information(self, theta: Floats, counts: Floats) -> csr_array:
        times, chances = self._times(counts), self._chances(theta)
        spread = diags_array(chances.T @ times) - chances.T @ diags_array(times) @ chances
        return csr_array(self._fold.T @ spread @ self._fold)

    def scores(self, theta: Floats) -> csr_array:
        expected = self.choices.belongs.T @ diags_array(self.choices.times) @ self._chances(theta)
        return csr_array((self.choices.chosen - expected) @ self._fold)

    @cached_property
    def _fold(self) -> csr_array:
        """z from s. [2 N, N]"""
        same = eye_array(len(self.items))
        return csr_array(vstack([same, -same]))

    def _times(self, counts: Floats) -> Floats:
        return self.choices.times * (self.choices.belongs @ counts)

    def _worth(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """z less its maximum, which changes no chance; exp(z) [2 N], and its sum over each set [C]."""
        z = self._fold @ theta
        z = z - z.max(initial=0)
        worth = np.exp(z)
        return z, worth, np.maximum(self.choices.sets @ worth, np.finfo(float).tiny)

    def _chances(self, theta: Floats) -> csr_array:
        """Of each alternative in each choice. [C, 2 N]"""
        _, worth, total = self._worth(theta)
        return csr_array(diags_array(1 / total) @ self.choices.sets @ diags_array(worth))


class _Choices(NamedTuple):
    """C choices from sets that R orders tell of. Alternative i is item i as the best, N + i is item i as the worst."""

    belongs: csr_array  # [C, R] to which order
    times: Floats  # [C] how much each counts in the log-likelihood
    sets: csr_array  # [C, 2 N] the alternatives
    chosen: csr_array  # [R, 2 N] how much each was chosen in an order
    winners: Ints
    losers: Ints


class _Pattern(NamedTuple):
    """What orders of one shape tell of their K places: choice by choice, places as the best 0..K-1, as the worst K.."""

    times: list[float]
    sets: list[tuple[int, ...]]
    chosen: list[float]  # [2 K]
    wins: list[tuple[int, int]]


def _pattern(sizes: tuple[int, ...], rest: int, worst: bool) -> _Pattern:
    """A tie of d enters as its mean over orders: each subset of m is what is left in one of C(d, m) cases."""
    k = sum(sizes) + rest + worst
    found = _Pattern([], [], [0.0] * (2 * k), [])
    start = 0
    for size in sizes:
        tied, later = range(start, start + size), range(start + size, k)
        for left in range(1, size + 1):
            for subset in combinations(tied, left):
                found.times.append(1 / comb(size, left))
                found.sets.append((*subset, *later))
        for place in tied:
            found.chosen[place] += 1
            found.wins.extend((place, other) for other in (*tied, *later) if other != place)
        start += size
    if worst:
        found.times.append(1.0)
        found.sets.append(tuple(k + place for place in range(start, k)))
        found.chosen[2 * k - 1] += 1
        found.wins.extend((place, k - 1) for place in range(start, k - 1))
    return found


def _choices(judged: Sequence[Order], members: Sequence[Sequence[ItemId]], items: Sequence[ItemId]) -> _Choices:
    place = {item: i for i, item in enumerate(items)}
    shapes: dict[tuple[tuple[int, ...], int, bool], list[int]] = defaultdict(list)
    for number, order in enumerate(judged):
        shapes[tuple(map(len, order.groups)), len(order.rest), order.worst is not None].append(number)
    parts = [
        _of_shape(
            _pattern(*shape),
            np.array([[place[item] for item in members[number]] for number in numbers], dtype=np.int64),
            np.array(numbers, dtype=np.int64),
            np.array([judged[number].weight for number in numbers]),
            (len(judged), 2 * len(items)),
        )
        for shape, numbers in (shapes or {((), 0, False): []}).items()
    ]
    return _Choices(
        vstack([p.belongs for p in parts], format="csr"),
        np.concatenate([p.times for p in parts]),
        vstack([p.sets for p in parts], format="csr"),
        csr_array(sum((p.chosen for p in parts[1:]), start=parts[0].chosen)),
        np.concatenate([p.winners for p in parts]),
        np.concatenate([p.losers for p in parts]),
    )


def _of_shape(pattern: _Pattern, members: Ints, numbers: Ints, weight: Floats, shape: tuple[int, int]) -> _Choices:
    """Choices of the orders of one shape: their items [R, K] put in the places of the pattern."""
    rows, choices, k = len(members), len(pattern.sets), len(pattern.chosen) // 2
    members = members.reshape(rows, k)
    alternatives = np.concatenate([members, members + shape[1] // 2], axis=1)
    ends = np.cumsum(np.tile([len(s) for s in pattern.sets], rows))
    columns = alternatives[:, [place for s in pattern.sets for place in s]].ravel()
    amount = np.array(pattern.chosen)
    chosen = np.outer(weight, amount[amount != 0]).ravel(), alternatives[:, amount != 0].ravel()
    beaten = np.array(pattern.wins, dtype=np.int64).reshape(-1, 2)
    of = np.repeat(numbers, choices)
    return _Choices(
        coo_array((np.ones(len(of)), (np.arange(len(of)), of)), shape=(len(of), shape[0])).tocsr(),
        np.outer(weight, pattern.times).ravel(),
        csr_array((np.ones(len(columns)), columns, np.concatenate([[0], ends])), shape=(len(of), shape[1])),
        coo_array((chosen[0], (np.repeat(numbers, (amount != 0).sum()), chosen[1])), shape=shape).tocsr(),
        members[:, beaten[:, 0]].ravel(),
        members[:, beaten[:, 1]].ravel(),
    )
