"""Kullback-Leibler estimators from samples of the policy, and controllers of its weight.

Two different questions, named apart (arXiv 2506.09477). *Value*: which number, averaged over
samples of pi, is KL(pi || ref)? k1 and k3 are unbiased, k2 is not. *Gradient*: which loss, differentiated at
samples of pi, gives the gradient of a KL? k1's gradient is zero on average; k2's is that of KL(pi || ref); k3's is
that of the other one, KL(ref || pi).
"""

import math

from torch import Tensor


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """log pi/ref: unbiased in value, may be negative. For the reward, where it is a number; never for a loss."""
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """(log pi/ref)^2 / 2: biased in value, always positive, and its gradient is that of KL(pi || ref)."""
    return (logps - ref_logps).square() / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """ref/pi - 1 - log ref/pi (Schulman 2020): unbiased in value, positive, low variance."""
    log_ratio = ref_logps - logps
    return log_ratio.expm1() - log_ratio


def reverse_kl_loss(logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """A loss with the gradient of KL(pi || ref) over whole sequences: k2 of the summed log-ratio.

    [B, T] -> [B, T]. Token t carries grad log pi(y_t) times the log-ratio summed over the whole sequence, so that
    it also answers for the divergence it leads to; its own log-ratio alone would be biased (in most public code it is).
    Exact in expectation for on-policy samples. The value is (sum of log-ratios)^2 / 2, spread evenly.
    """
    total = ((logps - ref_logps) * mask).sum(1, keepdim=True)
    return total.square() / 2 * mask / mask.sum(1, keepdim=True).clamp(min=1)


def forward_kl_loss(logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """k3 of each token as a loss (GRPO, arXiv 2402.03300, eq. 4): its gradient is that of KL(ref || pi).

    [B, T] -> [B, T]. As published: at every state visited, the state's own divergence; the effect of a token on
    which states are visited is left out.
    """
    return k3(logps, ref_logps) * mask


def adaptive_coefficient(coefficient: float, kl: float, *, target: float, horizon: float, num_sequences: int) -> float:
    """Ziegler's proportional controller (arXiv 1909.08593, sec. 2.2) after one rollout batch.

    `kl` and `target` are nats per sequence (k1, summed over tokens, averaged over rollouts); `horizon` counts
    sequences. The error kl / target - 1 is clipped to 20 %.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * num_sequences / horizon)


def dual_coefficient(coefficient: float, kl: float, *, target: float, rate: float) -> float:
    """Dual ascent for the hard constraint KL <= target: log beta rises by rate * (kl - target)."""
    return coefficient * math.exp(rate * (kl - target))


KL_VALUES = {f.__name__: f for f in (k1, k2, k3)}
KL_LOSSES = {"reverse": reverse_kl_loss, "forward": forward_kl_loss}
