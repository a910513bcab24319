"""Every golden vector against clew: the rows of docs/parity.md. Where the numbers differ, why."""

from dataclasses import dataclass

from clew.losses.advantage import batch_mean, group_mean, group_normalised, leave_one_out
from clew.losses.kl import forward_kl_loss, k1, k2, k3, reverse_kl_loss
from clew.losses.pair import apo_down, apo_zero, dpo, hinge, ipo, ipo_mean, orpo, robust_dpo, simpo
from clew.losses.rank import all_pairs, centring
from clew.losses.token import clipped, nll, reinforce
from clew.losses.value import clipped_squared, squared
from tools.peers import ours, theirs
from tools.peers.ours import Side, of_groups, of_logits, of_pairs, of_rollouts, of_scores, of_tokens, policy, value_of


@dataclass(frozen=True)
class Agreement:
    """Both compute the same number.

    Example: `Agreement("trl", "hinge", "hinge", of_pairs(lambda pair, o: hinge(pair, beta=o["beta"])))`
    """

    peer: str
    case: str
    function: str
    """clew's, as docs/methods.md has it."""
    ours: Side


@dataclass(frozen=True)
class Difference:
    """The peer computes something else, and it is known what."""

    peer: str
    case: str
    function: str
    ours: Side
    theirs: Side
    """The peer's number by its own formula."""
    why: str


bradley_terry = of_scores(lambda ranked, _: all_pairs(ranked))
bradley_terry_margin = of_scores(lambda ranked, _: all_pairs(ranked), with_margin=True)
cdpo = of_pairs(lambda pair, o: dpo(pair, beta=o["beta"], label_smoothing=o["label_smoothing"]))
summed_ipo = of_pairs(lambda pair, o: ipo(pair, tau=o["beta"]))
forward_kl = of_tokens("logps", lambda logps, x, _: forward_kl_loss(logps, x["ref_logps"], x["mask"]))
reverse_kl = of_tokens("logps", lambda logps, x, _: reverse_kl_loss(logps, x["ref_logps"], x["mask"]))
values = of_tokens("values", lambda found, x, _: squared(found, x["old_values"], x["returns"]))
values_clipped = of_tokens(
    "values", lambda found, x, o: clipped_squared(found, x["old_values"], x["returns"], clip=o["clip_eps"])
)

