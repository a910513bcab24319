"""Who is better and whom to believe, found together: Bradley-Terry with raters who err, or mean the opposite."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit

from clew.feedback.aggregate import Outcome, bradley_terry
from clew.feedback.records import ItemId

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Beta = tuple[float, float]

TRUSTED: Beta = (4.0, 1.0)
"""Of a rater who is one of those the order is meant for: mostly right, in the eyes of the prior."""
UNKNOWN: Beta = (1.0, 1.0)
"""Of any other, an AI judge say: what it is worth, and its sign, is for the overlap with trusted raters to tell."""


class Crowd(NamedTuple):
    """Strengths in natural units, mean zero, and how reliable each rater is: 1 always right, 0.5 a coin, 0 an
    adversary, whose votes count the other way round.
    """

    strengths: dict[ItemId, float]
    reliability: dict[str, float]


def crowd_bt(judged: Sequence[Outcome], *, trusted: Collection[str], prior: float = 0.1) -> Crowd:
    """Maximum a posteriori of Crowd-BT (Chen et al., WSDM 2013, eq. 4-7): P_a(i > j) = h_a s(D) + (1 - h_a) s(-D).

    D is the difference of strengths, each Normal(0, 1 / prior); h_a the rater's reliability, with a Beta prior for
    `trusted` raters and a flat one for others. The maximum is taken in log-odds of h_a, so that a rater without votes
    is what the prior expects, and nobody is infallible.

    It is for tournaments, where an item is in many comparisons. Where it is in one or two, its strength agrees with
    whoever judged, and everybody looks reliable: `trust.reliabilities` is for that.

    (s, h) and (-s, 1 - h) fit the votes equally well: only trusted raters say which of both is meant. Raises
    ValueError where raters share no item, however indirectly, with a trusted one.
    """
    if not judged:
        return Crowd({}, {})
    votes = _Votes.of(judged, trusted)
    seen = np.concatenate([votes.first, votes.second]), np.concatenate([votes.rater, votes.rater])
    check_anchored(*seen, votes.raters, trusted)
    start = bradley_terry([o for o in judged if o.rater in trusted], prior=max(prior, 0.1))
    a, b = votes.prior_R2.T
    before = np.concatenate([[start.get(name, 0.0) for name in votes.items], np.log(a / b)])
    found = minimize(
        lambda x: negative_log_posterior(x, votes, prior=prior),
        before,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "gtol": 1e-9, "ftol": 1e-14},
    ).x
    strengths, log_odds = np.split(found, [len(votes.items)])
    strengths = strengths - strengths.mean()
    return Crowd(
        dict(zip(votes.items, strengths.tolist(), strict=True)),
        dict(zip(votes.raters, expit(log_odds).tolist(), strict=True)),
    )


def negative_log_posterior(x: Floats, votes: "_Votes", *, prior: float) -> tuple[float, Floats]:
    """Of strengths and log-odds of reliability, one after the other, with its gradient; up to a constant."""
    num = len(votes.items)
    strengths, log_odds = x[:num], x[num:]
    gap, reliable = strengths[votes.first] - strengths[votes.second], log_odds[votes.rater]
    # log of h s(D) + (1 - h) s(-D), and of the same with the sign of D turned, far from overflow
    straight, turned = log_expit(reliable), log_expit(-reliable)
    first = np.logaddexp(straight + log_expit(gap), turned + log_expit(-gap))
    second = np.logaddexp(straight + log_expit(-gap), turned + log_expit(gap))
    value = -votes.weight @ (votes.probability * first + (1 - votes.probability) * second)
    # P = (1 + tanh(t / 2) tanh(D / 2)) / 2 with t the log-odds of h: both slopes are of one form
    leaning = votes.weight * (votes.probability * np.exp(-first) - (1 - votes.probability) * np.exp(-second)) / 2
    sure, apart = np.tanh(reliable / 2), np.tanh(gap / 2)
    slope_gap = -leaning * sure * (1 - apart**2) / 2
    slope_odds = -leaning * apart * (1 - sure**2) / 2
    a, b = votes.prior_R2.T
    value += prior * (strengths @ strengths) / 2 - (a @ log_expit(log_odds) + b @ log_expit(-log_odds))
    gradient = np.concatenate(
        [
            np.bincount(votes.first, slope_gap, num) - np.bincount(votes.second, slope_gap, num) + prior * strengths,
            np.bincount(votes.rater, slope_odds, len(votes.raters)) - a * expit(-log_odds) + b * expit(log_odds),
        ]
    )
    return float(value), gradient


class _Votes(NamedTuple):
    """Judgements as numbers of items and raters."""

    items: list[ItemId]
    raters: list[str]
    first: Ints
    second: Ints
    rater: Ints
    probability: Floats
    weight: Floats
    prior_R2: Floats

    @classmethod
    def of(cls, judged: Sequence[Outcome], trusted: Collection[str]) -> "_Votes":
        items, raters = sorted({i for o in judged for i in (o.first, o.second)}), sorted({o.rater for o in judged})
        at, by = _places(items), _places(raters)
        return cls(
            items,
            raters,
            np.array([at[o.first] for o in judged], dtype=np.int64),
            np.array([at[o.second] for o in judged], dtype=np.int64),
            np.array([by[o.rater] for o in judged], dtype=np.int64),
            np.array([o.probability for o in judged]),
            np.array([o.weight for o in judged]),
            np.array([TRUSTED if name in trusted else UNKNOWN for name in raters]),
        )


def _places(names: Sequence[str]) -> Mapping[str, int]:
    return {name: i for i, name in enumerate(names)}


def check_anchored(seen: Ints, rater: Ints, raters: Sequence[str], trusted: Collection[str]) -> None:
    """Whoever judged what is `seen` is linked, by what both judged, to a trusted rater. Raises ValueError."""
    num = int(seen.max(initial=-1)) + 1
    size = num + len(raters)
    links = coo_array((np.ones(len(seen)), (seen, rater + num)), shape=(size, size))
    parts = connected_components(links, directed=False)[1]
    is_trusted = np.array([name in trusted for name in raters], dtype=bool)
    lost = ~np.isin(parts[num:], parts[num:][is_trusted])
    if lost.any():
        names = [name for name, is_lost in zip(raters, lost, strict=True) if is_lost]
        raise ValueError(
            f"raters {', '.join(map(repr, names[:3]))} share no item with a trusted one, so that their votes and the "
            "opposite of them are equally likely; let people judge some of the same items, or trust one of these raters"
        )
