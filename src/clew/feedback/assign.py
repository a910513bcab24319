"""Who is asked what next, and when a task has been asked enough: rules on small values, no store.

DESK's order: training, screening, then known questions and planned repeats scattered among real work.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from clew.feedback.records import Answer, Comparison, Thumb
from clew.feedback.slots import share

Want = Literal["training", "screening", "gold", "repeat", "work"]
KNOWN: tuple[Want, ...] = ("training", "screening", "gold")
LABELS = {"comparison": 3, "thumb": 2}
"""How many different answers there are, by kind; other kinds have no label to be sure of."""


class Standing(NamedTuple):
    """How far a person is in a project. Example: `Standing(training=0, screening=10, number=84, last="work")`"""

    training: int = 0
    screening: int = 0
    number: int = 0
    """Tasks given so far, of all purposes."""
    last: Want | None = None

    def after(self, want: Want) -> "Standing":
        return Standing(
            self.training + (want == "training"), self.screening + (want == "screening"), self.number + 1, want
        )


class Rates(NamedTuple):
    """Example: `Rates(training=3, screening=10, gold=0.05, repeat=0.02)`"""

    training: int = 0
    screening: int = 0
    gold: float = 0.05
    repeat: float = 0.02


def wants(standing: Standing, rates: Rates, *, key: str, person: str) -> list[Want]:
    """What to give a person next, best first: where there is none of a kind, the next one is tried.

    Known questions never come twice in a row. Drawn from the project's key, so that a person cannot foresee them.
    """
    if standing.training < rates.training:
        return ["training", "screening", "work"]
    if standing.screening < rates.screening:
        return ["screening", "work"]
    draw = share(key, "next", person, standing.number)
    is_free = standing.last not in KNOWN
    # After a known question comes another kind; at a rate r of all, the other turns need r / (1 - r).
    gold = rates.gold / (1 - rates.gold) if is_free and rates.gold < 0.5 else rates.gold * is_free
    if draw < gold:
        return ["gold", "work"]
    return ["repeat", "work"] if draw < gold + rates.repeat else ["work"]


def label(answer: Answer) -> str | None:
    """What adaptive stopping counts: the winner, a tie, a thumb. None where the answer says nothing of that.

    The items must stand in the task's order. Both bad counts as a tie, as in the ratings.
    """
    if isinstance(answer, Comparison):
        return {"both_bad": "tie", "unsure": None}.get(answer.verdict, answer.verdict)
    return str(answer.up) if isinstance(answer, Thumb) else None


def posterior(labels: Sequence[str], *, accuracy: float, num_labels: int) -> float:
    """Probability of the most probable label, where everybody is right with `accuracy` and errs evenly (one coin).

    1 / num_labels without any label. Dawid and Skene 1979 with one known parameter for all.
    """
    step = math.log(accuracy) - math.log((1 - accuracy) / (num_labels - 1))
    counts = sorted(Counter(labels).values(), reverse=True) + [0] * num_labels
    weights = [math.exp(step * (count - counts[0])) for count in counts[:num_labels]]
    return weights[0] / sum(weights)


class Seats(NamedTuple):
    """Of one task. Example: `Seats(need=3, max_need=5, answered=2, live=1)`, of which none is open"""

    need: int
    max_need: int
    answered: int
    live: int

    @property
    def open(self) -> int:
        return max(self.need - self.answered - self.live, 0)


def settled(seats: Seats, labels: Sequence[str], *, accuracy: float, sure: float, num_labels: int) -> Seats:
    """Adaptive stopping: no more seats than are taken once the label is sure; one more when all are used and it is not.

    A task that was stopped and became unsure (an answer was changed) is asked again.
    """
    taken = seats.answered + seats.live
    if labels and posterior(labels, accuracy=accuracy, num_labels=num_labels) > sure:
        return seats._replace(need=max(taken, 1))
    if taken >= seats.need and seats.live == 0 and seats.need < seats.max_need:
        return seats._replace(need=seats.need + 1)
    return seats
