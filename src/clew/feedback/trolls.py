"""Trolls and spammers: raters whose votes everybody else's votes do not bear out (after Ju et al., arXiv 2208.03295).

A flag is a reversible filter: nothing here deletes anything. What the words mean:

- a **spammer** votes without looking: its votes say next to nothing of the items (always the first; at random);
- a **troll** votes against what it sees: on most items, on the hard ones, or on one topic (gaslighting);
- a **noisy or biased** rater follows the consensus less closely, leans left, or to long answers: neither;
- a rater **of another opinion** follows a taste that others share (opinions.py): neither.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logit, ndtr
from scipy.stats import binom

from clew.feedback.aggregate import Outcome
from clew.feedback.opinions import Kinship, kinships
from clew.feedback.significance import adjusted
from clew.feedback.tastes import Ballots, Bools, Floats, Unseen, calibrated, regression, sigma, unseen

Reason = Literal["consensus", "constant", "topic"]
SHARES: dict[Reason, float] = {"consensus": 0.7, "constant": 0.15, "topic": 0.15}
"""Of the error that one rater's test may make (weighted Bonferroni): most for what finds most."""
LEFT = 0.85
"""Chance of one and the same side up to which a rater is biased; beyond, constant."""
FEWEST_ON_TOPIC = 8
"""Votes on a topic from which it is tested; and it must be at most half of all, or the rest would be the odd one."""


@dataclass(frozen=True)
class Suspicion:
    """How far a rater's votes are from what others' votes bear out.

    Example: `Suspicion("ben", 80, z=6.3, p_values={"consensus": 1e-10, ...}, ...)` is flagged for going against it.
    """

    rater: str
    num_votes: int
    z: float
    """Disbelief in the votes in standard deviations, against a rater who just follows the consensus well enough."""
    p_values: dict[Reason, float]
    """Of each test: does not follow the consensus; says always the same; turns one topic round."""
    topic: str
    """The topic with the most disbelief; empty where none could be tested."""
    kinship: Kinship
    false_discovery: float
    """Smallest rate of false discoveries at which the rater is flagged."""
    flagged: bool
    reason: Reason
    """The test that speaks loudest."""


def suspicions(
    judged: Sequence[Outcome],
    *,
    topics: Sequence[str] | None = None,
    chances: Sequence[float] | None = None,
    together: Sequence[tuple[str, str]] = (),
    q: float = 0.1,
    floor: float = 0.65,
    fewest: int = 15,
    seed: int = 0,
) -> list[Suspicion]:
    """One for every rater, in order of names; all raters are judged at once, so no order of removal matters.

    Every vote is judged by models of the votes of other raters, and by `chances` in their place where given: that the
    first of each judgement is better, in the eyes of a reward model trained without this rater's votes. Three tests:
    the rater does not follow the consensus at least `floor` as well as a typical rater; it takes the same side far too
    often; it turns one of the `topics` (of each judgement) round, against its own votes elsewhere. Who follows a taste
    that others share passes the first test. Flags are by Benjamini-Hochberg at `q` over raters with at least `fewest`
    votes. `together`: pairs who copy each other (copying.py), so that neither vouches for the other.
    """
    ballots = Ballots.of(judged)
    seen = unseen(ballots, together=together, seed=seed)
    if chances is not None:
        known: Floats = logit(np.clip(np.asarray(chances, dtype=np.float64)[ballots.row], 1e-6, 1 - 1e-6))
        seen = Unseen(known, seen.taste)
    expected = calibrated(seen.consensus, ballots)
    values = np.column_stack([expected, seen.taste])
    topic = np.array([topics[row] if topics else "" for row in ballots.row.tolist()])
    tested = [
        _tested(kin, ballots.rater == u, ballots.says, values, topic, floor)
        for u, kin in enumerate(kinships(ballots, seen))
    ]
    return _flagged(tested, q, fewest)


