"""clew's side of the golden vectors: its losses on the same inputs, averaged as the peer averages."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clew.batch import Averaging, Batch, token_weights
from clew.experience import token_rewards
from clew.losses.advantage import gae, whiten
from clew.losses.kl import adaptive_coefficient, forward_kl_loss, k1
from clew.losses.pair import PairLogps
from clew.losses.rank import Ranked
from clew.losses.single import kto, mismatched_kl
from clew.losses.token import clipped, nll
from clew.types import Score
from tools.peers.record import Inputs, with_gradient

Options = Mapping[str, Any]
Numbers = dict[str, Tensor]
Side = Callable[[Inputs, Options], Numbers]
PairLoss = Callable[[PairLogps, Options], Tensor]


def pair_of(logps: Tensor, x: Inputs) -> PairLogps:
    ref = x.get("ref_logps", torch.zeros_like(logps))
    sums = [half for side in (logps, ref) for half in (side * x["mask"]).sum(1).chunk(2)]
    return PairLogps(*sums, *x["mask"].sum(1).chunk(2))


def of_pairs(loss: PairLoss) -> Side:
    return lambda x, o: with_gradient(lambda logps: loss(pair_of(logps, x), o).mean(), x["logps"])


def of_logits(loss: PairLoss) -> Side:
    return lambda x, o: with_gradient(
        lambda logits: loss(pair_of(label_logps(logits, x["tokens"]), x), o).mean(), x["logits"]
    )


def label_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token, [B, T]; the first has none: zero."""
    logps = logits[:, :-1].log_softmax(2).gather(2, tokens[:, 1:, None].long())[:, :, 0]
    return F.pad(logps, (1, 0))


def language_model(x: Inputs, o: Options) -> Numbers:
    weights = token_weights(x["mask"], "token")
    return with_gradient(lambda logits: (nll(label_logps(logits, x["tokens"])) * weights).sum(), x["logits"])


def chosen_nll(x: Inputs, o: Options) -> Numbers:
    num = len(x["mask"]) // 2
    weights = token_weights(x["mask"][:num], "token")
    return with_gradient(lambda logps: (nll(logps[:num]) * weights).sum(), x["logps"])


def of_scores(loss: Callable[[Ranked, Options], Tensor], *, with_margin: bool = False) -> Side:
    def ours(x: Inputs, o: Options) -> Numbers:
        num = len(x["scores"]) // 2
        margin = x["margin"] if with_margin else torch.zeros(num)
        hard = torch.tensor([[0, 1]]), torch.ones(num, 2).bool(), margin, torch.ones(num)
        return with_gradient(lambda scores: loss(Ranked(scores.view(2, num).T, *hard), o).mean(), x["scores"])

    return ours


def kto_in_parts(parts: int) -> Side:
    """KTO with a reference point for each of `parts` micro-batches, every part weighing the same; 1 is clew's own."""

    def side(x: Inputs, o: Options) -> Numbers:
        other = ((x["mismatched_logps"] - x["mismatched_ref_logps"]) * x["mismatched_mask"]).sum(1)
        edges = [i * len(other) // parts for i in range(parts + 1)]

        def loss(logps: Tensor) -> Tensor:
            ratios = ((logps - x["ref_logps"]) * x["mask"]).sum(1)
            means = [
                kto(ratios[i:j], x["desirable"][i:j], mismatched_kl(other[i:j]), **o).mean() for i, j in pairwise(edges)
            ]
            return torch.stack(means).mean()

        return with_gradient(loss, x["logps"])

    return side


def of_tokens(key: str, loss: Callable[[Tensor, Inputs, Options], Tensor], averaging: Averaging = "token") -> Side:
    """The average of a loss of tokens, and its gradient at x[key]."""

    def ours(x: Inputs, o: Options) -> Numbers:
        weights = token_weights(x["mask"], averaging, max_length=o.get("max_completion_length"))
        return with_gradient(lambda at: (loss(at, x, o) * weights).sum(), x[key])

    return ours


def policy(averaging: Averaging) -> Side:
    """PPO's clipped loss with GRPO's KL term; options go by TRL's names or by OpenRLHF's."""

    def loss(logps: Tensor, x: Inputs, o: Options) -> Tensor:
        low, high = o.get("epsilon_low", o.get("clip_eps_low")), o.get("epsilon_high", o.get("clip_eps_high"))
        dual = o.get("delta", o.get("dual_clip"))
        terms = clipped(logps, x["old_logps"], x["advantages"], low=low, high=high, dual=dual)
        return terms + o.get("beta", 0.0) * forward_kl_loss(logps, x["ref_logps"], x["mask"])

    return of_tokens("logps", loss, averaging)


def of_rollouts(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Side:
    """A policy loss with one advantage for each rollout, summed over its tokens and averaged over rollouts."""

    def ours(x: Inputs, o: Options) -> Numbers:
        weights = token_weights(x["mask"], "fixed", max_length=1)
        advantages = x["advantages"][:, :1].expand_as(weights)
        return with_gradient(lambda logps: (loss(logps, x["old_logps"], advantages) * weights).sum(), x["logps"])

    return ours


def value_of(estimate: Callable[[Tensor, Tensor], Tensor]) -> Side:
    return lambda x, o: {"value": estimate(x["logps"], x["ref_logps"]) * x.get("mask", torch.ones(()))}


def controlled(x: Inputs, o: Options) -> Numbers:
    coefficient, found = o["initial"], []
    for kl in o["kl"]:
        coefficient = adaptive_coefficient(
            coefficient, kl, target=o["target"], horizon=o["horizon"], num_sequences=o["n_steps"]
        )
        found.append(coefficient)
    return {"coefficients": torch.tensor(found, dtype=torch.float64)}


def of_groups(estimate: Callable[[Tensor], Tensor], *, on_tokens: bool = False) -> Side:
    """Advantages from outcomes less the KL penalty, whose weight is TRL's beta or OpenRLHF's kl_coef."""

    def ours(x: Inputs, o: Options) -> Numbers:
        kl = (k1(x["old_logps"], x["ref_logps"]) * x["mask"]).sum(1).view_as(x["outcomes"])
        found = estimate(x["outcomes"] - o.get("beta", o.get("kl_coef", 0.0)) * kl)
        return {"advantages": found.view(-1, 1) * x["mask"] if on_tokens else found}

    return ours


def rewards_with_kl(x: Inputs, o: Options) -> Tensor:
    rows = torch.arange(len(x["mask"]))
    batch = Batch(x["mask"].long(), x["mask"], x["mask"], rows, torch.zeros_like(rows))
    kl = k1(x["old_logps"], x["ref_logps"])
    return token_rewards(batch, x["outcomes"].flatten(), [Score(0.0)] * len(rows), kl, o["kl_coef"])


def generalised(mask: str) -> Side:
    def ours(x: Inputs, o: Options) -> Numbers:
        found = gae(x["rewards"], x["values"], x[mask], gamma=o["gamma"], lam=o["lambd"])
        return {"advantages": found, "returns": (found + x["values"]) * x[mask]}

    return ours


def to_go(x: Inputs, o: Options) -> Numbers:
    return {"returns": gae(x["rewards"], torch.zeros_like(x["values"]), x["mask"], gamma=o["gamma"], lam=1.0)}


def whitened(x: Inputs, o: Options) -> Numbers:
    found = gae(rewards_with_kl(x, o), x["values"], x["mask"], gamma=o["gamma"], lam=o["lambd"])
    return {"advantages": whiten(found, x["mask"])}
