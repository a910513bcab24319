"""Is a model as often right as it says? Accuracy of preferences with its interval, and calibration error.

A margin is what a model says of a pair: score of the chosen answer minus score of the rejected one, so that
sigma(margin) is the probability it gives to the choice that was made.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from clew.evaluate.winrate import Interval

Numbers = Sequence[float] | np.ndarray


class Bin(NamedTuple):
    """Predictions of similar probability: what they said on average, and how often it came true.

    Example: `Bin(0.8, 0.65, 120)` said 80 % and was right in 65 % of 120 cases.
    """

    probability: float
    frequency: float
    size: int


def reliability(probabilities: Numbers, outcomes: Numbers, *, bins: int = 10) -> list[Bin]:
    """Predictions in bins of about equal size, from the least probable on; equal probabilities share a bin.

    Outcomes are 0 or 1, or between them where half a success is counted. Raises ValueError for probabilities outside
    [0, 1], and where there is nothing to put into bins.
    """
    p, y = np.asarray(probabilities, dtype=float), np.asarray(outcomes, dtype=float)
    if p.shape != y.shape or not len(p) or bins < 1:
        raise ValueError(
            f"got {len(p)} probabilities, {len(y)} outcomes and {bins} bins; expected equally many, and one bin or more"
        )
    if not (np.all((p >= 0) & (p <= 1)) and np.all((y >= 0) & (y <= 1))):
        raise ValueError(
            "probabilities and outcomes must lie in [0, 1]; of pairs with margins, take pair_confidence(margins)"
        )
    first = np.sort(p)[[len(p) * i // bins for i in range(1, bins)]]
    place = np.searchsorted(first, p, side="right")
    inside = [place == i for i in range(bins)]
    return [Bin(float(p[i].mean()), float(y[i].mean()), int(i.sum())) for i in inside if i.any()]


def expected_calibration_error(probabilities: Numbers, outcomes: Numbers, *, bins: int = 10) -> float:
    """Mean distance of frequency and probability over the bins, by their size (ECE; arXiv 1706.04599, eq. 3)."""
    found = reliability(probabilities, outcomes, bins=bins)
    return sum(b.size * abs(b.frequency - b.probability) for b in found) / sum(b.size for b in found)


def error_if_calibrated(
    probabilities: Numbers, *, bins: int = 10, seed: int = 0, draws: int = 200
) -> tuple[float, float]:
    """Mean and 95th percentile of the calibration error when outcomes truly have these probabilities.

    With few cases in a bin the error is above zero by chance alone: only what exceeds this is miscalibration.
    """
    rng = np.random.default_rng(seed)
    p = np.asarray(probabilities, dtype=float)
    drawn = (rng.random((draws, len(p))) < p).astype(float)
    errors = [expected_calibration_error(p, outcomes, bins=bins) for outcomes in drawn]
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def pair_confidence(margins: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """Of pairs: the probability of the answer that the model prefers, from 0.5 on, and whether it was chosen.

    That every pair is stored with its chosen answer first says nothing of the model: without this, outcomes would all
    be 1. An equal pair was half right.
    """
    return 1 / (1 + np.exp(-np.abs(margins))), correct(margins)


def correct(margins: Numbers) -> np.ndarray:
    """1 where the chosen answer has the larger score, 0.5 where both have the same."""
    x = np.asarray(margins, dtype=float)
    return (x > 0) + 0.5 * (x == 0)


def accuracy(margins: Numbers, groups: Sequence[Hashable] | None = None, *, seed: int = 0) -> Interval:
    """Share of pairs in the right order, equal scores counting half. Pairs of a group are resampled together."""
    right = correct(margins)
    return grouped_mean_interval(right, range(len(right)) if groups is None else groups, seed=seed)


def area_under_curve(scores: Sequence[float], good: Sequence[bool]) -> float:
    """Share of pairs of a good and a bad answer in which the good one has the larger score, ties counting half.

    Raises ValueError where there are not both kinds.
    """
    from scipy.stats import rankdata  # half a second, which nobody who trains on pairs need wait for

    if not any(good) or all(good):
        raise ValueError(f"all {len(good)} answers are {'good' if any(good) else 'bad'}; expected some of both")
    ranks, chosen = rankdata(scores), np.asarray(good)
    num_good, num_bad = int(chosen.sum()), int((~chosen).sum())
    return float((ranks[chosen].sum() - num_good * (num_good + 1) / 2) / (num_good * num_bad))


def described(margins: Numbers, groups: Sequence[Hashable] | None = None) -> dict[str, float]:
    """Accuracy with its interval, calibration error and number of pairs, for a file of results."""
    right = accuracy(margins, groups)
    error = expected_calibration_error(*pair_confidence(margins))
    return {
        "accuracy": right.value,
        "accuracy_low": right.low,
        "accuracy_high": right.high,
        "calibration_error": error,
        "pairs": len(margins),
    }


def grouped_mean_interval(
    values: Numbers, groups: Sequence[Hashable], *, seed: int = 0, resamples: int = 2000
) -> Interval:
    """Mean over rows with its percentile bootstrap interval, whole groups resampled: rows of one prompt, one rater.

    Groups of one row each give `mean_interval`.
    """
    if not len(values) or len(values) != len(groups):
        raise ValueError(f"got {len(values)} values and {len(groups)} groups; expected equally many, at least one")
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    place = [number[group] for group in groups]
    sums, counts = np.bincount(place, weights=values), np.bincount(place)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))
