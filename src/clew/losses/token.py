"""Losses of one token: [B, T] -> [B, T]. Places outside the mask are the caller's to weigh with zero."""

from torch import Tensor


def nll(logps: Tensor) -> Tensor:
    """Negative log-likelihood: supervised fine-tuning, pretraining and PPO-ptx."""
    return -logps


def reinforce(logps: Tensor, old_logps: Tensor, advantages: Tensor) -> Tensor:
    """The score-function estimator -A log pi (Williams 1992), for one on-policy step: A2C, RLOO as published.

    `old_logps` is accepted, so that every policy loss is called alike, and not used: there is no ratio, hence no
    second step on the same rollouts.
    """
    return -advantages * logps


def clipped(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    *,
    low: float = 0.2,
    high: float = 0.2,
    dual: float | None = None,
) -> Tensor:
    """PPO's clipped objective (arXiv 1707.06347, eq. 7): -min(rho A, clip(rho, 1-low, 1+high) A).

    rho = exp(logps - old_logps). With high > low it is DAPO's clip-higher (arXiv 2503.14476). `dual`, a number
    above 1, bounds the loss of tokens with A < 0 by -dual * A (dual-clip PPO, arXiv 1912.09729, eq. 5).
    """
    ratio = (logps - old_logps).exp()
    objective = (ratio * advantages).minimum(ratio.clamp(1 - low, 1 + high) * advantages)
    if dual is not None:
        objective = objective.maximum((dual * advantages).where(advantages < 0, objective))
    return -objective


def is_clipped(logps: Tensor, old_logps: Tensor, advantages: Tensor, *, low: float = 0.2, high: float = 0.2) -> Tensor:
    """Where the clip stops the gradient: the ratio has left the trust region on the advantage's side."""
    ratio = (logps - old_logps).exp()
    return ((advantages > 0) & (ratio > 1 + high)) | ((advantages < 0) & (ratio < 1 - low))


POLICY_LOSSES = {f.__name__: f for f in (clipped, reinforce)}
