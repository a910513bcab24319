"""Three worlds in which to choose what people are asked, fixed before any way of choosing was written.

A world is a pool of pairs as differences of features, the chance that a rater prefers the first of each, and other
pairs on which the learnt order is measured, without noise. Each seed is a world of its own.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]


class World(NamedTuple):
    """Example: `features(np.random.default_rng(0))`"""

    pool_ND: Floats
    """Features of the first answer minus those of the second."""
    chance_N: Floats
    """That a rater prefers the first."""
    test_ND: Floats
    truth_N: Floats
    """True margins of the test pairs."""
    share_N: Floats
    """How much each test pair counts; adds up to 1."""

    def accuracy(self, weights_D: Floats) -> float:
        """Share of the test pairs in the true order, equal margins counting half."""
        said = self.test_ND @ weights_D
        right = (said * self.truth_N > 0) + 0.5 * (said == 0)
        return float(right @ self.share_N)


def features(rng: np.random.Generator) -> World:
    """A linear reward of 20 features. Pairs differ by very different amounts: some answers are nearly the same, so
    that a rater's word on them is a coin; others are so far apart that it is known beforehand.
    """
    weights_D = 2 * rng.normal(size=20)

    def drawn(num: int) -> Floats:
        size_N = np.exp(rng.normal(size=num))
        return size_N[:, None] * rng.normal(size=(num, 20)) / np.sqrt(20)

    return _linear(weights_D, drawn(2000), drawn(4000))


def tournament(rng: np.random.Generator) -> World:
    """40 items in 8 leagues, each with near ties, the leagues 1.5 logits apart; all 780 pairs can be asked about."""
    strength_N = 1.5 * np.repeat(np.arange(8), 5) + 0.3 * rng.normal(size=40)
    first, second = np.triu_indices(40, 1)
    pairs = np.eye(40)[first] - np.eye(40)[second]
    pairs = pairs * rng.choice([-1.0, 1.0], size=len(pairs))[:, None]
    return _linear(strength_N, pairs, pairs)


def clusters(rng: np.random.Generator) -> World:
    """Prompts of 12 topics, each with tastes of its own beside what all share. The most common topic is half of the
    pool, the rarest ones a few pairs; every topic counts the same where it is measured.
    """
    num, width = 12, 4
    weights_D = 1.5 * rng.normal(size=(num + 1) * width)
    frequency = 0.5 ** np.arange(num) + 0.02

    def drawn(topic_N: NDArray[np.int64]) -> Floats:
        pairs = np.zeros((len(topic_N), num + 1, width))
        pairs[:, 0] = rng.normal(size=(len(topic_N), width))
        pairs[np.arange(len(topic_N)), 1 + topic_N] = rng.normal(size=(len(topic_N), width))
        return pairs.reshape(len(topic_N), -1)

    common = rng.choice(num, size=2000, p=frequency / frequency.sum())
    return _linear(weights_D, drawn(common), drawn(np.arange(4800) % num))


def _linear(weights_D: Floats, pool_ND: Floats, test_ND: Floats) -> World:
    truth_N = test_ND @ weights_D
    return World(pool_ND, expit(pool_ND @ weights_D), test_ND, truth_N, np.full(len(truth_N), 1 / len(truth_N)))


WORLDS = {f.__name__: f for f in (features, tournament, clusters)}
FIRST, BATCH, LABELS = 20, 20, 300
"""Labels drawn at random before anything is known; asked for at a time; in all."""
