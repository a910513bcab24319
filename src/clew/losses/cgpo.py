"""Constrained generative policy optimisation (CGPO, arXiv 2409.20370): what is learnt from judged answers.

Each prompt has K answers and a baseline, which an answer's reward is measured against. CRPG and CRRAFT weigh
log-likelihoods, CODPO compares two answers. All are minimised; nothing here has a gradient but `codpo`.

Where the paper's print and its text disagree, this is the text: an answer is positive when *every* judge passes it
(Algorithm 1 prints an OR); CRRAFT leaves out answers whose log-ratio exceeds the bound (printed as a ratio of logs);
CODPO's objective is maximised (printed as a descent on it). Best and worst are looked for among -inf and +inf masks:
products with 0 would make a violator the best of negative rewards.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clew.losses.pair import PairLogps


class Judged(NamedTuple):
    """Answers to P prompts, K each, and the baseline to each.

    Example: `Judged(tensor([[2., 1.]]), tensor([[False, True]]), tensor([[0.3, 0.1]]), tensor([0.5]), tensor([True]))`
    """

    rewards: Tensor  # [P, K]
    satisfied: Tensor  # [P, K] bool: every judge passes the answer
    log_ratios: Tensor  # [P, K] log pi - log ref of the policy that sampled, summed over the answer
    baseline: Tensor  # [P] the baseline's reward
    baseline_satisfied: Tensor  # [P] bool


def calibrated(rewards: Tensor, baseline: Tensor) -> Tensor:
    """sigma(r(y) - r(baseline)), sec. 4.1: in (0, 1), 1/2 for the baseline; [P, K], [P] -> [P, K].

    What a reward model adds to all answers of a prompt drops out, so that prompts weigh alike.
    """
    return torch.sigmoid(rewards - baseline[:, None])


def regularised(judged: Judged, *, kl_max: float) -> Tensor:
    """CRPG's reward: max(1 - log-ratio / kl_max, 0) times the calibrated reward, 0 for violators; [P, K].

    A factor, not a penalty: an answer that is as likely as under the reference keeps its reward, one beyond `kl_max`
    nats loses it, and one that has become less likely gains.
    """
    factor = (1 - judged.log_ratios / kl_max).clamp(min=0)
    worth = factor * calibrated(judged.rewards, judged.baseline)
    return worth.where(judged.satisfied, torch.zeros_like(worth))


def crpg(judged: Judged, *, kl_max: float = torch.inf) -> Tensor:
    """Calibrated-regularised policy gradient: weights [P, K + 1] of log-likelihoods, (R - mean R) / n.

    n = P K and the mean is over all of them, so that the expected gradient is (1 - 1/n) times the true one. The last
    column, the baseline's, is zero.
    """
    worth = regularised(judged, kl_max=kl_max)
    shifted = worth - worth[:1, :1]  # equal rewards give exactly zero
    return F.pad((shifted - shifted.mean()) / worth.numel(), (0, 1))


def crraft(judged: Judged, *, kl_max: float = torch.inf) -> Tensor:
    """Calibrated-regularised reward-ranking: weights [P, K + 1], for each prompt one that is not zero.

    The answer with the highest reward among those that satisfy and lie within `kl_max`, weighed by its calibrated
    reward; where there is none the baseline, by its own 1/2, if it satisfies; else nothing. Over P, the skipped too.
    """
    allowed = judged.satisfied & (judged.log_ratios <= kl_max)
    best = judged.rewards.masked_fill(~allowed, -torch.inf).argmax(1)
    num, width = allowed.shape
    taken = torch.where(allowed.any(1), best, width)
    learnt = allowed.any(1) | judged.baseline_satisfied
    worth = F.pad(calibrated(judged.rewards, judged.baseline), (0, 1), value=0.5)
    return worth * F.one_hot(taken, width + 1) * learnt[:, None] / num


def best_and_worst(judged: Judged) -> Tensor:
    """CODPO's pairs: places [P, 2] of the chosen and the rejected answer; -1 where nothing can be compared.

    Chosen is the best of those that satisfy; rejected the worst violator, where there is none the worst of all. A
    prompt whose answers all violate, or all satisfy with one reward, has no pair.
    """
    chosen = judged.rewards.masked_fill(~judged.satisfied, -torch.inf).argmax(1)
    among = torch.where(judged.satisfied.all(1, keepdim=True), True, ~judged.satisfied)
    rejected = judged.rewards.masked_fill(~among, torch.inf).argmin(1)
    pair = torch.stack([chosen, rejected], 1)
    equal = judged.satisfied.all(1) & (judged.rewards.amax(1) == judged.rewards.amin(1))
    return pair.masked_fill((equal | ~judged.satisfied.any(1))[:, None], -1)


def codpo(pair: PairLogps, *, beta: float = 0.1, lam: float = 0.1) -> Tensor:
    """Constrained online DPO: -log sigma(beta gap) - lam * mean log-probability of the chosen answer's tokens; [N].

    The second term keeps the chosen answer from losing probability along with the rejected one. The paper prints
    neither coefficient; these are clew's.
    """
    return -F.logsigmoid(beta * pair.gap) - lam * pair.chosen_mean


OPTIMISERS = {f.__name__: f for f in (crpg, crraft, codpo)}
