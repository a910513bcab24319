"""Reward-model losses over ranked answers to one prompt: [N, K] scores -> [N]. A pair is a ranking of two."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Ranked(NamedTuple):
    """Scores of each item's answers, in rank order, best first.

    Example: two answers, the first better: `Ranked(tensor([[1., 0.]]), tensor([[0, 1]]), tensor([[True, True]]),
    tensor([0.]), tensor([1.]))`
    """

    scores: Tensor  # [N, K]
    ranks: Tensor  # [N, K] equal ranks tie
    present: Tensor  # [N, K] bool
    margin: Tensor  # [N] required distance (Llama 2); 0 for none
    agreement: Tensor  # [N] probability that the stated order is right: 1 for a hard label, soft for AI labels
    log_odds: Tensor | None = None  # [N] of the item's rater being right; None: everybody is taken at their word


def all_pairs(ranked: Ranked, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean of -log sigma(r_i - r_j - margin) over the ordered pairs of a ranking (InstructGPT, 2203.02155, eq. 1).

    For K = 2 this is Bradley-Terry (Christiano 1706.03741), with Llama 2's margin (2307.09288, eq. 2) and soft
    labels. Ties are skipped; an item of ties only costs nothing.
    """
    gap = ranked.scores[:, :, None] - ranked.scores[:, None, :] - ranked.margin[:, None, None]
    ordered = ranked.ranks[:, :, None] < ranked.ranks[:, None, :]
    ordered = ordered & ranked.present[:, :, None] & ranked.present[:, None, :]
    right = (ranked.agreement * (1 - 2 * label_smoothing) + label_smoothing)[:, None, None]
    back = -gap - 2 * ranked.margin[:, None, None]
    loss = -right * F.logsigmoid(gap) - (1 - right) * F.logsigmoid(back)
    count = ordered.sum((1, 2)).clamp(min=1)
    return (loss * ordered).sum((1, 2)) / count


def plackett_luce(ranked: Ranked) -> Tensor:
    """-log P(ranking): each place is a softmax choice among those left (Zhu 2301.11270, MLE_K; Starling).

    Ties share their place (Breslow): every tied answer is a choice among all that are not better. Rankings of two
    without a tie are exactly Bradley-Terry. Hard labels without margin only.
    """
    scores = ranked.scores.masked_fill(~ranked.present, -torch.inf)
    not_better = ranked.ranks[:, None, :] >= ranked.ranks[:, :, None]  # [N, i, j]: j is still to be chosen at i
    rivals = torch.where(not_better & ranked.present[:, None, :], scores[:, None, :], -torch.inf)
    # Absent places would be logsumexp of nothing: give them one rival, then weigh them with zero.
    rivals = torch.where(ranked.present[:, :, None], rivals, torch.zeros_like(rivals))
    place = rivals.logsumexp(2) - ranked.scores
    return (place * ranked.present).sum(1)


def mixed_uniform(ranked: Ranked, *, noise: float = 0.1) -> Tensor:
    """Bradley-Terry with a share of random answers (Christiano 1706.03741, sec. 2.2.3): (1-noise) P + noise / 2.

    Pairs only. Bounded by -log(noise / 2), and without gradient on confident disagreement.
    """
    if ranked.scores.shape[1] != 2:
        raise ValueError(f"mixed_uniform compares two answers; got rankings of {ranked.scores.shape[1]}")
    gap = ranked.scores[:, 0] - ranked.scores[:, 1] - ranked.margin
    likelihood = (1 - noise) * torch.sigmoid(gap) + noise / 2
    unlikelihood = (1 - noise) * torch.sigmoid(-gap - 2 * ranked.margin) + noise / 2
    loss = -ranked.agreement * likelihood.log() - (1 - ranked.agreement) * unlikelihood.log()
    return loss * (ranked.ranks[:, 0] < ranked.ranks[:, 1])


def crowd_bt(ranked: Ranked) -> Tensor:
    """Bradley-Terry with the rater's reliability h inside (Crowd-BT, Chen et al., WSDM 2013, eq. 4): h P + (1-h)(1-P).

    Pairs only. The labels of an adversary, h below 1/2, are used inverted; a coin's leave the scores alone. (scores, h)
    and (-scores, 1-h) cost the same: `rater_prior` says which is meant.
    """
    if ranked.scores.shape[1] != 2:
        raise ValueError(f"crowd_bt compares two answers; got rankings of {ranked.scores.shape[1]}")
    gap = ranked.scores[:, 0] - ranked.scores[:, 1] - ranked.margin
    first, second = F.logsigmoid(gap), F.logsigmoid(-gap - 2 * ranked.margin)
    if ranked.log_odds is not None:
        right, wrong = F.logsigmoid(ranked.log_odds), F.logsigmoid(-ranked.log_odds)
        first, second = (torch.logaddexp(right + a, wrong + b) for a, b in ((first, second), (second, first)))
    loss = -ranked.agreement * first - (1 - ranked.agreement) * second
    return loss * (ranked.ranks[:, 0] < ranked.ranks[:, 1])


def rater_prior(log_odds: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """-log of a Beta prior on each rater's reliability, as a density of log-odds, up to a constant: [R] -> [R].

    It is as if the rater had been seen right and wrong so many times; without votes, reliability is right over both.
    """
    return -right * F.logsigmoid(log_odds) - wrong * F.logsigmoid(-log_odds)


def centring(ranked: Ranked) -> Tensor:
    """(sum of an item's scores)^2 (arXiv 2312.09244): fixes the offset that comparisons leave free."""
    return (ranked.scores * ranked.present).sum(1).square()


RANK_LOSSES = {f.__name__: f for f in (all_pairs, plackett_luce, mixed_uniform, crowd_bt)}
RANK_LOSSES["bradley_terry"] = all_pairs
