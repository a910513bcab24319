"""What raters value: each answer's worth on a consensus and on tastes beside it, and how much each rater cares."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from clew.feedback.aggregate import Outcome
from clew.feedback.records import ItemId

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def sigma(logit: Floats) -> Floats:
    """1 / (1 + exp(-logit)), without overflow."""
    return np.asarray(expit(logit), dtype=np.float64)


class Ballots(NamedTuple):
    """Judgements as columns: places in lists of names. Ties are left out, they say nothing about whom one follows."""

    first: Ints  # [V]
    second: Ints  # [V]
    rater: Ints  # [V]
    says: Floats  # [V]: that the first is better
    items: tuple[ItemId, ...]
    raters: tuple[str, ...]
    row: Ints  # [V], place among the judgements given

    @classmethod
    def of(cls, judged: Sequence[Outcome]) -> "Ballots":
        """ValueError where nobody said who judged."""
        if any(not o.rater for o in judged):
            raise ValueError(
                "every judgement must name its rater (Outcome.rater) to tell raters apart; got one without"
            )
        items = sorted({name for o in judged for name in (o.first, o.second)})
        raters = sorted({o.rater for o in judged})
        place = {name: i for i, name in enumerate(items)}
        who = {name: i for i, name in enumerate(raters)}
        rows = [
            (place[o.first], place[o.second], who[o.rater], i) for i, o in enumerate(judged) if o.probability != 0.5
        ]
        first, second, rater, row = np.array(rows, dtype=np.int64).reshape(-1, 4).T
        says = np.array([o.probability for o in judged])[row]
        return cls(first, second, rater, says, tuple(items), tuple(raters), row)

    def only(self, chosen: Bools) -> "Ballots":
        """The judgements where `chosen` [V] is true; every name keeps its place."""
        columns = {name: getattr(self, name)[chosen] for name in ("first", "second", "rater", "says", "row")}
        return self._replace(**columns)


class Tastes(NamedTuple):
    """P(first is better) = sigma(care_u . (worth_first - worth_second) + left_u); column 0 is the consensus."""

    worth: Floats  # [N, R]
    care: Floats  # [U, R]; below 0 in column 0: votes against the consensus
    left: Floats  # [U], logits in favour of what is shown first

    def contrast(self, ballots: Ballots) -> Floats:
        """How much more the first of each judgement is worth. [V, R]"""
        return self.worth[ballots.first] - self.worth[ballots.second]


CARE_PRECISION = 4.0
"""Raters care Normal(1, 1/4) for the consensus and Normal(0, 1/4) for a taste beside it."""


def consensus(ballots: Ballots, *, prior: float = 0.3) -> Tastes:
    """Bradley-Terry with a slope and a left bias for every rater: maximum a posteriori, worth ~ Normal(0, 1 / prior).

    A rater who answers at random gets a slope near 0 and counts for nothing; one who answers upside down gets a slope
    below 0 and counts the other way round. Right as long as most of what is said is meant.
    """
    start = Tastes(np.zeros((len(ballots.items), 1)), np.ones((len(ballots.raters), 1)), np.zeros(len(ballots.raters)))
    return _fitted(ballots, start, prior)


def with_taste(ballots: Ballots, start: Tastes, *, prior: float = 0.3) -> Tastes:
    """The consensus, and the one taste beside it that explains most of what raters have in common against it.

    Begins with the leading eigenvector of the agreement of raters' residuals on items (a low-rank factor of their
    deviations), a rater's agreement with itself left out: what one rater does alone is no taste.
    """
    on_items = residuals(ballots, start)
    agreement = on_items @ on_items.T
    np.fill_diagonal(agreement, 0)
    care = np.linalg.eigh(agreement)[1][:, -1] * np.sqrt(len(ballots.raters)) / 2
    both = Tastes(np.column_stack([start.worth, care @ on_items / 2]), np.column_stack([start.care, care]), start.left)
    return _fitted(ballots, both, prior)


def residuals(ballots: Ballots, model: Tastes) -> Floats:
    """How much more each rater made of each item than the model expects, in votes. [U, N]"""
    logit = (model.care[ballots.rater] * model.contrast(ballots)).sum(1) + model.left[ballots.rater]
    more = ballots.says - sigma(logit)
    on_items = np.zeros((len(ballots.raters), len(ballots.items)))
    np.add.at(on_items, (ballots.rater, ballots.first), more)
    np.add.at(on_items, (ballots.rater, ballots.second), -more)
    return on_items


def _fitted(ballots: Ballots, start: Tastes, prior: float) -> Tastes:
    (n, rank), num = start.worth.shape, len(ballots.raters)
    expected = np.eye(1, rank)  # 1 for the consensus, 0 for every other taste

    def parts(x: Floats) -> tuple[Floats, Floats, Floats]:
        worth, care, left = np.split(x, [n * rank, (n + num) * rank])
        return worth.reshape(n, rank), care.reshape(num, rank), left

    def loss(x: Floats) -> tuple[float, Floats]:
        worth, care, left = parts(x)
        gap = worth[ballots.first] - worth[ballots.second]
        logit = (care[ballots.rater] * gap).sum(1) + left[ballots.rater]
        miss = sigma(logit) - ballots.says
        to_worth, to_care = prior * worth, CARE_PRECISION * (care - expected)
        penalty = (worth * to_worth).sum() + ((care - expected) * to_care).sum() + left @ left
        for r in range(rank):
            pull = miss * care[ballots.rater, r]
            to_worth[:, r] += np.bincount(ballots.first, pull, n) - np.bincount(ballots.second, pull, n)
            to_care[:, r] += np.bincount(ballots.rater, miss * gap[:, r], num)
        to_left = np.bincount(ballots.rater, miss, num) + left
        value = (np.logaddexp(0, logit) - ballots.says * logit).sum() + penalty / 2
        return float(value), np.concatenate([to_worth.ravel(), to_care.ravel(), to_left])

    x = np.concatenate([start.worth.ravel(), start.care.ravel(), start.left])
    found = minimize(loss, x, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-8, "gtol": 1e-3})
    return Tastes(*parts(found.x))


class Unseen(NamedTuple):
    """How every judgement looks to models that never saw any judgement of its rater."""

    consensus: Floats  # [V], how much more the first is worth to everybody else
    taste: Floats  # [V], how much more it is to the taste of some


def unseen(ballots: Ballots, *, folds: int = 20, together: Sequence[tuple[str, str]] = (), seed: int = 0) -> Unseen:
    """Cross-fitting over raters. `together` names pairs who copy: they are left out together, or one would vouch for
    the other. The sign of the taste is the same in all folds: that of the model of all judgements.
    """
    fold = _folds(ballots.raters, folds, together, seed)
    direction = with_taste(ballots, consensus(ballots)).worth[:, 1]
    common, taste = np.zeros(len(ballots.says)), np.zeros(len(ballots.says))
    for number in np.unique(fold):
        mine = fold[ballots.rater] == number
        others, own = ballots.only(~mine), ballots.only(mine)
        model = consensus(others)
        common[mine] = model.contrast(own)[:, 0]
        both = with_taste(others, model)
        sign = 1.0 if both.worth[:, 1] @ direction >= 0 else -1.0
        taste[mine] = sign * both.contrast(own)[:, 1]
    return Unseen(common, taste)


def _folds(raters: Sequence[str], folds: int, together: Sequence[tuple[str, str]], seed: int) -> Ints:
    """A number for every rater, evenly spread and random; the same for raters who belong together. [U]"""
    head: dict[str, str] = {name: name for name in raters}
    for one, other in together:
        old, new = head[other], head[one]
        head = {name: new if of == old else of for name, of in head.items()}
    heads = sorted(set(head.values()))
    order = np.random.default_rng(seed).permutation(len(heads)) % folds
    number: Mapping[str, int] = dict(zip(heads, order.tolist(), strict=True))
    return np.array([number[head[name]] for name in raters], dtype=np.int64)


class Line(NamedTuple):
    """A logistic regression: slopes, intercept, log likelihood of the answers."""

    slopes: Floats
    intercept: float
    log_likelihood: float


def regression(x: Floats, says: Floats, *, ridge: float = 0.3) -> Line:
    """says ~ sigma(x . slopes + intercept) by Newton's method; `ridge` keeps slopes finite. x [V, F]; F may be 0."""
    design = np.column_stack([x, np.ones(len(says))])
    penalty = np.append(np.full(x.shape[1], ridge), ridge / 3)
    found = np.zeros(design.shape[1])
    for _ in range(25):
        p = sigma(design @ found)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, design.T @ (says - p) - penalty * found)
        found = found + step
        if np.abs(step).max() < 1e-8:
            break
    logit = design @ found
    return Line(found[:-1], float(found[-1]), float((says * logit - np.logaddexp(0, logit)).sum()))


