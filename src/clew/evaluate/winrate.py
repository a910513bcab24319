"""Paired comparisons of two policies on the same prompts, with bootstrap intervals over prompts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> Interval:
    """Mean of one value a prompt with its percentile bootstrap interval; prompts are what is resampled."""
    x = np.asarray(values, dtype=float)
    if not len(x):
        raise ValueError("no values to average; the evaluation has no prompts")
    rng = np.random.default_rng(seed)
    means = x[rng.integers(len(x), size=(resamples, len(x)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(x.mean()), float(low), float(high))


def paired_gain(new: Sequence[float], old: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean of new - old, prompt by prompt. Above zero with its whole interval: better."""
    return mean_interval(np.subtract(new, old).tolist(), seed=seed)


def win_rate(new: Sequence[float], old: Sequence[float], *, seed: int = 0) -> Interval:
    """Share of prompts on which the new answer is worth more, ties counting half: (W + T / 2) / N."""
    gap = np.subtract(new, old)
    return mean_interval(((gap > 0) + 0.5 * (gap == 0)).tolist(), seed=seed)
