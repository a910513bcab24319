"""Closed forms on enumerable worlds (METHODS, section G). Distributions are log-probabilities [N] over sequences."""

import math

import torch
from torch import Tensor

from clew.oracles.worlds import TablePolicy, Tree


def rlhf_optimum(ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The maximiser of E r - beta KL(pi || ref): log ref + r / beta, normalised. Also DPO's, under Bradley-Terry."""
    return (ref + rewards / beta).log_softmax(0)


def rlhf_objective(logp: Tensor, ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """E r - beta KL(pi || ref)."""
    return (logp.exp() * (rewards - beta * (logp - ref))).sum()


def gap_to_optimum(logp: Tensor, ref: Tensor, rewards: Tensor, beta: float) -> float:
    """J* - J(pi) = beta KL(pi || pi*) >= 0: the metric of convergence for RL."""
    best = beta * torch.logsumexp(ref + rewards / beta, 0)
    return float(best - rlhf_objective(logp.detach(), ref, rewards, beta))


def ipo_optimum(ref: Tensor, sampling: Tensor, preference: Tensor, tau: float) -> Tensor:
    """log ref + p(y beats mu) / tau, normalised; `sampling` mu [N], `preference` [N, N]; need not be transitive."""
    return (ref + preference @ sampling / tau).log_softmax(0)


def forward_kl_optimum(ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The maximiser of E r - beta KL(ref || pi) on a bandit: beta ref / (lambda - r), lambda by bisection."""
    low, high = float(rewards.max()) + 1e-15, float(rewards.max()) + beta + 1e-15
    for _ in range(200):
        middle = (low + high) / 2
        mass = float((beta * ref.exp() / (middle - rewards)).sum())
        low, high = (middle, high) if mass > 1 else (low, middle)
    return (beta * ref.exp() / (low - rewards)).log().log_softmax(0)


def best_of_n(logp: Tensor, rewards: Tensor, n: int) -> Tensor:
    """The best of n draws: F(r)^n - F(r-)^n for each value of the reward, shared by its answers as the policy does."""
    probs = logp.exp()
    above = (rewards[None, :] <= rewards[:, None]).double() @ probs
    below = (rewards[None, :] < rewards[:, None]).double() @ probs
    return (logp + ((above**n - below**n) / (above - below)).log()).log_softmax(0)


def best_of_n_bound(n: int) -> float:
    """KL(best of n || policy) <= log n - (n - 1) / n; equal where no answer has a probability of its own."""
    return math.log(n) - (n - 1) / n


def bradley_terry(rewards: Tensor) -> Tensor:
    """P[i, j] = P(i beats j)."""
    return torch.sigmoid(rewards[:, None] - rewards[None, :])


def kl(logp: Tensor, ref: Tensor) -> Tensor:
    """KL(pi || ref)."""
    return (logp.exp() * (logp - ref)).sum()


def state_values(tree: Tree, policy: TablePolicy, rewards: Tensor) -> Tensor:
    """V(s) = E r of the finished sequence from every state, by recursion: [S]."""
    probs = policy.logits.detach().softmax(1)
    first = [sum(tree.vocab**d for d in range(k)) for k in range(tree.depth + 1)]
    values = torch.zeros(tree.num_states, dtype=torch.float64)

    def value(prefix: tuple[int, ...]) -> float:
        if prefix in tree.index:
            return float(rewards[tree.index[prefix]])
        code = 0
        for token in prefix:
            code = code * tree.vocab + token
        state = first[len(prefix)] + code
        values[state] = sum(float(probs[state, a]) * value((*prefix, a)) for a in range(tree.vocab))
        return float(values[state])

    value(())
    return values


def logit(p: float) -> float:
    return math.log(p / (1 - p))
