"""Simulated crowds of many kinds, whose truth is known: what `consensus` is developed on.

A design says how many raters of what kind label how many items of what kind. Raters err with one coin, with a matrix of
confusion of their own, or as observers of a noisy line with a threshold of their own (so that they err together).
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from clew.feedback.crowd import Floats, Ints, Votes


class Design(NamedTuple):
    seed: int
    world: Literal["coin", "confused", "threshold"]
    items: int
    raters: int
    overlap: int
    """Raters an item."""
    classes: int
    balance: float
    """Dirichlet parameter of the classes' shares: high is equal shares."""
    ability: float
    """Of honest raters, between chance and always right."""
    spammers: float
    """Share of raters who answer by habit or at random."""
    adversaries: float
    """Share of raters who say the next class."""
    hard: float
    """Share of items on which raters see little."""
    decoys: bool
    """Whether a hard item looks like one certain other class, to all raters."""
    copies: float
    """Share of raters who copy another."""
    skew: float
    """How uneven the raters' numbers of votes are: the exponent of a Zipf law."""


def drawn(seed: int) -> Design:
    rng = np.random.default_rng([seed, 1])
    raters = round(float(np.exp(rng.uniform(np.log(6), np.log(150)))))
    return Design(
        seed=seed,
        world=("coin", "confused", "threshold")[rng.integers(3)],
        items=int(rng.choice([100, 300, 800])),
        raters=raters,
        overlap=min(raters, int(rng.choice([3, 5, 5, 10, 20, 40]))),
        classes=int(rng.choice([2, 2, 2, 3, 4, 6, 10])),
        balance=float(rng.choice([100, 5, 1])),
        ability=float(rng.uniform(0.5, 0.9)),
        spammers=float(rng.choice([0, 0, 0.15, 0.35])),
        adversaries=float(rng.choice([0, 0, 0.05, 0.15])),
        hard=float(rng.choice([0, 0, 0.2, 0.4])),
        decoys=bool(rng.random() < 0.5),
        copies=float(rng.choice([0, 0, 0, 0.2])),
        skew=float(rng.choice([0, 0.7, 1.3])),
    )


def simulated(design: Design) -> tuple[Votes, Ints]:
    """Votes, and the place of each item's true class."""
    rng = np.random.default_rng([design.seed, 2])
    n, k = design.items, design.classes
    truth = rng.choice(k, n, p=0.9 * rng.dirichlet(np.full(k, design.balance)) + 0.1 / k)
    taste = -design.skew * np.log(np.arange(1, design.raters + 1)) + rng.gumbel(size=(n, design.raters))
    rater = np.argsort(-taste, axis=1)[:, : design.overlap].ravel()
    item = np.repeat(np.arange(n), design.overlap)
    chance = _blurred(design, rng, truth, CHANCES[design.world](design, rng, truth))
    _corrupt(design, rng, truth, chance)
    said = chance[rater, item].cumsum(1)
    label = (said < rng.random((len(item), 1)) * said[:, -1:]).sum(1)
    label = _copied(design, rng, item, rater, label)
    names = tuple(map(str, range(n))), tuple(map(str, range(design.raters)))
    return Votes(item, rater, label, *names, tuple(range(k))), truth


def _coins(design: Design, rng: np.random.Generator, truth: Ints) -> Floats:
    """[raters, items, classes], as all of these."""
    right = _accuracies(design, rng)[:, None, None]
    same = np.eye(design.classes)
    return (right * same + (1 - right) * (1 - same) / (design.classes - 1))[:, truth]


def _confusions(design: Design, rng: np.random.Generator, truth: Ints) -> Floats:
    """Classes easier and harder for all, rows of different accuracy, mistakes along a pattern shared in part."""
    k = design.classes
    accuracies = expit(logit(_accuracies(design, rng).clip(0.02, 0.98))[:, None] + rng.normal(0, 0.7, k))
    pattern = rng.dirichlet(np.full(k, 0.5), k)
    wrong = np.stack([[rng.dirichlet(8 * row + 0.1) for row in pattern] for _ in accuracies]) * (1 - np.eye(k)) + 1e-9
    wrong *= 1 - np.eye(k)
    wrong /= wrong.sum(2, keepdims=True)
    right = rng.beta(3 * accuracies + 0.01, 3 * (1 - accuracies) + 0.01).clip(0.02, 0.98)[..., None]
    return (right * np.eye(k) + (1 - right) * wrong)[:, truth]


def _thresholds(design: Design, rng: np.random.Generator, truth: Ints) -> Floats:
    """An item stands near its class on a line, the same for all; a rater sees it with noise and cuts in own places."""
    at = truth + rng.normal(0, 1.1 - design.ability, design.items)
    bias = rng.normal(0, 0.5, design.raters)[:, None, None]
    noise = 1.2 * (1.05 - design.ability) * np.exp(rng.normal(0, 0.4, design.raters))[:, None, None]
    below = norm.cdf((np.arange(design.classes - 1) + 0.5 + bias - at[None, :, None]) / noise)
    return np.diff(below, axis=2, prepend=0, append=1)


def _accuracies(design: Design, rng: np.random.Generator) -> Floats:
    return 1 / design.classes + (1 - 1 / design.classes) * rng.beta(
        8 * design.ability, 8 * (1 - design.ability), design.raters
    )


def _blurred(design: Design, rng: np.random.Generator, truth: Ints, chance: Floats) -> Floats:
    n, k = design.items, design.classes
    hard = rng.random(n) < design.hard
    decoy = (truth + rng.integers(1, k, n)) % k
    looks = 0.6 * np.eye(k)[decoy] + 0.4 * np.eye(k)[truth] if design.decoys else np.full((n, k), 1 / k)
    return np.where(hard[None, :, None], 0.2 * chance + 0.8 * looks, chance)


def _corrupt(design: Design, rng: np.random.Generator, truth: Ints, chance: Floats) -> None:
    k, kind = design.classes, rng.random(design.raters)
    for a in np.flatnonzero(kind < design.spammers):
        chance[a] = rng.dirichlet(np.full(k, rng.choice([0.2, 20])))
    for a in np.flatnonzero((kind >= design.spammers) & (kind < design.spammers + design.adversaries)):
        chance[a] = 0.9 * np.roll(np.eye(k), 1, axis=1)[truth] + 0.1 / k


def _copied(design: Design, rng: np.random.Generator, item: Ints, rater: Ints, label: Ints) -> Ints:
    said: Any = np.full((design.items, design.raters), -1)
    said[item, rater] = label
    for a in np.flatnonzero(rng.random(design.raters) < design.copies):
        leader = rng.integers(design.raters)
        both = (said[:, a] >= 0) & (said[:, leader] >= 0)
        said[both, a] = said[both, leader]
    return said[item, rater]


CHANCES = {"coin": _coins, "confused": _confusions, "threshold": _thresholds}
