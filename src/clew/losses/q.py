"""Token-level Q-learning from answers that lie there: ILQL (arXiv 2206.11871). [B, T] where nothing else is said.

Two heads give Q(s, a) of the tokens that were written, and V(s) is of the state in which a token was chosen: before it.
Cloning is `advantage_weighted` in `token`.
"""

from torch import Tensor

from clew.losses.advantage import gae

FAR = 1e4
"""Nats below all others: probability zero, and sums of log-probabilities stay finite."""


def td_targets(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 0.99) -> Tensor:
    """What Q is regressed on: r_t + gamma V(s_{t+1}), detached.

    V(s_{t+1}) is that of the row's next scored token, and zero behind the last one, also where an answer was cut. The
    reward of a token is not discounted.
    """
    return (gae(rewards, values, mask, gamma=gamma, lam=0.0) + values).detach()


def squared_q(q: Tensor, targets: Tensor) -> Tensor:
    """The squared error of both heads, [B, T, 2] and [B, T], added up; not halved, as trlx has it."""
    return (q - targets[..., None]).square().sum(-1)


def expectile(values: Tensor, targets: Tensor, *, tau: float = 0.7) -> Tensor:
    """Expectile regression (IQL, arXiv 2110.06169, eq. 5): |tau - 1(target < V)| (target - V)^2.

    `targets` are the smaller of two target heads' Q, detached. tau 0.5 is half the squared error, whose V is the mean
    over the data's tokens (SARSA); tau -> 1 gives the best of those that the data have. Too high a tau chases noise.
    """
    gap = targets - values
    return (tau - (gap < 0).to(gap.dtype)).abs() * gap.square()


def conservative(q_logps: Tensor) -> Tensor:
    """CQL's term (arXiv 2006.04779), as ILQL has it: cross-entropy of softmax(Q) with the token, of both heads.

    `q_logps` [B, T, 2] are log softmax(Q)(token). It lowers Q of tokens that the data do not have, and draws Q to
    log pi_beta + const: with a large coefficient Q says how usual a token is, not how good.
    """
    return -q_logps.sum(-1)


def perturbed(logits: Tensor, q: Tensor, *, beta: float = 1.0, top_k: int | None = None) -> Tensor:
    """Logits of pi ~ pi_beta exp(beta (Q - V)), of which the best `top_k` are kept: [S, V], [S, V] -> [S, V].

    V(s) shifts all tokens of a state alike and falls out. Tokens are cut after the perturbation, not before.
    """
    found = logits + beta * q
    if top_k is None or top_k >= found.shape[-1]:
        return found
    least = found.topk(top_k, dim=-1).values[..., -1:]
    return found.where(found >= least, least - FAR)
