"""Losses of one token: [B, T] -> [B, T]. Places outside the mask are the caller's to weigh with zero.

Policy losses are called alike: the second argument is of the sampling policy; in TOWARDS_REFERENCE, of the reference.
"""

from torch import Tensor


def nll(logps: Tensor) -> Tensor:
    """Negative log-likelihood: supervised fine-tuning, pretraining and PPO-ptx."""
    return -logps


def reinforce(logps: Tensor, old_logps: Tensor, advantages: Tensor) -> Tensor:
    """The score-function estimator -A log pi (Williams 1992), for one on-policy step: A2C, RLOO as published.

    `old_logps` is not used: there is no ratio, hence no second step on the same rollouts.
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


def cispo(logps: Tensor, old_logps: Tensor, advantages: Tensor, *, low: float = 1.0, high: float = 4.0) -> Tensor:
    """CISPO (arXiv 2506.13585, eq. 4): -sg(clip(rho, 1-low, 1+high)) A log pi.

    The clip bounds a token's weight and never stops its gradient, so that rare tokens of long answers go on learning.
    `low` 1 leaves weights without a floor. The paper does not print its `high`; 4 is TRL's.
    """
    weight = (logps.detach() - old_logps).exp().clamp(1 - low, 1 + high)
    return -weight * advantages * logps


def apa(logps: Tensor, ref_logps: Tensor, advantages: Tensor, *, beta: float = 1.0) -> Tensor:
    """Advantage-induced policy alignment (arXiv 2306.02231): (log pi - log ref - A / beta)^2, as Starling was trained.

    Regression on the log-ratio of ref exp(A / beta), whose normaliser is taken to be one: exact for soft advantages
    (A = Q - V with V the soft value), otherwise off by the state's log-normaliser. Needs no ratio, no clip and no KL
    penalty: `beta` (the paper's lambda) is how far the policy may go.
    """
    return (logps - ref_logps - advantages / beta).square()


def advantage_weighted(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, *, beta: float = 1.0, most: float = 20.0
) -> Tensor:
    """Advantage-weighted regression (arXiv 1910.00177, eq. 10): -exp(A / beta) log pi, weights at most `most`.

    The projection of old exp(A / beta) by forward KL: `apa` fits the same target by squares. `old_logps` is not used.
    """
    return -(advantages / beta).exp().clamp(max=most) * logps


def sequence_mean(logps: Tensor, mask: Tensor) -> Tensor:
    """Every token's log-probability replaced by the mean over its row: [B, T] -> [B, T].

    Of these the ratio is the geometric mean of the tokens' own: with `clipped` and every row weighed alike that is GSPO
    (arXiv 2507.18071, eq. 5-7), where a whole sequence is clipped or not.
    """
    return (logps * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1) * mask


def is_clipped(logps: Tensor, old_logps: Tensor, advantages: Tensor, *, low: float = 0.2, high: float = 0.2) -> Tensor:
    """Where the clip stops the gradient: the ratio has left the trust region on the advantage's side."""
    ratio = (logps - old_logps).exp()
    return ((advantages > 0) & (ratio > 1 + high)) | ((advantages < 0) & (ratio < 1 - low))


POLICY_LOSSES = {f.__name__: f for f in (clipped, reinforce, cispo, apa, advantage_weighted)}
TOWARDS_REFERENCE = (apa,)
