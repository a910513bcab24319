"""Nash learning from human feedback (arXiv 2312.00886): what an answer is worth in the regularised preference game.

The game: P(pi beats pi') - tau KL(pi || mu) + tau KL(pi' || mu), with mu the reference. Its Nash point pi* is
mu exp(P(y beats pi*) / tau), normalised. Preferences may go in circles; with those of a reward model and a fixed
opponent pi* is not RLHF's optimum, whose exponent is the reward itself.
"""

import torch
from torch import Tensor

from clew.losses.advantage import to_go

EVEN = 0.5
"""What an answer wins against its equals: a baseline, which moves no mean and takes variance away."""


def of_answers(preferences: Tensor, logps: Tensor, ref_logps: Tensor, mask: Tensor, *, tau: float) -> Tensor:
    """The policy gradient's factor (sec. 7): P(y beats y') - 1/2 - tau log pi(y) / mu(y), on every token of y.

    preferences [B], all others [B, T] -> [B, T]. Times grad log pi(y), with y' of an opponent that is held fixed, its
    mean is the gradient of P(pi beats opponent) - tau KL(pi || mu).
    """
    log_ratio = ((logps - ref_logps) * mask).sum(1, keepdim=True)
    return (preferences[:, None] - EVEN - tau * log_ratio) * mask


def of_tokens(preferences: Tensor, logps: Tensor, ref_logps: Tensor, mask: Tensor, *, tau: float) -> Tensor:
    """The same with less variance: token n answers for the log-ratios from n on, not for those that were before it.

    preferences [B], all others [B, T] -> [B, T]. The mean gradient is that of `of_answers`. With a token's own
    log-ratio alone (TRL's Nash-MD) it is not: what a token leads to would cost nothing.
    """
    return (preferences[:, None] - EVEN) * mask - tau * to_go(logps - ref_logps, mask)


def geometric_mixture(logits: Tensor, ref_logits: Tensor, *, beta: float) -> Tensor:
    """Logits of pi^(1 - beta) mu^beta, normalised, for one token: [..., V] -> [..., V].

    Nash-MD's opponent: 0 is self-play, 1 the reference. The product of a sequence's tokens is not the mixture of whole
    sequences that the tabular algorithm has (each state has a normaliser of its own); the paper mixes by token too.
    """
    return torch.lerp(logits, ref_logits, beta)
