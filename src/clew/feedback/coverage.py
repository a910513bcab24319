"""Whose feedback it is: raters against the population they speak for, thin places, and the pull of suggestions."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from clew.feedback.records import Comparison, Feedback, ItemId
from clew.feedback.significance import Share, adjusted, wilson


class GroupShare(NamedTuple):
    """One group of raters. Example: `GroupShare("over 60", 0.25, wilson(2, 30), 0.05, 5.0, 0.02)`"""

    group: str
    declared: float
    """Share of the population that raters should speak for."""
    raters: Share
    """Share of the raters who answered: selection."""
    answers: float
    """Share of the answers: what a plain average listens to."""
    weight: float
    """Of one answer of this group, so that groups count as declared (post-stratification); 1 on average over answers.
    0 where nobody of the group answered: no weight mends that."""
    false_discovery: float
    """Smallest rate of false discoveries, over groups, at which the share of raters is not as declared."""


def group_shares(
    records: Iterable[Feedback], groups: Mapping[str, str], declared: Mapping[str, float]
) -> list[GroupShare]:
    """One for every declared group, in its order. `groups` says to which each rater belongs.

    ValueError where declared shares do not sum to 1, or a rater who answered is in no declared group.
    """
    if any(p <= 0 for p in declared.values()) or abs(sum(declared.values()) - 1) > 1e-6:
        raise ValueError(f"declared shares must be above 0 and sum to 1; got {dict(declared)}")
    answers = Counter(record.rater.id for record in records)
    if strangers := sorted(name for name in answers if groups.get(name) not in declared):
        raise ValueError(
            f"raters {strangers[:3]} are in none of the declared groups {list(declared)}; give each a group"
        )
    raters = Counter(groups[name] for name in answers)
    given = Counter[str]()
    for name, num in answers.items():
        given[groups[name]] += num
    covered = sum(declared[g] for g in declared if given[g])
    rates = adjusted([_unlike(raters[g], len(answers), declared[g]) for g in declared]).tolist()
    total = sum(given.values())
    return [
        GroupShare(
            group,
            expected,
            wilson(raters[group], len(answers)),
            given[group] / max(total, 1),
            expected / covered / (given[group] / total) if given[group] else 0.0,
            rate,
        )
        for (group, expected), rate in zip(declared.items(), rates, strict=True)
    ]


def effective_number(weights: Sequence[float]) -> float:
    """How many answers of equal weight tell as much: (sum w)^2 / sum w^2 (Kish, Survey Sampling, 1965, sec. 8.2)."""
    w = np.asarray(weights, dtype=np.float64)
    return float(w.sum() ** 2 / (w**2).sum()) if w.any() else 0.0


def thin_items(
    records: Iterable[Feedback], groups: Mapping[str, str], *, least: int = 1, among: Iterable[str] | None = None
) -> dict[str, list[ItemId]]:
    """Items that fewer than `least` raters of a group answered about, by group; groups without thin items are left out.

    Of all groups of raters, or those `among`; an item is thin in a group of which nobody answered at all.
    """
    seen: dict[ItemId, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in records:
        for item in record.items:
            seen[item][groups[record.rater.id]].add(record.rater.id)
    wanted = sorted(set(groups.values()) if among is None else set(among))
    thin = {g: sorted(item for item, by in seen.items() if len(by[g]) < least) for g in wanted}
    return {g: items for g, items in thin.items() if items}


class Pull(NamedTuple):
    """How far showing a suggestion pulls answers to it. `Pull(wilson(9, 10), wilson(6, 10), 0.3, -0.1, 0.6)`, say."""

    shown: Share
    """Answers that agree with the suggestion, of those who saw it."""
    hidden: Share
    """The same of those who did not see it."""
    difference: float
    """Confirmation bias: what showing it adds, with its 95 % interval."""
    low: float
    high: float


def confirmation(records: Iterable[Feedback], suggested: Mapping[str, ItemId]) -> Pull:
    """Comparisons with a suggestion shown (`assisted`) against others of tasks with one; `suggested` by id of the task.

    Newcombe's interval of a difference of shares (Statistics in Medicine 17, 1998, method 10). It is an effect of
    showing only if chance decided to whom the suggestion was shown.
    """
    counts = {True: [0, 0], False: [0, 0]}
    for record in records:
        answer = record.answer
        if isinstance(answer, Comparison) and answer.verdict in ("first", "second") and record.task_id in suggested:
            said = record.items[answer.verdict == "second"]
            counts[record.assisted][0] += said == suggested[record.task_id]
            counts[record.assisted][1] += 1
    shown, hidden = (wilson(*counts[key]) for key in (True, False))
    gap = shown.value - hidden.value
    low = gap - np.hypot(shown.value - shown.low, hidden.high - hidden.value)
    high = gap + np.hypot(shown.high - shown.value, hidden.value - hidden.low)
    return Pull(shown, hidden, gap, float(low), float(high))


class Balance(NamedTuple):
    """Experts' rows against others'. Example: `Balance(5.0, 0.5, 360.0)`"""

    weight: float
    """Of an expert's row where another counts 1."""
    share: float
    """Of the total weight that experts have with it."""
    effective: float
    """Rows of equal weight that would tell as much, of both together."""


def expert_weight(num_experts: int, num_others: int, *, share: float = 0.5, most: float = 10.0) -> Balance:
    """The weight that gives experts' demonstrations this `share` of the total, but at most `most`.

    The cap keeps a handful of experts' rows from being the whole lesson: read `share` for what they get under it.
    ValueError for shares outside [0, 1), and where there is no row at all.
    """
    if not 0 <= share < 1 or num_experts + num_others == 0:
        raise ValueError(f"needs a share in [0, 1) and some rows; got {share} of {num_experts} and {num_others} rows")
    wanted = share / (1 - share) * num_others / num_experts if num_experts else 1.0
    weight = min(wanted, most) if num_others else 1.0
    total = weight * num_experts + num_others
    effective = total**2 / (weight**2 * num_experts + num_others) if total else 0.0
    return Balance(weight, weight * num_experts / total if total else 0.0, effective)


def _unlike(count: int, num: int, expected: float) -> float:
    """Two-sided p-value of a share of raters, by the score test."""
    if num == 0:
        return 1.0
    z = abs(count / num - expected) / np.sqrt(expected * (1 - expected) / num) if expected < 1 else 0.0
    return float(2 * ndtr(-z))
