"""One quality of each item from many ratings and flaws, whoever gave them; and strengths made into rewards."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clew.feedback.records import Feedback, Flaws, ItemId, Rating
from clew.feedback.tastes import Floats, Ints


class Point(NamedTuple):
    """One rater's number for one item on one scale. Example: `Point("a1", "anna", "helpful", 4.0)`"""

    item: ItemId
    rater: str
    scale: str
    value: float


class Quality(NamedTuple):
    """Example: `Quality(0.8, 0.3)`"""

    value: float
    """In standard deviations of items, mean zero: 0 is a middling item, and one that nobody rated."""
    error: float
    """Standard error: 1 on a scale that nobody rated it on."""


def points(records: Iterable[Feedback]) -> list[Point]:
    """Ratings on every scale, and flaws as 1 where there is one and 0 where not; the last of a rater on an item."""
    found: dict[tuple[ItemId, str, str], Point] = {}
    for record in records:
        answer, rater = record.answer, record.rater.id
        values: Mapping[str, float] = {}
        if isinstance(answer, Rating):
            values = answer.scales
        elif isinstance(answer, Flaws):
            values = {name: float(flawed) for name, flawed in answer.flaws.items()}
        for scale, value in values.items():
            found[record.items[0], rater, scale] = Point(record.items[0], rater, scale, value)
    return list(found.values())


def quality(given: Sequence[Point], weights: Mapping[str, float]) -> dict[ItemId, Quality]:
    """The weighted sum over scales of what each item is worth on it; weights of flaws are below 0.

    On each scale, raters' offsets and scales are taken out first (`debiased`). Errors add up as if scales were
    independent. Scales without a weight are left out; ValueError where all are.
    """
    scales = sorted({p.scale for p in given} & set(weights))
    if not scales:
        named = sorted({p.scale for p in given})
        raise ValueError(f"none of the scales {named} has a weight; got weights for {sorted(weights)}")
    by_scale = {s: debiased([p for p in given if p.scale == s]) for s in scales}
    items = sorted({p.item for p in given if p.scale in weights})
    nothing = Quality(0.0, 1.0)
    found: dict[ItemId, Quality] = {}
    for item in items:
        parts = [(weights[s], by_scale[s].get(item, nothing)) for s in scales]
        value = sum(w * part.value for w, part in parts)
        found[item] = Quality(value, float(np.sqrt(sum((w * part.error) ** 2 for w, part in parts))))
    return found


def debiased(given: Sequence[Point]) -> dict[ItemId, Quality]:
    """Items' worth r from ratings z = s_a r + b_a + e of raters a, on one scale (METHODS A4); missing ones are no harm.

    z in units of the rater's own spread; r ~ Normal(0, 1); s_a ~ Normal(1, 1/4); b_a free, so that neither adding a
    number to all ratings of a rater nor multiplying them changes anything; e with one variance, estimated. By
    expectation and maximisation. A rater whose ratings never vary says nothing and is left out.
    """
    names, (items, rater, z) = sorted({p.item for p in given}), _standardised(given)
    place = {name: i for i, name in enumerate(names)}
    item = np.array([place[name] for name in items], dtype=np.int64)
    n, num = len(names), int(rater.max(initial=-1)) + 1
    worth, slope, noise = np.zeros(n), np.ones(num), 0.5
    for _ in range(500):
        before = worth
        offset = _means(z - slope[rater] * worth[item], rater, num)
        information = np.bincount(item, slope[rater] ** 2, n)
        worth = np.bincount(item, slope[rater] * (z - offset[rater]), n) / (information + noise)
        spread = noise / (information + noise)  # variance of worth
        centred = worth[item] - _means(worth[item], rater, num)[rater]
        slope = (np.bincount(rater, centred * z, num) + 4 * noise) / (
            np.bincount(rater, centred**2 + spread[item], num) + 4 * noise
        )
        left = z - slope[rater] * worth[item]
        left = left - _means(left, rater, num)[rater]
        freedom = max(len(z) - num, 1)  # less the offsets
        noise = max(float((left**2 + slope[rater] ** 2 * spread[item]).sum()) / freedom, 1e-4)
        if np.abs(worth - before).max(initial=0.0) < 1e-9:
            break
    error = np.sqrt(noise / (np.bincount(item, slope[rater] ** 2, n) + noise))
    return {name: Quality(float(w), float(e)) for name, w, e in zip(names, worth - worth.mean(), error, strict=True)}


def rewards(
    strengths: Mapping[ItemId, float], groups: Mapping[ItemId, str], *, most: float = 3.0
) -> dict[ItemId, float]:
    """Strengths (Bradley-Terry or Elo, all on one scale) as targets of pointwise training.

    Centred in every group of items that were compared with each other (of one prompt, say): between groups strengths
    mean nothing. Divided by the spread within groups, one number for all, so the unit does not matter; cut at `most`
    of these units. Items alone in their group were compared with nothing and get none.
    """
    members: dict[str, list[ItemId]] = defaultdict(list)
    for item in strengths:
        members[groups[item]].append(item)
    centred: dict[ItemId, float] = {}
    for group in members.values():
        middle = sum(strengths[i] for i in group) / len(group)
        centred |= {i: strengths[i] - middle for i in group if len(group) > 1}
    freedom = sum(len(group) - 1 for group in members.values())
    spread = np.sqrt(sum(v**2 for v in centred.values()) / max(freedom, 1)) or 1.0
    return {item: float(np.clip(value / spread, -most, most)) for item, value in centred.items()}


def _standardised(given: Sequence[Point]) -> tuple[list[ItemId], Ints, Floats]:
    """Items, places of raters, and ratings with mean 0 and spread 1 in every rater who varies."""
    by_rater: dict[str, list[Point]] = defaultdict(list)
    for point in given:
        by_rater[point.rater].append(point)
    items, raters, values = list[ItemId](), list[int](), list[Floats]()
    varied = [own for _, own in sorted(by_rater.items()) if len({p.value for p in own}) > 1]
    for number, own in enumerate(varied):
        z = np.array([p.value for p in own])
        items += [p.item for p in own]
        raters += [number] * len(own)
        values.append((z - z.mean()) / z.std())
    return items, np.array(raters, dtype=np.int64), np.concatenate(values) if values else np.zeros(0)


def _means(values: Floats, rater: Ints, num: int) -> Floats:
    return np.bincount(rater, values, num) / np.bincount(rater, minlength=num)
