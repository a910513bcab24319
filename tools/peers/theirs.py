"""The peers' formulas where they compute another number than clew, written out to show that this is the difference."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clew.losses.advantage import gae
from clew.losses.pair import PairLogps
from tools.peers.ours import Numbers, Options, Side, label_logps, pair_of, policy, rewards_with_kl
from tools.peers.record import Inputs, with_gradient

ULP = 2.0**-27
"""Unit in the last place of 0.1 in float32."""


def smoothing_ignored(pair: PairLogps, o: Options) -> Tensor:
    return -F.logsigmoid(o["beta"] * (pair.chosen - pair.ref_chosen - pair.rejected + pair.ref_rejected))


def divided_by_length(pair: PairLogps, o: Options) -> Tensor:
    chosen = (pair.chosen - pair.ref_chosen) / pair.chosen_length
    rejected = (pair.rejected - pair.ref_rejected) / pair.rejected_length
    return (chosen - rejected - 0.5 / o["beta"]) ** 2


def orpo_with_prompt(x: Inputs, o: Options) -> Numbers:
    """The likelihood is of prompt and answer together, each token of the batch weighing the same."""

    def loss(logits: Tensor) -> Tensor:
        logps = label_logps(logits, x["tokens"])
        pair = pair_of(logps, x)
        real = x["real"].chunk(2)[0][:, 1:]
        likelihood = (logps.chunk(2)[0][:, 1:] * real).sum() / real.sum()
        chosen, rejected = (mean - torch.log(1 - mean.exp()) for mean in (pair.chosen_mean, pair.rejected_mean))
        return -likelihood - o["beta"] * F.logsigmoid(chosen - rejected).mean()

    return with_gradient(loss, x["logits"])


def naive_log(x: Inputs, o: Options) -> Numbers:
    def loss(scores: Tensor) -> Tensor:
        chosen, rejected = scores.chunk(2)
        return torch.log(1 + torch.exp(rejected - chosen)).mean()

    return with_gradient(loss, x["scores"])


def mean_of_means(x: Inputs, o: Options) -> Numbers:
    """Two micro-batches, each averaged over its own tokens."""
    half = len(x["mask"]) // 2
    parts = [{key: x[key][rows] for key in x if key != "outcomes"} for rows in (slice(0, half), slice(half, None))]
    found = [policy("token")(part, o) for part in parts]
    return {
        "loss": torch.stack([part["loss"] for part in found]).mean(),
        "gradient": torch.cat([part["gradient"] for part in found]) / 2,
    }


def sequence_ratio(x: Inputs, o: Options) -> Numbers:
    advantages = x["advantages"][:, 0]

    def loss(logps: Tensor) -> Tensor:
        ratio = ((logps - x["old_logps"]) * x["mask"]).sum(1).exp()
        near = ratio.clamp(1 - o["epsilon_low"], 1 + o["epsilon_high"])
        return -torch.minimum(ratio * advantages, near * advantages).mean()

    return with_gradient(loss, x["logps"])


def own_ratio(x: Inputs, o: Options) -> Numbers:
    """Each token's gradient is its own log-ratio, not that of the whole sequence."""
    return {"gradient": (x["logps"] - x["ref_logps"]) * x["mask"] / x["mask"].sum()}


def k1_within_10(x: Inputs, o: Options) -> Numbers:
    return {"value": (x["logps"] - x["ref_logps"]).clamp(-10, 10)}


def equal_rewards(eps: float, *, on_tokens: bool = False) -> Side:
    """The mean of eight times 0.1 comes out one unit too large, and that unit is divided by nearly nothing but eps."""

    def theirs(x: Inputs, o: Options) -> Numbers:
        places = x["mask"] if on_tokens else torch.ones_like(x["outcomes"])
        return {"advantages": -ULP / eps * places}

    return theirs


def own_reward_in_baseline(x: Inputs, o: Options) -> Numbers:
    return {"advantages": (x["outcomes"] - x["outcomes"].mean()).view(-1, 1) * x["mask"]}


def baseline_before_kl(x: Inputs, o: Options) -> Numbers:
    """The outcome against its baseline, then less the KL penalty of this token and of those after it."""
    outcomes, group = x["outcomes"], x["outcomes"].shape[1]
    others = (outcomes.sum(1, keepdim=True) - outcomes) / (group - 1)
    penalty = o["kl_coef"] * (x["old_logps"] - x["ref_logps"]) * x["mask"]
    to_go = penalty.flip(1).cumsum(1).flip(1)
    return {"advantages": ((outcomes - others).view(-1, 1) - to_go) * x["mask"]}


def zeroed_between_turns(x: Inputs, o: Options) -> Numbers:
    mask = x["turns"]
    steps = gae(x["rewards"] * mask, x["values"] * mask, torch.ones_like(mask), gamma=o["gamma"], lam=o["lambd"])
    return {"advantages": steps * mask, "returns": (steps + x["values"]) * mask}


def divided_by_count(x: Inputs, o: Options) -> Numbers:
    """Whitened by the standard deviation of the n advantages at hand, not the estimate with n - 1."""
    found = gae(rewards_with_kl(x, o), x["values"], x["mask"], gamma=o["gamma"], lam=o["lambd"])
    scored = found[x["mask"]]
    return {"advantages": (found - scored.mean()) / scored.std(correction=0) * x["mask"]}
