"""From judgements to one strength an item: what was judged, counted; Bradley-Terry; Elo for those who ask for it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clew.feedback.bradley_terry import Games, fit_games
from clew.feedback.records import Comparison, Feedback, ItemId, Ranking
from clew.feedback.strengths import Floats, Ints

POINTS = 400 / math.log(10)
"""Elo points in a logit."""


class Outcome(NamedTuple):
    """One judgement between two items: probability that the first is better, and how much it counts."""

    first: ItemId
    second: ItemId
    probability: float
    weight: float = 1.0
    margin: float = 0.0
    """How much better the first is said to be; below 0, the second."""
    rater: str = ""
    """Who judged; empty when nobody said."""


def outcomes(records: Iterable[Feedback], *, both_bad: Literal["apart", "tie"] = "apart") -> list[Outcome]:
    """Judgements in comparisons and rankings, in order, with who made them.

    A tie has probability 0.5. unsure says nothing about who is better, nor does both_bad unless it is to count as a
    tie. Places that a ranking left out as not rankable are in no judgement.
    """
    found: list[Outcome] = []
    for record in records:
        answer, rater = record.answer, record.rater.id
        if isinstance(answer, Comparison):
            probability = 0.5 if (answer.verdict, both_bad) == ("both_bad", "tie") else answer.probability
            if probability is not None:
                margin = answer.margin * (2 * probability - 1)
                found.append(Outcome(record.items[0], record.items[1], probability, margin=margin, rater=rater))
        elif isinstance(answer, Ranking):
            places = [(place, rank) for rank, group in enumerate(answer.groups) for place in group]
            for (a, rank_a), (b, rank_b) in combinations(places, 2):
                better = 0.5 if rank_a == rank_b else 1.0
                found.append(Outcome(record.items[a], record.items[b], better, rater=rater))
    return found


def by_margin(judged: Sequence[Outcome], weight: Callable[[float], float]) -> list[Outcome]:
    """Judgements that count for more the stronger they are: weights times `weight` of the size of the margin.

    Example: `by_margin(judged, lambda margin: (1 + margin) / 4)` for Llama-2's degrees 0 to 3 (arXiv 2307.09288).
    """
    return [o._replace(weight=o.weight * weight(abs(o.margin))) for o in judged]


def contrast(first: ArrayLike, second: ArrayLike) -> Floats:
    """A feature of both sides as (first - second) / (first + second), scaled to a mean square of 1.

    For features of 0 or more, such as words or headings. Not centred, unlike Chatbot Arena's (2024, style control):
    the difference of a swapped pair must be its negative, or a preference for length would hide one for the left.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if (a < 0).any() or (b < 0).any():
        raise ValueError("a contrast compares amounts of 0 or more; got a negative one")
    share = np.divide(a - b, a + b, out=np.zeros_like(a), where=a + b > 0)
    size = float(np.sqrt(np.mean(share**2))) if share.size else 0.0
    return share / size if size else share


def games(
    judged: Sequence[Outcome],
    *,
    features: Mapping[str, Sequence[float] | Floats] | None = None,
    left: bool = False,
    clusters: Sequence[str] | None = None,
) -> Games:
    """The distinct judgements and how often each was made.

    `features`: for each judgement, what else speaks for the first less what speaks for the second (`contrast`).
    `left` adds the feature `left`, 1 for what was shown first. `clusters`: what makes judgements depend on each other,
    such as their raters or prompts, for honest intervals. Judgements of weight 0 count for nothing.
    """
    named = {name: np.asarray(values, dtype=float) for name, values in (features or {}).items()}
    named |= {"left": np.ones(len(judged))} if left else {}
    _check(judged, named, clusters)
    items = tuple(sorted({o.first for o in judged} | {o.second for o in judged}))
    place = {item: i for i, item in enumerate(items)}
    kept = [o.weight > 0 for o in judged]
    pair = np.array([place[o.first] * len(items) + place[o.second] for o in judged], dtype=np.int64)[kept]
    probability = np.array([o.probability for o in judged])[kept]
    weight = np.array([o.weight for o in judged])[kept]
    columns = [values[kept] for values in named.values()]
    groups = None if clusters is None else np.unique(np.array(clusters)[kept], return_inverse=True)[1]
    rows, counts = _distinct([pair, probability, weight, *columns, *([] if groups is None else [groups])])
    return Games(
        items,
        first=pair[rows] // max(len(items), 1),
        second=pair[rows] % max(len(items), 1),
        probability=probability[rows],
        weight=weight[rows],
        counts=counts,
        features=np.stack(columns, axis=1)[rows] if columns else np.zeros((len(rows), 0)),
        feature_names=tuple(named),
        clusters=None if groups is None else groups[rows],
    )