AGREEMENTS = (
    Agreement("trl", "sigmoid", "dpo", of_pairs(lambda pair, o: dpo(pair, beta=o["beta"]))),
    Agreement("openrlhf", "dpo", "dpo", cdpo),
    Agreement("openrlhf", "cdpo", "dpo, label_smoothing", cdpo),
    Agreement(
        "trl",
        "robust",
        "robust_dpo",
        of_pairs(lambda pair, o: robust_dpo(pair, beta=o["beta"], flip_rate=o["label_smoothing"])),
    ),
    Agreement("openrlhf", "ipo", "ipo", summed_ipo),
    Agreement("trl", "ipo", "ipo_mean", of_pairs(lambda pair, o: ipo_mean(pair, tau=o["beta"]))),
    Agreement("trl", "hinge", "hinge", of_pairs(lambda pair, o: hinge(pair, beta=o["beta"]))),
    Agreement("trl", "apo_zero", "apo_zero", of_pairs(lambda pair, o: apo_zero(pair, beta=o["beta"]))),
    Agreement("trl", "apo_down", "apo_down", of_pairs(lambda pair, o: apo_down(pair, beta=o["beta"]))),
    Agreement("trl", "simpo", "simpo", of_logits(lambda pair, o: simpo(pair, beta=o["beta"], margin=o["simpo_gamma"]))),
    Agreement(
        "trl",
        "orpo_odds",
        "orpo, its odds ratio",
        of_pairs(lambda pair, o: orpo(pair, lam=o["beta"]) + pair.chosen_mean),
    ),
    Agreement("trl", "kto", "kto", ours.kto_in_parts(1)),
    Agreement("trl", "reward", "bradley_terry", bradley_terry),
    Agreement("openrlhf", "reward", "bradley_terry", bradley_terry),
    Agreement("openrlhf", "reward_log_exp", "bradley_terry", bradley_terry),
    Agreement("trl", "reward_margin", "bradley_terry, margin", bradley_terry_margin),
    Agreement("openrlhf", "reward_margin", "bradley_terry, margin", bradley_terry_margin),
    Agreement(
        "trl",
        "reward_centred",
        "bradley_terry, centring",
        of_scores(lambda ranked, o: all_pairs(ranked) + o["center_rewards_coefficient"] * centring(ranked)),
    ),
    Agreement("trl", "sft", "nll", ours.chosen_nll),
    Agreement("openrlhf", "language_model", "nll", ours.language_model),
    Agreement("openrlhf", "sft", "nll", of_tokens("logps", lambda logps, x, o: nll(logps))),
    Agreement(
        "openrlhf", "sft_sequence", "nll, sequence", of_tokens("logps", lambda logps, x, o: nll(logps), "sequence")
    ),
    Agreement("trl", "bnpo", "clipped, token", policy("token")),
    Agreement("openrlhf", "ppo", "clipped, token", policy("token")),
    Agreement("trl", "grpo", "clipped, sequence", policy("sequence")),
    Agreement("openrlhf", "ppo_sequence", "clipped, sequence", policy("sequence")),
    Agreement("trl", "dr_grpo", "clipped, fixed", policy("fixed")),
    Agreement("trl", "dapo", "clipped, high", policy("token")),
    Agreement("trl", "dapo_accumulated", "clipped, two micro-batches", policy("token")),
    Agreement("openrlhf", "ppo_higher", "clipped, high", policy("token")),
    Agreement("trl", "two_sided", "clipped, dual", policy("token")),
    Agreement("openrlhf", "ppo_dual", "clipped, dual", policy("token")),
    Agreement("trl", "grpo_kl", "clipped + forward_kl_loss", policy("sequence")),
    Agreement("trl", "rloo_on_policy", "reinforce", of_rollouts(reinforce)),
    Agreement("openrlhf", "value", "squared", values),
    Agreement("openrlhf", "value_clipped", "clipped_squared", values_clipped),
    Agreement("openrlhf", "k1", "k1", value_of(k1)),
    Agreement("openrlhf", "k2", "k2", value_of(k2)),
    Agreement("openrlhf", "k3", "k3", value_of(k3)),
    Agreement("openrlhf", "k3_loss", "forward_kl_loss", forward_kl),
    Agreement("openrlhf", "adaptive_kl", "adaptive_coefficient", ours.controlled),
    Agreement("openrlhf", "token_rewards", "token_rewards", lambda x, o: {"rewards": ours.rewards_with_kl(x, o)}),
    Agreement("openrlhf", "gae", "gae", ours.generalised("mask")),
    Agreement("openrlhf", "reward_to_go", "gae, lam 1, no values", ours.to_go),
    Agreement("trl", "group_advantages", "group_normalised", of_groups(group_normalised)),
    Agreement(
        "openrlhf",
        "group_norm",
        "group_normalised, eps 1e-9",
        of_groups(lambda rewards: group_normalised(rewards, eps=1e-9), on_tokens=True),
    ),
    Agreement("trl", "group_advantages_unscaled", "group_mean", of_groups(group_mean)),
    Agreement("openrlhf", "dr_grpo", "group_mean", of_groups(group_mean, on_tokens=True)),
    Agreement("trl", "rloo_advantages", "leave_one_out", of_groups(leave_one_out)),
    Agreement("trl", "rloo_advantages_kl", "leave_one_out, KL in the reward", of_groups(leave_one_out)),
    Agreement("openrlhf", "rloo", "leave_one_out", of_groups(leave_one_out, on_tokens=True)),
)

