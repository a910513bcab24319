"""Preference games on few answers: best responses, exploitability, Nash points (METHODS, section G).

Distributions are log-probabilities [N] over answers; `preference` [N, N] is P(row beats column); `ref` is mu.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from clew.losses.nash import EVEN
from clew.oracles import exact


def game(num: int, seed: int) -> Tensor:
    """Random preferences [N, N], P + P' = 1: no score stands behind them, so they go in circles."""
    generator = torch.Generator().manual_seed(seed)
    odds = 2 * torch.randn(num, num, generator=generator, dtype=torch.float64)
    return torch.sigmoid(odds - odds.T)


def goes_in_circles(preference: Tensor) -> bool:
    """Whether some a beats b, b beats c and c beats a."""
    beats = (preference > EVEN).double()
    return bool((beats @ beats @ beats).diagonal().any())


def response(opponent: Tensor, ref: Tensor, preference: Tensor, tau: float) -> Tensor:
    """The best response in the regularised game: mu exp(P(y beats opponent) / tau)."""
    return (ref + preference @ opponent.exp() / tau).log_softmax(0)


def exploitability(logp: Tensor, preference: Tensor) -> float:
    """max_y P(y beats pi) - 1/2: what the best answer wins beyond its half; 0 at a Nash point without regulariser."""
    return float((preference @ logp.exp()).max() - EVEN)


def regularised_exploitability(logp: Tensor, ref: Tensor, preference: Tensor, tau: float) -> float:
    """max over pi' of the game's value against pi, minus 1/2: 0 at the regularised Nash point alone."""
    best = tau * torch.logsumexp(ref + preference @ logp.exp() / tau, 0)
    return float(best + tau * exact.kl(logp, ref) - EVEN)


def mirror_descent(
    start: Tensor, ref: Tensor, preference: Tensor, tau: float, *, rates: Sequence[float], mixed: bool
) -> Iterator[Tensor]:
    """pi_{t+1} ~ pi_t^(1 - eta tau) mu^(eta tau) exp(eta P(y beats opponent)), after each step; log-probabilities.

    The opponent is pi_t itself or, `mixed`, that geometric mixture with mu: Nash-MD (arXiv 2312.00886, sec. 6).
    """
    logp = start
    for eta in rates:
        mixture = ((1 - eta * tau) * logp + eta * tau * ref).log_softmax(0)
        opponent = mixture if mixed else logp
        logp = (mixture + eta * (preference @ opponent.exp())).log_softmax(0)
        yield logp


def nash_point(ref: Tensor, preference: Tensor, tau: float, *, against: Callable[[Tensor], Tensor]) -> Tensor:
    """The policy that is the best response to what `against` makes of it; to itself, the regularised Nash point."""
    logp = ref
    for _ in range(600):
        logp = (0.9 * logp + 0.1 * response(against(logp), ref, preference, tau)).log_softmax(0)
    return logp


def itself(logp: Tensor) -> Tensor:
    return logp