def win_matrix(played: Games) -> Floats:
    """How often the item of a row was preferred to the item of a column, ties as halves. [N, N]

    With its transpose added it is how often the two met.
    """
    wins = np.zeros((len(played.items), len(played.items)))
    times = played.counts * played.weight
    np.add.at(wins, (played.first, played.second), times * played.probability)
    np.add.at(wins, (played.second, played.first), times * (1 - played.probability))
    return wins


def bradley_terry(judged: Sequence[Outcome], *, prior: float = 0.1) -> dict[ItemId, float]:
    """Maximum a posteriori strengths: P(i beats j) = sigma(s_i - s_j), s ~ Normal(0, 1 / prior).

    In logits; mean zero among the items that judgements connect, and only those can be compared. A tie counts half a
    win each. With `prior` 0 it is maximum likelihood, which is infinite for an item that always wins; ValueError then.
    Other models of ties, position, length and intervals: `fit_games(games(judged, ...))`.
    """
    return fit_games(games(judged), prior=prior).strengths


def in_points(
    strengths: Mapping[ItemId, float], *, anchor: ItemId | None = None, at: float = 1000.0
) -> dict[ItemId, float]:
    """Strengths on Elo's scale: 400 points are odds of ten to one. `anchor` stands at `at`; without, zero does."""
    zero = 0.0 if anchor is None else strengths[anchor]
    return {item: at + POINTS * (strength - zero) for item, strength in strengths.items()}


def elo(judged: Sequence[Outcome], *, k: float = 32.0, start: float = 1000.0) -> dict[ItemId, float]:
    """Sequential Elo ratings: depends on the order of games, keeps their sum. For display; publish Bradley-Terry."""
    ratings: dict[ItemId, float] = {}
    for outcome in judged:
        a, b = ratings.setdefault(outcome.first, start), ratings.setdefault(outcome.second, start)
        gain = k * outcome.weight * (outcome.probability - 1 / (1 + 10 ** ((b - a) / 400)))
        ratings[outcome.first], ratings[outcome.second] = a + gain, b - gain
    return ratings


def shuffled_elo(
    judged: Sequence[Outcome], rng: np.random.Generator, *, rounds: int = 100, k: float = 32.0, start: float = 1000.0
) -> dict[ItemId, float]:
    """Elo averaged over random orders of the games: the order no longer matters, but for chance."""
    orders: list[list[int]] = [rng.permutation(len(judged)).tolist() for _ in range(rounds)]
    drawn = [elo([judged[i] for i in order], k=k, start=start) for order in orders]
    return {item: float(np.mean([ratings[item] for ratings in drawn])) for item in elo(judged)}


def _check(judged: Sequence[Outcome], named: Mapping[str, Floats], clusters: Sequence[str] | None) -> None:
    for o in judged:
        if o.first == o.second or not (0 <= o.probability <= 1 and 0 <= o.weight < math.inf):
            raise ValueError(
                f"a judgement is between two items, with a probability from 0 to 1 and a weight of 0 or more; got {o}"
            )
    for name, values in {**named, **({} if clusters is None else {"clusters": np.zeros(len(clusters))})}.items():
        if values.shape != (len(judged),) or not np.isfinite(values).all():
            raise ValueError(f"{name}: expected a finite number for each of {len(judged)} judgements; got {values}")


def _distinct(columns: Sequence[Floats | Ints]) -> tuple[Ints, Floats]:
    """One row of each kind that there is, and how many there are of it."""
    code = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, place = np.unique(column, return_inverse=True)
        if len(values) > 1:
            code = np.unique(code * len(values) + place, return_inverse=True)[1]
    _, rows, counts = np.unique(code, return_index=True, return_counts=True)
    return rows, counts.astype(float)
