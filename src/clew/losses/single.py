"""Losses of one answer with one label: [N] -> [N]. Ratings, thumbs, and KTO for policies."""

import torch
import torch.nn.functional as F
from torch import Tensor


def kto(
    log_ratios: Tensor,
    desirable: Tensor,
    reference_point: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimisation (arXiv 2402.01306, eq. 7-8) on single answers marked good or bad.

    `log_ratios` h [N]; `desirable` [N] bool; `reference_point` z [N], detached and never negative: the mean
    log-ratio of *mismatched* prompts and answers (`mismatched_kl`).
    """
    gain = beta * (log_ratios - reference_point)
    return torch.where(desirable, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain))


def mismatched_kl(log_ratios: Tensor) -> Tensor:
    """KTO's z (arXiv 2402.01306, sec. 4.1): mean log-ratio of answers under other prompts, at least 0, detached.

    [M] -> scalar. M counts the mismatched pairs of the *whole* optimiser step, never of a micro-batch.
    """
    return log_ratios.detach().mean().clamp(min=0)


def thumbs(scores: Tensor, up: Tensor) -> Tensor:
    """Cross-entropy of a thumb, or of a share of thumbs in [0, 1]: P(up) = sigma(score)."""
    return F.binary_cross_entropy_with_logits(scores, up.to(scores.dtype), reduction="none")


def regression(scores: Tensor, ratings: Tensor) -> Tensor:
    """Squared error to a rating; take each rater's offset and scale out of the ratings first."""
    return (scores - ratings).square()


def huber(scores: Tensor, ratings: Tensor, *, delta: float = 1.0) -> Tensor:
    """Squared error within `delta`, linear beyond: ratings with outliers."""
    return F.huber_loss(scores, ratings.to(scores.dtype), reduction="none", delta=delta)


def ordinal(scores: Tensor, levels: Tensor, cuts: Tensor) -> Tensor:
    """Cumulative logit (McCullagh 1980): P(level <= k) = sigma(cuts_k - score), for levels 0..L-1.

    `cuts` [L - 1] increase strictly (`ordered_cuts`). Two levels are `thumbs` with a threshold.
    """
    edges = torch.cat([cuts.new_full((1,), -torch.inf), cuts, cuts.new_full((1,), torch.inf)])
    upper, lower = edges[levels + 1] - scores, edges[levels] - scores
    # log(sigma(u) - sigma(l)) = log sigma(u) + log sigma(-l) + log(1 - e^{l-u}): stable far from the cuts.
    gap = (lower - upper).clamp(max=-torch.finfo(scores.dtype).eps)
    return -(F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(gap)))


def ordered_cuts(raw: Tensor) -> Tensor:
    """Free parameters [L - 1] -> increasing cut points: the first as it is, then steps of softplus."""
    return torch.cat([raw[:1], raw[:1] + F.softplus(raw[1:]).cumsum(0)])


POINT_LOSSES = {f.__name__: f for f in (regression, huber, thumbs)}
