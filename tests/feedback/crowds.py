"""Crowds of simulated raters whose truth is known, for the tests of every method."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from clew.feedback.crowd import Consensus, Votes


def crowd(
    accuracies: Sequence[float], *, items: int = 300, classes: int = 2, overlap: int | None = None, seed: int = 0
) -> tuple[Votes, np.ndarray]:
    """Votes of raters who are right that often, and else say any other class; `overlap` raters an item, or all."""
    rng = np.random.default_rng(seed)
    raters = len(accuracies)
    truth = rng.integers(classes, size=items)
    seats = overlap or raters
    rater = np.argsort(rng.random((items, raters)), axis=1)[:, :seats].ravel()
    item = np.repeat(np.arange(items), seats)
    right = rng.random(len(item)) < np.asarray(accuracies)[rater]
    label = np.where(right, truth[item], (truth[item] + rng.integers(1, classes, len(item))) % classes)
    names = tuple(f"i{i:04}" for i in range(items)), tuple(f"r{a:02}" for a in range(raters))
    return Votes(item, rater, label, *names, tuple(range(classes))), truth


def share_right(found: Consensus, truth: np.ndarray) -> float:
    """Share of items whose most probable class is true; of m equally probable ones each counts 1 / m."""
    rounded = np.round(found.posterior, 9)
    top = rounded == rounded.max(1, keepdims=True)
    return float((top[np.arange(len(truth)), truth] / top.sum(1)).mean())


def never_falls(trace: Sequence[float]) -> bool:
    return all(after >= before - 1e-9 * abs(before) for before, after in pairwise(trace))
