"""MACE: each vote of a rater is either the true label or a guess of his own habit."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaln

from clew.feedback.crowd import Consensus, Floats, Votes, expectation_maximisation

CARE = 0.5
"""Both parameters of the Beta prior of a rater's competence: most raters are either careful or not."""
HABIT = 10.0
"""Parameter of the Dirichlet prior of what a rater says when guessing."""


class Mace(NamedTuple):
    consensus: Consensus
    competence: Floats
    """Expected chance that a rater does not guess. [raters]"""


def mace(
    votes: Votes,
    *,
    restarts: int = 10,
    max_steps: int = 50,
    tolerance: float = 1e-6,
    strength: float = 1.0,
    seed: int = 0,
) -> Mace:
    """Competence and habit of every rater, by variational Bayes (Hovy et al., NAACL 2013).

    The best by evidence lower bound (the trace) of `restarts` starts, each from competences and habits drawn anew.
    Other than in the paper the shares of the classes are learned, pulled towards equal ones with `strength` votes.
    """
    rng = np.random.default_rng(seed)
    found = [_from_one_start(votes, rng, strength, max_steps, tolerance) for _ in range(restarts)]
    return max(found, key=lambda one: one.consensus.trace[-1])


def _from_one_start(votes: Votes, rng: np.random.Generator, strength: float, steps: int, tolerance: float) -> Mace:
    raters = _Raters.drawn(rng, len(votes.raters), len(votes.classes))
    evidence = votes.evidence(raters.likelihood)
    start = np.exp(evidence - np.logaddexp.reduce(evidence, axis=1, keepdims=True))

    def fit(seen: Floats) -> tuple[Floats, float]:
        nonlocal raters
        raters = raters.updated(seen)
        return raters.likelihood, -raters.divergence

    reached = expectation_maximisation(votes, start, fit, strength=strength, max_steps=steps, tolerance=tolerance)
    return Mace(replace(reached, confusion=raters.confusion), raters.competence)


class _Raters(NamedTuple):
    """Posteriors of the raters: a Beta of competence, a Dirichlet of habit."""

    care: Floats  # [raters, 2]: votes meant, votes guessed, with the prior's
    habit: Floats  # [raters, classes]: guesses of each label, with the prior's

    @classmethod
    def drawn(cls, rng: np.random.Generator, num_raters: int, num_classes: int) -> "_Raters":
        """Around a competence of two thirds: nobody starts as an adversary."""
        return cls(rng.gamma(10.0, [[1.0, 0.5]], (num_raters, 2)), rng.gamma(HABIT, 1.0, (num_raters, num_classes)))

    @property
    def likelihood(self) -> Floats:
        """Chance of a label given the truth at the expected logarithms of competence and habit: rows sum below 1."""
        return _mixture(_log_mean(self.care), _log_mean(self.habit))

    @property
    def competence(self) -> Floats:
        return self.care[:, 0] / self.care.sum(1)

    @property
    def confusion(self) -> Floats:
        return _mixture(self.care / self.care.sum(1, keepdims=True), self.habit / self.habit.sum(1, keepdims=True))

    @property
    def divergence(self) -> float:
        """From the priors, in nats."""
        return _dirichlet_divergence(self.care, CARE) + _dirichlet_divergence(self.habit, HABIT)

    def updated(self, seen: Floats) -> "_Raters":
        """A wrong label was guessed; a right one was meant as likely as competence and habit say."""
        care, habit = _log_mean(self.care), _log_mean(self.habit)
        right = np.einsum("akk->ak", seen)
        meant = right * care[:, :1] / (care[:, :1] + care[:, 1:] * habit)
        guessed = seen.sum(1) - meant
        return _Raters(np.stack([meant.sum(1), guessed.sum(1)], axis=1) + CARE, guessed + HABIT)


def _mixture(care: Floats, habit: Floats) -> Floats:
    return care[:, :1, None] * np.eye(habit.shape[1]) + (care[:, 1:] * habit)[:, None, :]


def _log_mean(counts: Floats) -> Floats:
    """exp of the expected logarithm of each share of a Dirichlet."""
    total = np.asarray(counts.sum(-1, keepdims=True), dtype=np.float64)
    return np.exp(digamma(counts) - digamma(total))


def _dirichlet_divergence(counts: Floats, prior: float) -> float:
    """KL of Dirichlet(counts) from Dirichlet(prior, prior, ...), summed over rows."""
    total: Floats = np.asarray(counts.sum(-1), dtype=np.float64)
    moved = (counts - prior) * (digamma(counts) - digamma(total)[:, None])
    k = int(counts.shape[1])
    constant = len(counts) * float(gammaln(k * prior) - k * gammaln(prior))
    return float(np.sum(moved) + np.sum(np.asarray(gammaln(total))) - np.sum(np.asarray(gammaln(counts)))) - constant