def kept(judged: Iterable[Outcome], found: Iterable[Suspicion]) -> list[Outcome]:
    """The judgements of raters who are not flagged."""
    flagged = {s.rater for s in found if s.flagged}
    return [o for o in judged if o.rater not in flagged]


def disbelief(says: Floats, logits: Floats, *, floor: float = 1.0) -> float:
    """z = (sum(1 - p) - E) / sqrt(Var), p the chance of what was said; large for who votes against `logits`.

    E and Var are of a rater who follows `logits` in a share `floor` of the votes and tosses a coin in the others, and
    who leans left or right as much as this one: the lean is fitted, and Var is without what it takes away. 0 where
    nothing can be said, as of a rater who always says the same.
    """
    lead = np.tanh(logits / 2)  # 2 p - 1
    expected: Floats = logit((1 + floor * lead) / 2)
    p = sigma(expected + _lean(expected, float(says.sum())))
    free = p * (1 - p)
    pull = lead - (lead @ free) / free.sum()
    variance = float(pull**2 @ free)
    return float(pull @ (p - says)) / variance**0.5 if variance > 1e-9 * float(lead @ lead) else 0.0


def _lean(expected: Floats, total: float) -> float:
    """The intercept that makes the expected number of firsts the observed one; at most 8 logits either way."""

    def excess(lean: float) -> float:
        return float(sigma(expected + lean).sum()) - total

    if excess(-8.0) >= 0:
        return -8.0
    return 8.0 if excess(8.0) <= 0 else float(brentq(excess, -8.0, 8.0))


def _tested(
    kin: Kinship,
    mine: Bools,
    says: Floats,
    values: Floats,
    topic: NDArray[np.str_],
    floor: float,
) -> Suspicion:
    votes, num = says[mine], int(mine.sum())
    z = disbelief(votes, values[mine, 0], floor=floor) if num else 0.0
    most = max(float(votes.sum()), num - float(votes.sum()))
    by_topic = _topic_disbelief(votes, values[mine], topic[mine], floor)
    worst = max(by_topic, key=lambda name: by_topic[name], default="")
    p_values: dict[Reason, float] = {
        "consensus": 1.0 if kin.is_shared() else float(ndtr(-z)),
        "constant": min(1.0, 2 * float(binom.sf(int(np.ceil(most)) - 1, num, LEFT))),
        "topic": min(1.0, len(by_topic) * float(ndtr(-by_topic[worst]))) if by_topic else 1.0,
    }
    reason = min(SHARES, key=lambda name: p_values[name] / SHARES[name])
    p_value = min(1.0, p_values[reason] / SHARES[reason])
    return Suspicion(kin.rater, num, z, p_values, worst, kin, p_value, False, reason)


def _topic_disbelief(says: Floats, values: Floats, topic: NDArray[np.str_], floor: float) -> dict[str, float]:
    """Disbelief in the votes on each topic of somebody who values what this rater's votes on other topics show."""
    found: dict[str, float] = {}
    for name in sorted(set(topic.tolist()) - {""}):
        on = topic == name
        if FEWEST_ON_TOPIC <= on.sum() <= len(on) / 2:
            elsewhere = regression(values[~on], says[~on])
            found[name] = disbelief(says[on], values[on] @ elsewhere.slopes, floor=floor)
    return found


def _flagged(tested: Sequence[Suspicion], q: float, fewest: int) -> list[Suspicion]:
    """p-values turned into rates of false discoveries among raters with enough votes; others are not flagged."""
    enough = [i for i, s in enumerate(tested) if s.num_votes >= fewest]
    rates = dict(zip(enough, adjusted([tested[i].false_discovery for i in enough]).tolist(), strict=True))
    return [
        Suspicion(**{**vars(s), "false_discovery": rates.get(i, 1.0), "flagged": rates.get(i, 1.0) <= q})
        for i, s in enumerate(tested)
    ]
