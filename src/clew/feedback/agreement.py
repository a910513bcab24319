"""How far raters agree: Krippendorff's alpha, Cohen's and Fleiss's kappa, Gwet's AC1, Kendall's W and tau.

Most of it reads a table of counts [items, classes], as `Votes.counts()` gives it; items that one rater judged, or
nobody, say nothing about agreement and are left out. Nan means that there is nothing to compare.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import kendalltau, rankdata

from clew.feedback.crowd import Floats, Votes
from clew.feedback.records import Feedback, Ranking

Level = Literal["nominal", "ordinal", "interval", "ratio"]


class Bounded(NamedTuple):
    """A statistic with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """What it means that a statistic is below a value, and not below the band before."""

    below: float
    state: Literal["ok", "watch", "alarm"]
    meaning: str


class Reference(NamedTuple):
    """An agreement others have measured: where, raw pairwise share, source."""

    name: str
    agreement: float
    source: str


def alpha(counts: Floats, *, level: Level = "nominal", values: Sequence[float] | None = None) -> float:
    """Krippendorff's alpha, 1 - observed / expected disagreement (Krippendorff, Content Analysis, chapter 11).

    Missing judgements are allowed. `values` are the numbers that the classes stand for: needed for interval and ratio;
    ordinal reads the classes' order alone. Nan where all judgements are one value.
    """
    pairable = counts[counts.sum(1) >= 2]
    per_item = pairable.sum(1)
    used = pairable.sum(0)
    observed = (pairable / (per_item - 1)[:, None]).T @ pairable
    observed[np.diag_indices_from(observed)] -= (pairable / (per_item - 1)[:, None]).sum(0)
    distance = _distance(level, used, values)
    expected = (np.outer(used, used) * distance).sum()
    if not expected > 0:
        return float("nan")
    return float(1 - (used.sum() - 1) * (observed * distance).sum() / expected)


def raw_agreement(counts: Floats) -> float:
    """Share of pairs of judgements of one item that say the same."""
    per_item = counts.sum(1)
    pairs = (per_item * (per_item - 1)).sum()
    return float((counts * (counts - 1)).sum() / pairs) if pairs > 0 else float("nan")


def fleiss(counts: Floats) -> float:
    """Fleiss's kappa (Psychological Bulletin 76, 1971): every item has the same number of judgements.

    ValueError where not; alpha and AC1 take items with different numbers.
    """
    per_item = counts.sum(1)
    if len(np.unique(per_item)) > 1:
        raise ValueError(
            f"Fleiss's kappa needs one number of raters for all items; got {per_item.min():.0f} to "
            f"{per_item.max():.0f}; use alpha or gwet"
        )
    return _above_chance(raw_agreement(counts), float(((counts.sum(0) / counts.sum()) ** 2).sum()))


def gwet(counts: Floats) -> float:
    """Gwet's AC1 (Br. J. Math. Stat. Psychol. 61, 2008): steady where one class is nearly all."""
    per_item = counts.sum(1)
    several = counts[per_item >= 2]
    if not len(several) or counts.shape[1] < 2:
        return float("nan")
    n = several.sum(1)
    agreed = float(((several * (several - 1)).sum(1) / (n * (n - 1))).mean())
    shares = (counts[per_item > 0] / per_item[per_item > 0, None]).mean(0)
    return _above_chance(agreed, float((shares * (1 - shares)).sum() / (counts.shape[1] - 1)))


def cohen(table: Floats, *, weights: Literal["same", "linear", "quadratic"] = "same") -> float:
    """Cohen's kappa of two raters, from how often they said each pair of classes [classes, classes].

    Weighted by how far apart the classes stand in their order (Psychological Bulletin 70, 1968), for ordered classes.
    """
    k = len(table)
    gap = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    distance = {"same": gap > 0, "linear": gap, "quadratic": gap**2}[weights].astype(np.float64)
    total = table.sum()
    expected = (np.outer(table.sum(1), table.sum(0)) * distance).sum()
    return float(1 - total * (table * distance).sum() / expected) if expected > 0 else float("nan")


def both(votes: Votes, first: str, second: str) -> Floats:
    """How often the first rater said a class (rows) where the second said one (columns). [classes, classes]"""
    k = len(votes.classes)
    said = np.full((2, len(votes.items)), -1)
    for row, name in zip(said, (first, second), strict=True):
        mine = votes.rater == votes.raters.index(name)
        row[votes.item[mine]] = votes.label[mine]
    shared = (said >= 0).all(0)
    return np.bincount(said[0, shared] * k + said[1, shared], minlength=k * k).reshape(k, k).astype(np.float64)


