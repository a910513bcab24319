"""Simulated raters with the weaknesses of people, drawn from a known gold reward. For tests and demonstrations.

A rater compares what each answer is worth to it: gold, plus what it likes for the wrong reasons. Randomness comes
from the generator that is passed in; the rater itself keeps no state.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clew.feedback.records import AnswerKind, Comparison, Feedback, Item, Ranking, Rater, Rating, Task, Thumb


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

    @property
    def rater(self) -> Rater:
        return Rater(id=self.name, kind="program")

    def judge(self, task: Task, items: Sequence[Item], gold: Mapping[str, float], rng: np.random.Generator) -> Feedback:
        """An answer to a comparison, ranking, rating or thumb task; `gold` maps item ids to rewards.

        Raises ValueError for kinds of task that a reward cannot answer.
        """
        worth = np.array([gold[i.id] + self.length_weight * len(i.completion.split()) for i in items])
        if rng.random() < self.carelessness:
            worth = rng.permutation(np.linspace(-2, 2, len(items))) if len(items) > 1 else rng.normal(size=1)
        elif rng.random() < self.malice:
            worth = -worth
        answer = self._answer(task.kind, worth, rng)
        return Feedback(task_id=task.id, items=task.items, rater=self.rater, answer=answer)

    def _answer(
        self, kind: AnswerKind, worth: np.ndarray, rng: np.random.Generator
    ) -> Comparison | Ranking | Rating | Thumb:
        logits = self.sharpness * worth
        if kind == "comparison":
            chance = 1 / (1 + math.exp(-float(np.clip(logits[0] - logits[1] + self.left_bias, -60, 60))))
            return Comparison(verdict="first" if rng.random() < chance else "second")
        if kind == "ranking":  # Gumbel noise makes the order a draw of Plackett-Luce
            shown_first = np.linspace(self.left_bias, 0, len(worth))
            order = np.argsort(-(logits + shown_first + rng.gumbel(size=len(worth))))
            return Ranking(groups=tuple((int(place),) for place in order))
        if kind == "rating":
            return Rating(scales={"quality": float(worth[0] + rng.logistic() / max(self.sharpness, 1e-9))})
        if kind == "thumb":
            return Thumb(up=bool(rng.random() < 1 / (1 + math.exp(-float(np.clip(logits[0], -60, 60))))))
        raise ValueError(f"a simulated rater judges comparisons, rankings, ratings and thumbs; not a {kind}")


def honest(name: str, *, sharpness: float = 4.0) -> SimulatedRater:
    """Follows the gold reward, with noise where answers are close."""
    return SimulatedRater(name, sharpness=sharpness)


def lazy(name: str, *, carelessness: float = 0.5, sharpness: float = 4.0) -> SimulatedRater:
    """Often answers without reading."""
    return SimulatedRater(name, sharpness=sharpness, carelessness=carelessness)


def left_biased(name: str, *, bias: float = 1.5, sharpness: float = 4.0) -> SimulatedRater:
    """Leans to what is shown first."""
    return SimulatedRater(name, sharpness=sharpness, left_bias=bias)


def length_biased(name: str, *, weight: float = 0.1, sharpness: float = 4.0) -> SimulatedRater:
    """Takes long for good."""
    return SimulatedRater(name, sharpness=sharpness, length_weight=weight)


def troll(name: str, *, malice: float = 0.9, sharpness: float = 4.0) -> SimulatedRater:
    """Mostly answers the opposite of what it thinks."""
    return SimulatedRater(name, sharpness=sharpness, malice=malice)


RATERS = {f.__name__: f for f in (honest, lazy, left_biased, length_biased, troll)}