DIFFERENCES = (
    Difference(
        "trl",
        "sigmoid_smoothed",
        "dpo, label_smoothing",
        cdpo,
        of_pairs(theirs.smoothing_ignored),
        "`sigmoid` reads no label smoothing: cDPO (Mitchell 2023) with TRL is plain DPO. `robust` reads it.",
    ),
    Difference(
        "trl",
        "ipo",
        "ipo",
        summed_ipo,
        of_pairs(theirs.divided_by_length),
        "Log-ratios are divided by their lengths, which is our `ipo_mean`; eq. 17 of 2310.12036, OpenRLHF and our "
        "`ipo` sum them. The optima differ.",
    ),
    Difference(
        "trl",
        "orpo",
        "orpo",
        of_logits(lambda pair, o: orpo(pair, lam=o["beta"])),
        theirs.orpo_with_prompt,
        "The likelihood term counts the prompt's tokens too, and averages over the tokens of the batch; 2403.07691 "
        "(eq. 6) has the answer's given the prompt, a mean for each answer. The odds ratio agrees.",
    ),
    Difference(
        "trl",
        "kto_accumulated",
        "kto",
        ours.kto_in_parts(1),
        ours.kto_in_parts(2),
        "Every micro-batch has a reference point of its own, cut at zero, and weighs the same; ours is that of the "
        "whole step (2402.01306, sec. 4.1), whatever the split.",
    ),
    Difference(
        "openrlhf",
        "reward_log_exp_far",
        "bradley_terry",
        bradley_terry,
        theirs.naive_log,
        "log(1 + exp(gap)) overflows for a gap above 709 (in float32: 88); the loss is infinite and its gradient NaN.",
    ),
    Difference(
        "trl",
        "bnpo_accumulated",
        "clipped, token",
        policy("token"),
        theirs.mean_of_means,
        "`bnpo` averages each micro-batch over its own tokens, so that the loss depends on the split. `dapo` divides "
        "by the tokens of the step, as our `token` does.",
    ),
    Difference(
        "trl",
        "rloo",
        "clipped",
        of_rollouts(clipped),
        theirs.sequence_ratio,
        "The ratio that is clipped is the whole sequence's (2402.14740 takes the sequence as one action), ours each "
        "token's. On policy the gradients agree.",
    ),
    Difference(
        "openrlhf",
        "unbiased_kl_loss",
        "reverse_kl_loss",
        lambda x, o: {"gradient": reverse_kl(x, o)["gradient"]},
        theirs.own_ratio,
        "A token's gradient is its own log-ratio, which leaves out the divergence that it leads to: biased for answers "
        "longer than one token. Ours is that of the whole sequence; `clew verify` shows both.",
    ),
    Difference(
        "openrlhf",
        "k1_far",
        "k1",
        value_of(k1),
        theirs.k1_within_10,
        "Every token's estimate is cut at 10 nats either way, a bias where a token became very unlikely.",
    ),
    Difference(
        "openrlhf",
        "gae_turns",
        "gae",
        ours.generalised("turns"),
        theirs.zeroed_between_turns,
        "A tool's tokens count as steps of value zero, which discount the turns after them; ours are skipped: the next "
        "state is that of the next token of the policy. Agrees where a rollout is one turn.",
    ),
    Difference(
        "openrlhf",
        "gae_whitened",
        "gae, whiten",
        ours.whitened,
        theirs.divided_by_count,
        "Divides by the deviation over n, we by that over n - 1: a factor sqrt(1 - 1/n), of no consequence. No paper "
        "says which.",
    ),
    Difference(
        "openrlhf",
        "flash_reinforce",
        "batch_mean",
        of_groups(batch_mean, on_tokens=True),
        theirs.own_reward_in_baseline,
        "The baseline contains the rollout itself, which shortens the expected gradient by 1 - 1/n; ours leaves it "
        "out.",
    ),
    Difference(
        "openrlhf",
        "rloo_kl",
        "leave_one_out, KL in the reward",
        of_groups(leave_one_out, on_tokens=True),
        theirs.baseline_before_kl,
        "The baseline is taken before the KL penalty, of which each token then gets the part still to come; TRL and we "
        "put the whole penalty in the reward. Both unbiased, with other variances.",
    ),
    Difference(
        "trl",
        "group_advantages_tie",
        "group_normalised",
        of_groups(lambda rewards: group_normalised(rewards.float())),
        theirs.equal_rewards(1e-4),
        "Eight rewards of 0.1 in float32: their mean is off by a rounding, and every advantage is -7e-5, not zero.",
    ),
    Difference(
        "openrlhf",
        "group_norm_tie",
        "group_normalised",
        of_groups(lambda rewards: group_normalised(rewards.float()), on_tokens=True),
        theirs.equal_rewards(1e-9, on_tokens=True),
        "The same eight rewards: that rounding divided by an eps of 1e-9 makes every advantage -7.5. A group that "
        "should teach nothing pushes all its answers down; which rewards and sizes do it is a matter of rounding.",
    ),
)
