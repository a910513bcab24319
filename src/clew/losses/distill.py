"""Divergence of a student's next-token distribution from a teacher's: log-probabilities [S, V], [S, V] -> [S], nats."""

import torch
from torch import Tensor


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) = sum_v p_v (log p_v - log q_v): context distillation (arXiv 2112.00861).

    Where the student has to stand for several teachers, its minimum is their mean; of the other direction it is their
    geometric mean. Tokens that the teacher never says cost nothing.
    """
    return torch.where(teacher == -torch.inf, 0.0, teacher.exp() * (teacher - student)).sum(-1)


def top_k_kl(teacher: Tensor, student: Tensor, *, k: int) -> Tensor:
    """KL over the teacher's `k` likeliest tokens and one class of all others, whose probabilities are added up.

    Never more than `forward_kl`, and equal to it where k = V. Without that class the student's probability of all
    that is not among the k would be free to vanish.
    """
    if k >= teacher.shape[-1]:
        return forward_kl(teacher, student)
    likeliest = teacher.topk(k, dim=-1).indices
    return forward_kl(*(_with_others(logps, likeliest) for logps in (teacher, student)))


def _with_others(logps: Tensor, kept: Tensor) -> Tensor:
    """[S, V] as [S, k + 1]: the kept ones, and the log of what all others have together."""
    others = logps.scatter(-1, kept, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logps.gather(-1, kept), others], dim=-1)
