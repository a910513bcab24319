"""Simulated raters with the weaknesses of people, drawn from a known gold reward. For tests and demonstrations.

A rater compares what each answer is worth to it: gold, plus what it likes for the wrong reasons, or for reasons of its
own. Randomness comes from the generator that is passed in; the rater itself keeps no state.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clew.feedback.records import Comparison, Feedback, Item, Ranking, Rater, Rating, Task, TaskKind, Thumb
from clew.types import as_string

SURE = 60.0
"""Logits beyond which there is no doubt."""


@dataclass(frozen=True, slots=True)
class SimulatedRater:
    """P(first is better) = sigma(sharpness * (worth_1 - worth_2) + left_bias), but for careless and hostile answers.

    Example: `length_biased("bea", weight=0.05)` prefers long answers, other things being equal.
    """

    name: str
    sharpness: float = 4.0
    """Honest noise: large is sure, 0 a coin."""
    length_weight: float = 0.0
    """Gold that a word more is worth to this rater."""
    left_bias: float = 0.0
    """Logits in favour of what is shown first."""
    carelessness: float = 0.0
    """Share of tasks answered at random."""
    malice: float = 0.0
    """Share of tasks answered upside down."""
    hard: float = math.inf
    """Malice shows only where the best and the worst answer are at most this far apart in worth: where it hides."""
    topic: str = ""
    """Malice shows only where the prompt contains this; empty, everywhere."""
    values: Callable[[Item], float] | None = None
    """What the rater values in place of gold, in units of gold; None, gold."""
    own_values: float = 1.0
    """How much of the worth is what the rater `values`; the rest is gold."""

    @property
    def rater(self) -> Rater:
        return Rater(id=self.name, kind="program")

    def judge(self, task: Task, items: Sequence[Item], gold: Mapping[str, float], rng: np.random.Generator) -> Feedback:
        """An answer to a comparison, ranking, rating or thumb task; `gold` maps item ids to rewards.

        Raises ValueError for kinds of task that a reward cannot answer.
        """
        worth = np.array([self._worth(item, gold[item.id]) for item in items])
        if rng.random() < self.carelessness:
            worth = rng.permutation(np.linspace(-2, 2, len(items))) if len(items) > 1 else rng.normal(size=1)
        elif rng.random() < self.malice and np.ptp(worth) <= self.hard and self.topic in as_string(task.prompt):
            worth = -worth
        answer = self._answer(task.kind, worth, rng)
        return Feedback(task_id=task.id, items=task.items, rater=self.rater, answer=answer)

    def _worth(self, item: Item, gold: float) -> float:
        if self.values is not None:
            gold = (1 - self.own_values) * gold + self.own_values * self.values(item)
        return gold + self.length_weight * len(item.completion.split())

    def _answer(
        self, kind: TaskKind, worth: np.ndarray, rng: np.random.Generator
    ) -> Comparison | Ranking | Rating | Thumb:
        logits = self.sharpness * worth
        if kind == "comparison":
            return Comparison(verdict="first" if _tossed(logits[0] - logits[1] + self.left_bias, rng) else "second")
        if kind == "ranking":  # Gumbel noise makes the order a draw of Plackett-Luce
            shown_first = np.linspace(self.left_bias, 0, len(worth))
            order = np.argsort(-(logits + shown_first + rng.gumbel(size=len(worth))))
            return Ranking(groups=tuple((int(place),) for place in order))
        if kind == "rating":
            return Rating(scales={"quality": float(worth[0] + rng.logistic() / max(self.sharpness, 1e-9))})
        if kind == "thumb":
            return Thumb(up=_tossed(logits[0], rng))
        raise ValueError(f"a simulated rater judges comparisons, rankings, ratings and thumbs; not a {kind}")


def _tossed(logit: float, rng: np.random.Generator) -> bool:
    return bool(rng.random() < 1 / (1 + math.exp(-float(np.clip(logit, -SURE, SURE)))))


def copied(answer: Feedback, name: str) -> Feedback:
    """The same answer, given by another rater who did not think about it."""
    return answer.model_copy(update={"rater": Rater(id=name, kind="program")})


def honest(name: str, *, sharpness: float = 4.0) -> SimulatedRater:
    """Follows the gold reward, with noise where answers are close."""
    return SimulatedRater(name, sharpness=sharpness)


def noisy(name: str, *, sharpness: float = 1.0) -> SimulatedRater:
    """Honest, and unsure even where answers are not close."""
    return SimulatedRater(name, sharpness=sharpness)


def lazy(name: str, *, carelessness: float = 0.5, sharpness: float = 4.0) -> SimulatedRater:
    """Often answers without reading; always, with carelessness 1: a spammer."""
    return SimulatedRater(name, sharpness=sharpness, carelessness=carelessness)


def left_biased(name: str, *, bias: float = 1.5, sharpness: float = 4.0) -> SimulatedRater:
    """Leans to what is shown first."""
    return SimulatedRater(name, sharpness=sharpness, left_bias=bias)


def length_biased(name: str, *, weight: float = 0.1, sharpness: float = 4.0) -> SimulatedRater:
    """Takes long for good."""
    return SimulatedRater(name, sharpness=sharpness, length_weight=weight)


def minority(
    name: str, *, values: Callable[[Item], float] = lambda item: -len(item.completion.split()) / 10, share: float = 1.0
) -> SimulatedRater:
    """Of another opinion: consistently values something else than gold, short answers by default."""
    return SimulatedRater(name, values=values, own_values=share)


def troll(name: str, *, malice: float = 0.9, sharpness: float = 4.0) -> SimulatedRater:
    """Mostly answers the opposite of what it thinks."""
    return SimulatedRater(name, sharpness=sharpness, malice=malice)


def master(name: str, *, hard: float = 1.0, malice: float = 1.0, sharpness: float = 4.0) -> SimulatedRater:
    """A troll on hard tasks only: right where it would be noticed, as on most gold questions."""
    return SimulatedRater(name, sharpness=sharpness, malice=malice, hard=hard)


def gaslight(name: str, *, topic: str = "", malice: float = 1.0, sharpness: float = 4.0) -> SimulatedRater:
    """Turns one topic round, consistently: the prompts that contain it."""
    return SimulatedRater(name, sharpness=sharpness, malice=malice, topic=topic)


def safe(name: str) -> SimulatedRater:
    """Always the first, always a thumb up."""
    return SimulatedRater(name, sharpness=SURE, left_bias=SURE, values=lambda item: 1.0)


def unsafe(name: str) -> SimulatedRater:
    """Always the last, always a thumb down."""
    return SimulatedRater(name, sharpness=SURE, left_bias=-SURE, values=lambda item: -1.0)


RATERS = {
    f.__name__: f
    for f in (
        honest,
        noisy,
        lazy,
        left_biased,
        length_biased,
        minority,
        troll,
        master,
        gaslight,
        safe,
        unsafe,
    )
}
