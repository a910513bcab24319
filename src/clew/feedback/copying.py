"""Raters who copy: two people agree less often than one agrees with himself, and nobody agrees always."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.stats import binom, binomtest

from clew.feedback.records import Comparison, Feedback, ItemId
from clew.feedback.significance import adjusted

Said = dict[str, tuple[str, datetime]]
"""What each rater said of a pair, and when."""


class Copy(NamedTuple):
    """Two raters who agree too often. Example: `Copy("anna", "ben", 80, 1.0, 1e-6, "ben")`: ben copies."""

    one: str
    other: str
    shared: int
    agreement: float
    false_discovery: float
    """Smallest rate of false discoveries at which the pair is reported."""
    copier: str
    """Who answered later, on most of the shared pairs; empty where neither did."""


def copies(records: Iterable[Feedback], *, ceiling: float = 0.85, fewest: int = 20, q: float = 0.05) -> list[Copy]:
    """Pairs of raters with at least `fewest` comparisons in common who agree more often than two people do.

    That is more often than `ceiling`, or than other raters agree on the same pairs where that is more. Take for it how
    often raters agree with themselves on planned repeats, if that is known: noise of their own makes two people differ
    even where they are of one mind, so a common opinion stays below it and copied noise does not. One-sided binomial,
    Benjamini-Hochberg at `q`.
    """
    said = _said(records)
    together: dict[tuple[str, str], list[Said]] = defaultdict(list)
    for answers in said.values():
        for pair in combinations(sorted(answers), 2):
            together[pair].append(answers)
    tested = [
        (pair, shared, _agreement(pair, shared), max(ceiling, _others(pair, shared)))
        for pair, shared in sorted(together.items())
        if len(shared) >= fewest
    ]
    rates = adjusted([binom.sf(agree - 1, len(shared), expected) for _, shared, agree, expected in tested])
    return [
        Copy(*pair, len(shared), agree / len(shared), rate, _later(pair, shared))
        for (pair, shared, agree, _), rate in zip(tested, rates.tolist(), strict=True)
        if rate <= q
    ]


def _said(records: Iterable[Feedback]) -> dict[frozenset[ItemId], Said]:
    """The last answer of every rater on every pair: the item that is better, or the word where none is."""
    said: dict[frozenset[ItemId], Said] = defaultdict(dict)
    for record in records:
        if isinstance(record.answer, Comparison):
            verdict = record.answer.verdict
            choice = {"first": record.items[0], "second": record.items[-1]}.get(verdict, verdict)
            said[frozenset(record.items)][record.rater.id] = (choice, record.made_at)
    return said


def _agreement(pair: tuple[str, str], shared: list[Said]) -> int:
    return sum(answers[pair[0]][0] == answers[pair[1]][0] for answers in shared)


def _others(pair: tuple[str, str], shared: list[Said]) -> float:
    """How often two raters agree on these pairs of items of whom at least one is another; 0 where there are none."""
    same = [
        answers[a][0] == answers[b][0]
        for answers in shared
        for a, b in combinations(sorted(answers), 2)
        if (a, b) != pair
    ]
    return float(np.mean(same)) if same else 0.0


def _later(pair: tuple[str, str], shared: list[Said]) -> str:
    first = sum(answers[pair[0]][1] < answers[pair[1]][1] for answers in shared)
    last = sum(answers[pair[0]][1] > answers[pair[1]][1] for answers in shared)
    if first + last == 0 or binomtest(first, first + last).pvalue > 0.05:
        return ""
    return pair[1] if first > last else pair[0]
