"""What each rater's comparisons say of the rater: right, consistent, biased, hurried, out of line."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, binomtest, entropy, theilslopes

from clew.feedback.aggregate import outcomes
from clew.feedback.copying import Copy, copies
from clew.feedback.records import Comparison, Feedback, Item, ItemId
from clew.feedback.significance import Share, adjusted, benjamini_hochberg, wilson
from clew.feedback.tastes import Ballots, Floats, calibrated, unseen

__all__ = ["RaterReport", "Trend", "benjamini_hochberg", "evidence_against", "report"]

GOOD = 0.6
"""Accuracy on gold that a rater should be above: the half that chance gives, and a margin."""


class Trend(NamedTuple):
    """A slope with its 95 % interval. Example: `Trend(0.2, 0.15, 0.26)`"""

    slope: float
    low: float
    high: float


@dataclass(frozen=True)
class RaterReport:
    """One rater's comparisons. Shares come with their number of cases and 95 % intervals.

    Example: `report(records, items, gold={task.id: better.id})[0].left.value`
    """

    rater: str
    num_answers: int
    gold: Share
    """Right on tasks whose answer is known."""
    gold_risk: float
    """Probability that accuracy on gold is at most 0.6, from a flat prior: 0.6 where there is no gold."""
    agreement: Share
    """With the majority of the others on the same pair; pairs on which they are split are left out."""
    consistency: Share
    """The same answer again on planned repeats, whichever side it was shown on."""
    left: Share
    """Takes what is shown first, of the pairs where it takes one."""
    left_false_discovery: float
    """Smallest rate of false discoveries, over raters, at which the rater leans to a side (exact binomial test)."""
    longer: Share
    """Takes the answer with more words."""
    longer_p: float
    """That it takes the longer one as often as all others do."""
    ties: Share
    """Says neither: tie, both bad, unsure."""
    seconds: float | None
    """Median time of an answer; None when nobody measured."""
    seconds_a_word: Trend | None
    """Theil-Sen slope over the words shown: near 0, nothing is read. None below 10 timed answers, or of one length."""
    streak: int
    """Longest run of one verdict."""
    entropy: float
    """Of the verdicts, in bits: 0 always the same, 1 first and second alike often."""
    e_value: float
    """Evidence of not following the others (`evidence_against`): 20 or more, by chance, at most once in 20."""
    copies: tuple[Copy, ...]
    """Raters with whom it agrees more often than two people do."""


class Choice(NamedTuple):
    """One comparison, made simple."""

    rater: str
    task: str
    pair: frozenset[ItemId]
    verdict: str
    better: ItemId | None
    """None: neither."""
    words: tuple[int, int] | None
    """Of the first and the second; None where an item is unknown."""
    seconds: float | None
    repeat: int


def report(
    records: Iterable[Feedback], items: Mapping[ItemId, Item], *, gold: Mapping[str, ItemId] | None = None
) -> list[RaterReport]:
    """One for every rater who compared, in order of names. `gold` names the better item by id of the task.

    The latest revision of an answer counts; planned repeats count for consistency alone.
    """
    latest = _latest(records)
    choices = [_choice(record, items) for record in latest]
    once = [c for c in choices if not c.repeat]
    by_rater = {name: list(own) for name, own in groupby(sorted(once, key=_name), key=_name)}
    work = [r for r in latest if not r.repeat]
    found, against, votes = copies(work), _e_values(work), _votes(once)
    total = {name: _takes(own, _is_longer) for name, own in by_rater.items()}
    leans = adjusted([_sided(_takes(own, _is_first)) for own in by_rater.values()]).tolist()
    return [
        RaterReport(
            rater=name,
            num_answers=len(own),
            gold=wilson(*(right := _takes(own, lambda c: _is_gold(c, gold or {})))),
            gold_risk=float(beta.cdf(GOOD, 1 + right[0], 1 + right[1] - right[0])),
            agreement=wilson(*_takes(own, lambda c: _is_majority(c, votes))),
            consistency=wilson(*_repeated([c for c in choices if c.rater == name])),
            left=wilson(*_takes(own, _is_first)),
            left_false_discovery=lean,
            longer=wilson(*total[name]),
            longer_p=_unlike_others(name, total),
            ties=wilson(sum(c.better is None for c in own), len(own)),
            seconds=_median_seconds(own),
            seconds_a_word=_trend(own),
            streak=max(len(list(run)) for _, run in groupby(own, key=lambda c: c.verdict)),
            entropy=float(entropy(list(Counter(c.verdict for c in own).values()), base=2)),
            e_value=against.get(name, 1.0),
            copies=tuple(c for c in found if name in (c.one, c.other)),
        )
        for (name, own), lean in zip(by_rater.items(), leans, strict=True)
    ]


def evidence_against(says: Floats, logits: Floats, *, floor: float = 0.5) -> float:
    """An e-value (a bet's final wealth) that votes do not follow `logits`, each made without this rater.

    The bet is against a rater who follows them in a share `floor` of votes and tosses a coin in the others; it is on
    a coin with one half of the money and on the contrary with the other. Who follows more closely makes it lose, so
    the expectation stays at most 1 at whatever vote one looks (Ville), and 1 / e is a p-value. After the sequential
    test of voters in Chatbot Arena (arXiv 2403.04132, sec. 5.3), whose null is the mean of historical votes.
    """
    lead = np.tanh(logits / 2) * (2 * says - 1)  # how far the vote is expected, from -1 to 1
    coin = -np.log1p(floor * lead).sum()
    contrary = np.log1p(-floor * lead).sum() + coin
    return float(np.exp(min(np.logaddexp(coin, contrary) - np.log(2), 700.0)))


def _e_values(records: Sequence[Feedback]) -> dict[str, float]:
    judged = outcomes(r for r in records if isinstance(r.answer, Comparison))
    ballots = Ballots.of(judged)
    if len(ballots.raters) < 2 or not len(ballots.says):
        return {}
    expected = calibrated(unseen(ballots).consensus, ballots)
    own = [ballots.rater == u for u in range(len(ballots.raters))]
    return {
        name: evidence_against(ballots.says[mine], expected[mine])
        for name, mine in zip(ballots.raters, own, strict=True)
    }


def _latest(records: Iterable[Feedback]) -> list[Feedback]:
    """The last revision of every comparison, in the order of first answers."""
    found: dict[tuple[str, str, int], Feedback] = {}
    for record in records:
        if isinstance(record.answer, Comparison):
            key = (record.task_id, record.rater.id, record.repeat)
            if key not in found or record.revision >= found[key].revision:
                found[key] = record
    return list(found.values())


def _choice(record: Feedback, items: Mapping[ItemId, Item]) -> Choice:
    assert isinstance(record.answer, Comparison)
    first, second = record.items
    verdict = record.answer.verdict
    better = {"first": first, "second": second}.get(verdict)
    words = None
    if first in items and second in items:
        words = (len(items[first].completion.split()), len(items[second].completion.split()))
    pair = frozenset(record.items)
    return Choice(record.rater.id, record.task_id, pair, verdict, better, words, record.seconds, record.repeat)


def _name(choice: Choice) -> str:
    return choice.rater


def _takes(own: Sequence[Choice], is_so: Callable[[Choice], bool | None]) -> tuple[int, int]:
    """How often it is so, of how many choices for which it can be said (not None)."""
    known = [so for so in map(is_so, own) if so is not None]
    return sum(known), len(known)


def _is_first(choice: Choice) -> bool | None:
    return None if choice.better is None else choice.verdict == "first"


def _is_longer(choice: Choice) -> bool | None:
    if choice.better is None or choice.words is None or choice.words[0] == choice.words[1]:
        return None
    return (choice.verdict == "first") == (choice.words[0] > choice.words[1])


def _is_gold(choice: Choice, gold: Mapping[str, ItemId]) -> bool | None:
    return choice.better == gold[choice.task] if choice.task in gold else None


def _is_majority(choice: Choice, votes: Mapping[frozenset[ItemId], Counter[ItemId | None]]) -> bool | None:
    others = Counter(votes[choice.pair])
    others[choice.better] -= 1
    ranked = others.most_common(2)
    if ranked[0][1] == 0 or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return choice.better == ranked[0][0]


def _votes(choices: Iterable[Choice]) -> dict[frozenset[ItemId], Counter[ItemId | None]]:
    votes: dict[frozenset[ItemId], Counter[ItemId | None]] = defaultdict(Counter)
    for choice in choices:
        votes[choice.pair][choice.better] += 1
    return votes


def _repeated(own: Iterable[Choice]) -> tuple[int, int]:
    """Repeats that say the same as the first answer on the pair, of all repeats."""
    first: dict[frozenset[ItemId], ItemId | None] = {}
    same = num = 0
    for choice in sorted(own, key=lambda c: c.repeat):
        if choice.repeat and choice.pair in first:
            same, num = same + (first[choice.pair] == choice.better), num + 1
        first.setdefault(choice.pair, choice.better)
    return same, num


def _sided(taken: tuple[int, int]) -> float:
    return float(binomtest(*taken).pvalue) if taken[1] else 1.0


def _unlike_others(name: str, total: Mapping[str, tuple[int, int]]) -> float:
    count, num = total[name]
    others = [value for other, value in total.items() if other != name]
    rest, cases = sum(c for c, _ in others), sum(n for _, n in others)
    if not num or not cases:
        return 1.0
    return float(binomtest(count, num, (rest + 0.5) / (cases + 1)).pvalue)


def _median_seconds(own: Sequence[Choice]) -> float | None:
    times = [c.seconds for c in own if c.seconds is not None]
    return float(np.median(times)) if times else None


def _trend(own: Sequence[Choice]) -> Trend | None:
    timed = [(sum(c.words), c.seconds) for c in own if c.seconds is not None and c.words is not None]
    if len(timed) < 10 or len({words for words, _ in timed}) < 2:
        return None
    words, seconds = np.array(timed, dtype=np.float64).T
    found = theilslopes(seconds, words)
    return Trend(float(found.slope), float(found.low_slope), float(found.high_slope))
