"""GLAD: a vote is right the more likely, the abler its rater and the easier its item."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult, minimize
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax

from clew.feedback.crowd import Consensus, Floats, Votes, row_shares, shrunk


class Glad(NamedTuple):
    consensus: Consensus
    ability: Floats
    """Below 0 for a rater who is wrong more often than right on any item. [raters]"""
    ease: Floats
    """Above 0; near 0 where even able raters toss a coin. [items]"""


class _Parameters(NamedTuple):
    ability: Floats
    log_ease: Floats
    log_shares: Floats


def glad(votes: Votes, *, spread: float = 1.0, max_steps: int = 200) -> Glad:
    """Chance of a right vote sigma(ability * ease), mistakes spread evenly (Whitehill et al., NIPS 2009, eq. 1).

    Maximum a posteriori with ability ~ Normal(1, spread), log ease ~ Normal(0, spread), shares of classes with one
    vote more spread evenly. Labels are summed out and the rest climbed by L-BFGS, which ends where EM ends.
    """
    trace: list[float] = []

    def loss(flat: Floats) -> tuple[float, Floats]:
        at = _parameters(votes, flat)
        joint, right = _joint(votes, at)
        evidence = np.asarray(logsumexp(joint, axis=1, keepdims=True))
        posterior = np.exp(joint - evidence)
        slope = posterior[votes.item, votes.label] - right
        ease = np.exp(at.log_ease)
        n, k = posterior.shape
        gradient = (
            np.bincount(votes.rater, slope * ease[votes.item], len(at.ability)) - (at.ability - 1) / spread**2,
            np.bincount(votes.item, slope * (at.ability[votes.rater] * ease[votes.item]), n) - at.log_ease / spread**2,
            posterior.sum(0) + 1 / k - (n + 1) * np.exp(at.log_shares),
        )
        prior = (((at.ability - 1) ** 2).sum() + (at.log_ease**2).sum()) / (2 * spread**2) - at.log_shares.mean()
        return float(prior - evidence.sum()), -np.concatenate(gradient)

    def keep(intermediate_result: OptimizeResult) -> None:
        trace.append(-float(intermediate_result.fun))

    start = np.concatenate([np.ones(len(votes.raters)), np.zeros(len(votes.items)), np.zeros(len(votes.classes))])
    fit = minimize(loss, start, jac=True, method="L-BFGS-B", callback=keep, options={"maxiter": max_steps})
    return _result(votes, _parameters(votes, fit.x), tuple(trace))


def _result(votes: Votes, at: _Parameters, trace: tuple[float, ...]) -> Glad:
    posterior = softmax(_joint(votes, at)[0], axis=1)
    seen = votes.seen(posterior)
    confusion = shrunk(seen, row_shares(seen.sum(0)), strength=1.0)
    consensus = Consensus(votes, posterior, confusion, np.exp(at.log_shares), trace)
    return Glad(consensus, at.ability, np.exp(at.log_ease))


def _parameters(votes: Votes, flat: Floats) -> _Parameters:
    ability, log_ease, logits = np.split(flat, np.cumsum([len(votes.raters), len(votes.items)]))
    return _Parameters(ability, log_ease, log_softmax(logits))


def _joint(votes: Votes, at: _Parameters) -> tuple[Floats, Floats]:
    """Log likelihood of votes and class on each item [items, classes], and each vote's chance to be right [votes]."""
    gap = at.ability[votes.rater] * np.exp(at.log_ease)[votes.item]
    others = np.log(max(len(votes.classes) - 1, 1))
    wrong = np.bincount(votes.item, log_expit(-gap) - others, len(votes.items))
    return at.log_shares + wrong[:, None] + votes.counts(gap + others), expit(gap)
