"""TRL's losses, computed by TRL's own trainers on the inputs of the golden vectors. Runs where TRL is installed.

python -m tools.peers.trl_losses inputs.json trl.json
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer

from tools.peers.record import Inputs, case, with_gradient, write_cases
from tools.peers.trl_bare import Answers, bare, framed, fused
from tools.peers.trl_policies import advantage_cases, grpo_cases, rloo_cases, tie_cases


def dpo_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    def loss(logps: Tensor, loss_type: str, label_smoothing: float) -> Tensor:
        trainer = bare(
            DPOTrainer,
            ref_model=Answers(fused(x["ref_logps"], x["mask"])),
            args=SimpleNamespace(gradient_checkpointing_kwargs=None),
            precompute_ref_logps=False,
            ld_alpha=None,
            f_divergence_type="reverse_kl",
            use_weighting=False,
            loss_types=[loss_type],
            loss_weights=[1.0],
            label_smoothing=label_smoothing,
            beta=0.5,
        )
        return trainer._compute_loss(Answers(fused(logps, x["mask"])), framed(x["mask"]), False)

    def one(title: str, loss_type: str, label_smoothing: float = 0.0) -> dict[str, Any]:
        options = {"loss_type": loss_type, "label_smoothing": label_smoothing}
        outputs = with_gradient(lambda logps: loss(logps, **options), x["logps"])
        return case(title, name, DPOTrainer._compute_loss, outputs, beta=0.5, **options)

    plain = ("sigmoid", "ipo", "hinge", "apo_zero", "apo_down", "sft")
    smoothed = one("sigmoid_smoothed", "sigmoid", 0.1), one("robust", "robust", 0.1)
    return [*(one(loss_type, loss_type) for loss_type in plain), *smoothed]


def kto_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    options = {"beta": 0.5, "desirable_weight": 1.0, "undesirable_weight": 1.5}

    def loss(logps: Tensor, rows: slice) -> Tensor:
        mask, mismatched = x["mask"][rows], x["mismatched_mask"][rows]
        ours = fused(logps[rows], mask), fused(x["mismatched_logps"][rows], mismatched)
        theirs = fused(x["ref_logps"][rows], mask), fused(x["mismatched_ref_logps"][rows], mismatched)
        trainer = bare(
            KTOTrainer,
            ref_model=Answers(*theirs),
            args=SimpleNamespace(gradient_checkpointing_kwargs=None),
            precompute_ref_logps=False,
            calculate_KL=True,
            loss_type="kto",
            **options,
        )
        other = {f"KL_{key}": value for key, value in framed(mismatched, first=1).items()}
        return trainer._compute_loss(Answers(*ours), framed(mask) | other | {"label": x["desirable"][rows]}, False)

    half = len(x["desirable"]) // 2
    whole = with_gradient(lambda logps: loss(logps, slice(None)), x["logps"])
    cut = with_gradient(lambda logps: (loss(logps, slice(half)) + loss(logps, slice(half, None))) / 2, x["logps"])
    return [
        case("kto", name, KTOTrainer._compute_loss, whole, **options),
        case("kto_accumulated", name, KTOTrainer._compute_loss, cut, **options),
    ]


def reward_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    def loss(scores: Tensor, centring: float | None, margin: bool) -> Tensor:
        trainer = bare(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=centring))
        inputs = {"input_ids": torch.zeros(len(scores), 1).long(), "attention_mask": torch.ones(len(scores), 1)}
        inputs |= {"margin": x["margin"]} if margin else {}
        return trainer.compute_loss(Answers(SimpleNamespace(logits=scores[:, None])), inputs)

    plain = with_gradient(lambda s: loss(s, None, False), x["scores"])
    margin = with_gradient(lambda s: loss(s, None, True), x["scores"])
    centred = with_gradient(lambda s: loss(s, 0.01, False), x["scores"])
    return [
        case("reward", name, RewardTrainer.compute_loss, plain),
        case("reward_margin", name, RewardTrainer.compute_loss, margin),
        case("reward_centred", name, RewardTrainer.compute_loss, centred, center_rewards_coefficient=0.01),
    ]


def logits_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    """SimPO and ORPO start from logits; rows are chosen, then rejected, after prompts of two tokens."""
    tokens, real, mask = x["tokens"].long(), x["real"].long(), x["mask"]
    labels = tokens.masked_fill(~mask, -100)
    batch = {}
    for side, rows in (("chosen", slice(0, len(tokens) // 2)), ("rejected", slice(len(tokens) // 2, None))):
        batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"] = tokens[rows], real[rows]
        batch[f"{side}_labels"] = labels[rows]
    simpo = {"beta": 2.0, "simpo_gamma": 1.0}

    more = {"loss_type": "simpo", "cpo_alpha": 0, "alpha": 0.0, "label_smoothing": 0.0, "pad_token_id": 0}
    cpo = bare(CPOTrainer, is_encoder_decoder=False, **more, **simpo)
    orpo = bare(ORPOTrainer, is_encoder_decoder=False, beta=0.1, padding_value=0)

    def outputs(trainer: Any) -> dict[str, Tensor]:
        def loss(logits: Tensor) -> Tensor:
            return trainer.get_batch_loss_metrics(Answers(SimpleNamespace(logits=logits)), batch)[0]

        return with_gradient(loss, x["logits"])

    return [
        case("simpo", name, CPOTrainer.get_batch_loss_metrics, outputs(cpo), **simpo),
        case("orpo", name, ORPOTrainer.get_batch_loss_metrics, outputs(orpo), beta=0.1),
    ]


def odds_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    """ORPO's preference term alone, on mean log-probabilities."""

    def loss(logps: Tensor) -> Tensor:
        chosen, rejected = ((logps * x["mask"]).sum(1) / x["mask"].sum(1)).chunk(2)
        return -bare(ORPOTrainer, beta=0.1).odds_ratio_loss(chosen, rejected)[0].mean()

    return [case("orpo_odds", name, ORPOTrainer.odds_ratio_loss, with_gradient(loss, x["logps"]), beta=0.1)]


MAKERS = {
    "pairs": (dpo_cases, reward_cases, odds_cases),
    "singles": (kto_cases,),
    "rollouts": (grpo_cases, advantage_cases, rloo_cases),
    "ties": (tie_cases,),
    "logits": (logits_cases,),
}


if __name__ == "__main__":
    write_cases("trl", MAKERS)
