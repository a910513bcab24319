"""Advantages: how much better than expected. Tokens [B, T], or groups of P prompts with G rollouts [P, G]."""

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16): A_t = d_t + gamma lam A_{t+1}.

    All tensors [B, T]. values[:, t] is the value of the state in which token t was chosen; the state after a row's
    last scored token has value zero, also where the rollout was cut by length. Tokens outside the mask (tool
    output, padding) are skipped, not zeroed: the next state is that of the next scored token.
    """
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    running = torch.zeros_like(next_value)
    for t in reversed(range(values.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = torch.where(here, delta + gamma * lam * running, running)
        next_value = torch.where(here, values[:, t], next_value)
        advantages[:, t] = running * here
    return advantages


def to_go(rewards: Tensor, mask: Tensor, *, gamma: float = 1.0) -> Tensor:
    """What is still to come, A_t = r_t + gamma A_{t+1}, without a value model: [B, T] -> [B, T].

    With the KL penalty in the rewards and whitened over the batch it is REINFORCE++ (arXiv 2501.03262).
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)


def group_mean(rewards: Tensor) -> Tensor:
    """Reward minus the group's mean (Dr. GRPO, arXiv 2503.20783): [P, G] -> [P, G].

    Its expected gradient is (1 - 1/G) times the true one, since the baseline contains the sample itself.
    """
    shifted = rewards - rewards[:, :1]  # equal rewards must give zero, which the mean's rounding would not
    return shifted - shifted.mean(1, keepdim=True)


def group_normalised(rewards: Tensor, *, eps: float = 1e-4) -> Tensor:
    """GRPO's advantage (arXiv 2402.03300): the group's z-score, [P, G] -> [P, G].

    Standard deviation with G - 1, as the peers have it. A group of equal rewards, or of one, teaches nothing: zero.
    """
    if rewards.shape[1] == 1:
        return torch.zeros_like(rewards)
    return group_mean(rewards) / (rewards.std(1, keepdim=True) + eps)


def leave_one_out(rewards: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740): reward minus the mean of the *others* in the group, [P, G] -> [P, G].

    Unbiased; G / (G - 1) times `group_mean`. Needs two rollouts a prompt.
    """
    group = rewards.shape[1]
    if group < 2:
        raise ValueError("leave_one_out compares with the others of a group; got 1 rollout a prompt, use group >= 2")
    return group_mean(rewards) * (group / (group - 1))


def batch_mean(rewards: Tensor) -> Tensor:
    """Reward minus the mean over *other* rollouts of the whole batch: REINFORCE with a baseline, [P, G] -> [P, G].

    Leaving the own rollout out keeps it unbiased; with one rollout in all, the reward itself.
    """
    count = rewards.numel()
    return rewards if count < 2 else (rewards - rewards.mean()) * (count / (count - 1))


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scale to unit variance over the places of `mask`, [B, T] -> [B, T]; elsewhere zero.

    `shift_mean=False` keeps the mean, which rewards need so that the KL penalty keeps its sign. Fewer than two
    places have no variance: x comes back unscaled.
    """
    count = mask.sum()
    if count < 2:
        return x * mask
    mean = (x * mask).sum() / count
    variance = ((x - mean).square() * mask).sum() / (count - 1)
    white = (x - mean) * (variance + eps).rsqrt()
    return (white if shift_mean else white + mean) * mask


def minus_greedy(rewards: Tensor, greedy: Tensor) -> Tensor:
    """ReMax (arXiv 2310.10505): reward minus that of the prompt's greedy rollout, both [P, G] -> [P, G].

    Unbiased: the baseline does not depend on what was sampled.
    """
    return rewards - greedy


GROUP_ADVANTAGES = {f.__name__: f for f in (group_mean, group_normalised, leave_one_out, batch_mean)}