def kendall_w(values: Floats) -> float:
    """Kendall's coefficient of concordance, corrected for ties. [raters, items], nothing missing, smallest first."""
    ranks = np.asarray(rankdata(values, axis=1), dtype=np.float64)
    m, n = ranks.shape
    sums = ranks.sum(0)
    ties = sum(float((c**3 - c).sum()) for c in (np.unique(row, return_counts=True)[1] for row in ranks))
    most = m**2 * (n**3 - n) - m * ties
    return float(12 * ((sums - sums.mean()) ** 2).sum() / most) if most > 0 else float("nan")


def kendall_tau(values: Floats) -> float:
    """Mean tau-b over pairs of raters, each on the items that both placed. [raters, items], nan where missing."""
    found = [
        float(kendalltau(a[shared], b[shared]).statistic)
        for a, b in combinations(values, 2)
        if (shared := ~(np.isnan(a) | np.isnan(b))).sum() >= 2
    ]
    return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def places(records: Iterable[Feedback]) -> dict[str, Floats]:
    """Places that raters gave the items of each ranking, by the items' sorted ids joined with `|`. [raters, items]

    0 is best; tied items share a place; nan for items that a rater could not place.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if isinstance(record.answer, Ranking):
            place = {item: float(rank) for rank, group in enumerate(record.answer.groups) for item in group}
            order = sorted(range(len(record.items)), key=lambda i: record.items[i])
            row = [place.get(i, float("nan")) for i in order]
            found.setdefault("|".join(sorted(record.items)), {})[record.rater.id] = row
    return {items: np.array(list(rows.values())) for items, rows in found.items()}


def bootstrap(counts: Floats, statistic: Callable[[Floats], float], *, repeats: int = 1000, seed: int = 0) -> Bounded:
    """A statistic of counts with the 95 % percentile interval over items drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = len(counts)
    draws = [statistic(counts[rng.integers(n, size=n)]) for _ in range(repeats)]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Bounded(statistic(counts), float(low), float(high))


def band(value: float, bands: Sequence[Band]) -> Band:
    """The band a value falls in."""
    return next(b for b in bands if value < b.below or b is bands[-1])


def _distance(level: Level, used: Floats, values: Sequence[float] | None) -> Floats:
    """How far apart two classes are, where `used` says how often each was chosen. [classes, classes]"""
    if level == "nominal":
        return 1 - np.eye(len(used))
    if level == "ordinal":
        middle = used.cumsum() - used / 2
        return np.subtract.outer(middle, middle) ** 2
    if values is None:
        raise ValueError(f"alpha at level {level!r} needs the numbers that the classes stand for; pass values")
    numbers = np.asarray(values, dtype=np.float64)
    gap = np.subtract.outer(numbers, numbers) ** 2
    if level == "interval":
        return gap
    total = np.add.outer(numbers, numbers) ** 2
    return np.divide(gap, total, out=np.zeros_like(gap), where=total > 0)


def _above_chance(agreed: float, chance: float) -> float:
    return (agreed - chance) / (1 - chance) if chance < 1 else float("nan")


RAW_BANDS = (
    Band(0.6, "alarm", "raters see different things: look at the guidelines, then at the raters"),
    Band(0.8, "ok", "usual for preferences"),
    Band(0.95, "ok", "high: clear criteria or easy items"),
    Band(float("inf"), "watch", "suspiciously high: copying, or items too easy to be worth labelling"),
)
ALPHA_BANDS = (
    Band(0.667, "watch", "below what Krippendorff takes for tentative conclusions; usual for preferences"),
    Band(0.8, "ok", "enough for tentative conclusions"),
    Band(float("inf"), "ok", "reliable"),
)
REFERENCES = (
    Reference("HH, crowd with researchers", 0.63, "Bai et al. 2022, arXiv 2204.05862"),
    Reference("InstructGPT, labelers", 0.726, "Ouyang et al. 2022, arXiv 2203.02155"),
    Reference("MT-bench, people with people", 0.81, "Zheng et al. 2023, arXiv 2306.05685, without ties"),
    Reference("MT-bench, GPT-4 with people", 0.85, "Zheng et al. 2023, arXiv 2306.05685, without ties"),
)
