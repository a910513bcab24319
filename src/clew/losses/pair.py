"""Preference losses over pairs of answers, chosen and rejected: [N] -> [N]. No reward model, no sampling.

h = log pi(y) - log ref(y), summed over the completion's tokens with its stop token; gap = h_chosen - h_rejected.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class PairLogps(NamedTuple):
    """Summed log-probabilities of both answers, and their lengths in tokens. All [N].

    Example: `PairLogps(tensor([-1.]), tensor([-2.]), tensor([-1.5]), tensor([-1.5]), tensor([3]), tensor([4]))`
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        return self.rejected - self.ref_rejected

    @property
    def gap(self) -> Tensor:
        return self.chosen_ratio - self.rejected_ratio

    def swapped(self) -> "PairLogps":
        """The pair with the other label."""
        return PairLogps(
            self.rejected,
            self.chosen,
            self.ref_rejected,
            self.ref_chosen,
            self.rejected_length,
            self.chosen_length,
        )

    @property
    def chosen_mean(self) -> Tensor:
        return self.chosen / self.chosen_length.clamp(min=1)

    @property
    def rejected_mean(self) -> Tensor:
        return self.rejected / self.rejected_length.clamp(min=1)


def expected_loss(loss: Callable[[PairLogps], Tensor], pair: PairLogps, agreement: Tensor) -> Tensor:
    """Any pair loss under a soft label: `agreement` [N] is the probability that chosen is the better one.

    With votes it is their mean loss. 1 everywhere is `loss(pair)`.
    """
    return agreement * loss(pair) + (1 - agreement) * loss(pair.swapped())


def dpo(pair: PairLogps, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Direct preference optimisation (arXiv 2305.18290, eq. 7): -log sigma(beta gap).

    With `label_smoothing` eps it is cDPO (Mitchell 2023): labels are taken as right with probability 1 - eps, and
    the gap converges to logit(1 - eps) / beta instead of growing for ever.
    """
    logit = beta * pair.gap
    return -(1 - label_smoothing) * F.logsigmoid(logit) - label_smoothing * F.logsigmoid(-logit)


def robust_dpo(pair: PairLogps, *, beta: float = 0.1, flip_rate: float = 0.1) -> Tensor:
    """Robust DPO (arXiv 2403.00409): unbiased for the clean loss when labels flip at `flip_rate`.

    Unbounded below for single pairs: clip gradients, and never stop early on its value.
    """
    logit = beta * pair.gap
    clean = -(1 - flip_rate) * F.logsigmoid(logit) + flip_rate * F.logsigmoid(-logit)
    return clean / (1 - 2 * flip_rate)


def ipo(pair: PairLogps, *, tau: float = 0.1) -> Tensor:
    """Identity preference optimisation (arXiv 2310.12036, eq. 17): (gap - 1 / (2 tau))^2 on summed log-ratios.

    Converges to pi ~ ref exp(p(y beats mu) / tau), also for preferences that are not transitive.
    """
    return (pair.gap - 1 / (2 * tau)).square()


def ipo_mean(pair: PairLogps, *, tau: float = 0.1) -> Tensor:
    """IPO on log-ratios divided by their lengths, as TRL has it with the authors' assent. Not `ipo` rescaled."""
    gap = pair.chosen_ratio / pair.chosen_length.clamp(min=1)
    gap = gap - pair.rejected_ratio / pair.rejected_length.clamp(min=1)
    return (gap - 1 / (2 * tau)).square()


def hinge(pair: PairLogps, *, beta: float = 0.1) -> Tensor:
    """SLiC-style hinge on the implicit reward (arXiv 2305.10425 in the form of 2309.06657): max(0, 1 - beta gap)."""
    return (1 - beta * pair.gap).clamp(min=0)


def apo_zero(pair: PairLogps, *, beta: float = 0.1) -> Tensor:
    """APO-zero (arXiv 2408.06266): raise the winner, lower the loser; for winners better than the model."""
    return torch.sigmoid(-beta * pair.chosen_ratio) + torch.sigmoid(beta * pair.rejected_ratio)


def apo_down(pair: PairLogps, *, beta: float = 0.1) -> Tensor:
    """APO-down (arXiv 2408.06266): lower both, the loser more; for winners worse than the model.

    At the reference the winner's gradient is exactly zero (beta/4 - beta/4).
    """
    return torch.sigmoid(beta * pair.chosen_ratio) + torch.sigmoid(-beta * pair.gap)


def simpo(pair: PairLogps, *, beta: float = 2.0, margin: float = 1.0) -> Tensor:
    """SimPO (arXiv 2405.14734, eq. 6): mean log-probabilities, a target margin, and no reference."""
    return -F.logsigmoid(beta * (pair.chosen_mean - pair.rejected_mean) - margin)


def orpo(pair: PairLogps, *, lam: float = 0.1) -> Tensor:
    """ORPO (arXiv 2403.07691, eq. 6): the winner's mean NLL plus lam times the log odds-ratio loss; no reference.

    Odds are of exp(mean log-probability); log(1 - p) is computed as log(-expm1(log p)).
    """
    log_odds = _log_odds(pair.chosen_mean) - _log_odds(pair.rejected_mean)
    return -pair.chosen_mean - lam * F.logsigmoid(log_odds)


def _log_odds(mean_logp: Tensor) -> Tensor:
    tiny = torch.finfo(mean_logp.dtype).eps
    return mean_logp - torch.log(-torch.expm1(mean_logp.clamp(max=-tiny)))


PAIR_LOSSES = {f.__name__: f for f in (dpo, robust_dpo, ipo, ipo_mean, hinge, apo_zero, apo_down, simpo, orpo)}
REFERENCE_FREE = {simpo, orpo}


def implicit_rewards(pair: PairLogps, loss: Callable[..., Tensor] | None) -> tuple[Tensor, Tensor]:
    """What the loss takes for the worth of both answers, before its beta: log-ratios, or mean log-probabilities."""
    if loss in REFERENCE_FREE:
        return pair.chosen_mean, pair.rejected_mean
    return pair.chosen_ratio, pair.rejected_ratio
