"""The default consensus: a model of the raters where the votes prove it right, the majority where they do not.

Every published method loses badly to the majority on some crowd (benchmarks/consensus.py): with few votes a rater it
learns noise, and where items differ in difficulty it takes "hard" for a class. The votes themselves show both.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from clew.feedback.crowd import (
    SMALLEST,
    Consensus,
    Floats,
    Votes,
    coins,
    expectation_maximisation,
    majority,
    row_shares,
    shrunk,
)

EQUAL = 1e6
"""So many votes hold the shares of the classes equal."""


class Choice(NamedTuple):
    """A consensus and why it is this one."""

    consensus: Consensus
    is_majority: bool
    gain: float
    """How many standard errors better the model predicts votes that it has not seen than equal raters do."""
    lead: float
    """By how much raters together say a class rather than any other where it is true: least of the classes."""


def consensus(votes: Votes) -> Consensus:
    """What to believe of each item: by model where `choice` trusts it, by majority where not."""
    return choice(votes).consensus


def choice(
    votes: Votes,
    *,
    least_gain: float = 5.0,
    least_lead: float = 0.2,
    least_odds: float = 10.0,
    strength: float = 10.0,
    folds: int = 5,
    seed: int = 0,
) -> Choice:
    """The hierarchical model where it has both the gain and the lead, else the majority.

    Gain: over votes held out in turn (in `folds` parts), standard errors from items, against raters who are all equally
    good, which is what the majority assumes. Lead: without it the model's class may not be the class of that name.
    A model that is trusted overrules the majority of an item at odds of `least_odds` to 1, and breaks its ties at any.
    The limits come from simulated crowds, benchmarks/consensus.py.
    """
    model, plain = partial(hierarchical, strength=strength), majority(votes)
    found = model(votes)
    gain = held_out_gain(votes, model, equal_raters, folds=folds, seed=seed)
    lead = least_class_lead(found)
    trusted = gain >= least_gain and lead >= least_lead
    return Choice(_cautious(found, plain, least_odds) if trusted else plain, not trusted, gain, lead)


def hierarchical(votes: Votes, *, strength: float = 10.0, max_steps: int = 100, tolerance: float = 1e-6) -> Consensus:
    """Dawid-Skene with each rater's matrix pulled, by `strength` votes a row, to his own coin, and that to everyone's.

    Mistakes of the coin fall where everyone's mistakes fall. A rater of few votes is like the others, one of more has
    an accuracy, one of many a matrix. Steps end when the likelihood no longer rises; the pull is no part of the trace.
    """
    start = majority(votes).posterior
    seen = votes.seen(start).sum(0)
    same = np.eye(len(votes.classes))
    mistakes = row_shares(seen) * (1 - same)
    mistakes /= np.maximum(mistakes.sum(1, keepdims=True), SMALLEST)
    everyone = row_shares(coins(seen))

    def fit(seen: Floats) -> tuple[Floats, float]:
        accuracy = shrunk(coins(seen), everyone, strength=1.0)[:, :1, :1]
        return shrunk(seen, accuracy * same + (1 - accuracy) * mistakes, strength=strength), 0.0

    return expectation_maximisation(votes, start, fit, strength=1.0, max_steps=max_steps, tolerance=tolerance)


def equal_raters(votes: Votes) -> Consensus:
    """What the majority assumes: one accuracy for all raters, classes equally common, mistakes spread evenly."""

    def fit(seen: Floats) -> tuple[Floats, float]:
        return np.broadcast_to(row_shares(coins(seen.sum(0))), seen.shape), 0.0

    return expectation_maximisation(
        votes, majority(votes).posterior, fit, strength=EQUAL, max_steps=100, tolerance=1e-6
    )


def held_out_gain(
    votes: Votes,
    model: Callable[[Votes], Consensus],
    other: Callable[[Votes], Consensus],
    *,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """Standard errors by which a model predicts unseen votes better than another; items are independent, votes not."""
    fold = np.random.default_rng(seed).permutation(len(votes.item)) % folds
    gained = np.zeros(len(votes.item))
    for part in range(folds):
        unseen = fold == part
        gained[unseen] = _log_score(model(votes.only(~unseen)), votes.only(unseen)) - _log_score(
            other(votes.only(~unseen)), votes.only(unseen)
        )
    per_item = np.bincount(votes.item, gained, len(votes.items))
    return float(per_item.sum() / max(float(np.sqrt((per_item**2).sum())), SMALLEST))


def least_class_lead(found: Consensus) -> float:
    """How much oftener raters say a class, where it is true, than the likeliest other one: least of the classes."""
    votes = found.votes
    busy = np.bincount(votes.rater, minlength=len(votes.raters)) / max(len(votes.item), 1)
    together = np.einsum("a,akl->kl", busy, found.confusion)
    others = together - 2 * np.eye(len(together))
    return float((np.diag(together) - others.max(1)).min())


def _cautious(model: Consensus, plain: Consensus, odds: float) -> Consensus:
    """The model, but the shares of the votes on items where it would overrule the majority and is not sure enough."""
    tops = plain.posterior == plain.posterior.max(1, keepdims=True)
    best, theirs = model.posterior.max(1), np.where(tops, model.posterior, 0).max(1)
    unsure = (best > theirs) & (best < odds * theirs)
    return replace(model, posterior=np.where(unsure[:, None], plain.posterior, model.posterior))


def _log_score(found: Consensus, unseen: Votes) -> Floats:
    """Log chance of each vote. [votes]"""
    said = found.confusion[unseen.rater, :, unseen.label]
    return np.log(np.maximum(np.einsum("vk,vk->v", found.posterior[unseen.item], said), SMALLEST))
