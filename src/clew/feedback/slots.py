"""In which order a task's items are shown, kept by the server; and answers read in the task's own order.

Over the people who answer a task every item stands equally often in every place: an order of items is a permutation
drawn for the task, rotated by one for each further person. All of it is a function of the project's key.
"""

import hmac
import random
from collections.abc import Collection, Sequence

from clew.feedback.records import Answer, Comparison, Ranking, Verdict

SWAPPED: dict[Verdict, Verdict] = {"first": "second", "second": "first"}


def keyed(key: str, *words: str | int) -> int:
    """A number of 62 bits that only who has the key can foresee."""
    said = "\x1f".join(map(str, words)).encode()
    return int.from_bytes(hmac.digest(key.encode(), said, "sha256")[:8]) >> 2


def share(key: str, *words: str | int) -> float:
    """A number in [0, 1) that only who has the key can foresee."""
    return keyed(key, *words) / 2**62


def slot_order(key: str, task: str, turn: int, num: int) -> tuple[int, ...]:
    """Which of the task's `num` items stands in each slot, for the turn-th person (from 0)."""
    if num < 2:
        return tuple(range(num))
    block, shift = divmod(turn, num)
    drawn = list(range(num))
    random.Random(keyed(key, "slots", task, block)).shuffle(drawn)
    return tuple(drawn[shift:] + drawn[:shift])


def free_turn(taken: Collection[int]) -> int:
    """The first turn nobody has: an order given back by who skipped is given to the next."""
    return next(turn for turn in range(len(taken) + 1) if turn not in taken)


def in_task_order(answer: Answer, slots: Sequence[int]) -> Answer:
    """The answer as it were, had the items been shown in the task's order; slots[i] is the item in slot i."""
    if isinstance(answer, Ranking):
        groups = tuple(tuple(sorted(slots[place] for place in group)) for group in answer.groups)
        return answer.model_copy(
            update={"groups": groups, "not_rankable": tuple(sorted(slots[p] for p in answer.not_rankable))}
        )
    if isinstance(answer, Comparison) and tuple(slots) == (1, 0):
        wins = answer.first_wins
        return answer.model_copy(
            update={
                "verdict": SWAPPED.get(answer.verdict, answer.verdict),
                "first_wins": None if wins is None else 1 - wins,
                "flaws": (answer.flaws[1], answer.flaws[0]),
            }
        )
    return answer
