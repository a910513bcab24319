"""From many judgements to one strength an item: Bradley-Terry, and Elo for those who ask for it."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from clew.feedback.records import Comparison, Feedback, ItemId, Ranking

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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


def bradley_terry(judged: Sequence[Outcome], *, prior: float = 0.1) -> dict[ItemId, float]:
    """Maximum a posteriori strengths: P(i beats j) = sigma(s_i - s_j), s ~ Normal(0, 1 / prior).

    Natural units, mean zero. A tie counts half a win for each. Items of different prompts that nobody compared are
    comparable only through the prior: strengths are to be read within a prompt. With `prior` 0 it is maximum
    likelihood, which does not exist for an item that always wins; ValueError then.
    """
    if not judged:
        return {}
    names, (first, second) = _index(judged)
    probability = np.array([o.probability for o in judged])
    weight = np.array([o.weight for o in judged])
    n = len(names)
    if prior == 0 and not _strongly_connected(first, second, probability, n):
        raise ValueError("some items only win or only lose, so their maximum likelihood is infinite; use a prior > 0")

    def loss(s: Floats) -> tuple[float, Floats]:
        gap = s[first] - s[second]
        nll = weight * (np.logaddexp(0, gap) - probability * gap)
        slope = weight * (expit(gap) - probability)
        gradient = np.bincount(first, slope, n) - np.bincount(second, slope, n) + prior * s
        return float(nll.sum() + prior * (s @ s) / 2), gradient

    fit = minimize(
        loss, np.zeros(n), jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-9, "ftol": 1e-14}
    )
    strengths: Floats = fit.x - fit.x.mean()
    return dict(zip(names, strengths.tolist(), strict=True))


def elo(judged: Sequence[Outcome], *, k: float = 32.0, start: float = 1000.0) -> dict[ItemId, float]:
    """Sequential Elo ratings: depends on the order of games, keeps their sum. For display; publish Bradley-Terry."""
    ratings: dict[ItemId, float] = {}
    for outcome in judged:
        a, b = ratings.setdefault(outcome.first, start), ratings.setdefault(outcome.second, start)
        gain = k * outcome.weight * (outcome.probability - 1 / (1 + 10 ** ((b - a) / 400)))
        ratings[outcome.first], ratings[outcome.second] = a + gain, b - gain
    return ratings


def _index(judged: Sequence[Outcome]) -> tuple[list[ItemId], tuple[Ints, Ints]]:
    names = sorted({name for o in judged for name in (o.first, o.second)})
    place = {name: i for i, name in enumerate(names)}
    first = np.array([place[o.first] for o in judged], dtype=np.int64)
    second = np.array([place[o.second] for o in judged], dtype=np.int64)
    return names, (first, second)


def _strongly_connected(first: Ints, second: Ints, probability: Floats, n: int) -> bool:
    """Ford's condition, in each part where anyone met: everyone can be reached from everyone along wins."""
    winners = np.concatenate([first[probability > 0], second[probability < 1]])
    losers = np.concatenate([second[probability > 0], first[probability < 1]])
    graph = coo_array((np.ones(len(winners)), (winners, losers)), shape=(n, n))
    strong, weak = (connected_components(graph, directed=True, connection=c)[0] for c in ("strong", "weak"))
    return bool(strong == weak)
