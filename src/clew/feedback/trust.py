"""Whom to believe where each pair was judged by a few, and what a pair's votes then come to."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from clew.feedback.aggregate import Outcome
from clew.feedback.crowd_bt import TRUSTED, UNKNOWN, Floats, check_anchored

SUREST = 0.99
"""Reliability beyond which nobody is believed when votes are added up."""


class Belief(NamedTuple):
    """What several raters together say of a pair.

    Example: `belief([(1.0, 0.9)])` is `Belief(0.9, 1.0)`: a vote of weight one by a rater right in nine of ten.
    """

    probability: float
    """That the first is better."""
    weight: float
    """Votes that the row stands for."""


def reliabilities(judged: Sequence[Outcome], *, trusted: Collection[str]) -> dict[str, float]:
    """Probability that each rater is right, from pairs that several judged: 0.5 is a coin, below it an adversary.

    One-coin Dawid-Skene (Applied Statistics 28, 1979) on pairs, whose truth is summed over and not fitted; soft votes
    count as what they say. Beta priors as for Crowd-BT, maximum in log-odds: who shares no pair stays what the prior
    expects. Raises ValueError for raters who are not trusted, and linked to no one who is.
    """
    raters = sorted({o.rater for o in judged})
    number = {name: i for i, name in enumerate(raters)}
    by_pair: dict[frozenset[str], list[Outcome]] = defaultdict(list)
    for o in judged:
        by_pair[frozenset((o.first, o.second))].append(o)
    shared = [about for about in by_pair.values() if len({o.rater for o in about}) > 1]
    rows = [(i, number[o.rater], o.probability if o.first < o.second else 1 - o.probability)
            for i, about in enumerate(shared) for o in about]  # fmt: skip
    columns = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    pair, rater, said = columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2]
    check_anchored(pair, rater, raters, trusted)
    right, wrong = np.array([TRUSTED if name in trusted else UNKNOWN for name in raters]).reshape(-1, 2).T
    reliable = right / (right + wrong)
    votes = np.bincount(rater, minlength=len(raters))
    for _ in range(MOST_STEPS):
        before = reliable
        correct = _chance_correct(reliable[rater], said, pair)
        reliable = (right + np.bincount(rater, correct, len(raters))) / (right + wrong + votes)
        if np.abs(reliable - before).max(initial=0.0) < TOLERANCE:
            break
    return dict(zip(raters, reliable.tolist(), strict=True))


MOST_STEPS, TOLERANCE = 1000, 1e-9


def _chance_correct(reliable: Floats, said: Floats, pair: np.ndarray) -> Floats:
    """Of each vote, given what all say of its pair."""
    reliable = np.clip(reliable, 1e-9, 1 - 1e-9)
    first = said * reliable + (1 - said) * (1 - reliable)  # chance of the vote where the first is better
    truth = expit(np.bincount(pair, logit(first)))[pair]
    return truth * said * reliable / first + (1 - truth) * (1 - said) * reliable / (1 - first)


def belief(votes: Iterable[tuple[float, float]]) -> Belief:
    """Votes on one pair, (probability that the first is better, reliability of the rater), as a label and a weight.

    The label adds up log-odds, as Bayes does for raters who err independently; an adversary's vote counts for the
    other side. The weight is such that at equal scores the row pulls as hard as its votes do in the joint likelihood
    (METHODS A7): one vote counts one, votes that contradict each other less than their number.
    """
    log_odds = pull = 0.0
    for probability, reliability in votes:
        sure = min(max(reliability, 1 - SUREST), SUREST)
        says = probability * sure + (1 - probability) * (1 - sure)
        log_odds += float(logit(says))
        pull += says - 0.5
    probability = float(expit(log_odds))
    if abs(probability - 0.5) < NOTHING:
        return Belief(0.5, 0.0)
    return Belief(probability, max(pull / (probability - 0.5), 0.0))


NOTHING = 1e-9
"""As far as votes may be from even and still say nothing."""