def calibrated(logits: Floats, ballots: Ballots) -> Floats:
    """Logits as steep as typical raters surely follow them: a mean of raters' slopes, weighted by those above 0. [V]

    Weight and slope are from different halves of a rater's votes, and one standard error over raters is taken off, so
    that nothing is left where nobody follows anything: else chance would make a consensus, to accuse of not following.
    """
    parts = np.array([_slope_and_weight(logits, ballots, u) for u in range(len(ballots.raters))])
    total, weight = parts.sum(0)
    slope = total / weight if weight > 0 else 0.0
    error = float(np.sqrt(((parts[:, 0] - slope * parts[:, 1]) ** 2).sum())) / weight if weight > 0 else 0.0
    return logits * max(slope - error, FLATTEST)


FLATTEST = 0.01
"""A slope of a consensus that is none; above 0, or nothing could be computed."""


def _slope_and_weight(logits: Floats, ballots: Ballots, rater: int) -> tuple[float, float]:
    mine = np.flatnonzero(ballots.rater == rater)
    mine = mine[np.lexsort((ballots.says[mine], ballots.second[mine], ballots.first[mine]))]  # in whatever order
    one, other = (float(regression(logits[h, None], ballots.says[h]).slopes[0]) for h in (mine[::2], mine[1::2]))
    return max(one, 0) * other + max(other, 0) * one, max(one, 0) + max(other, 0)
