"""GRPO and RLOO by TRL's own trainers: the losses, and the advantages they give to rewards."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from tools.peers.record import Inputs, case, with_gradient
from tools.peers.trl_bare import Answers, bare


def policy_inputs(x: Inputs, rows: slice) -> dict[str, Tensor]:
    """A batch for GRPO or RLOO: one prompt token, then the completion."""
    mask = x["mask"][rows].long()
    return {
        "prompt_ids": torch.zeros(len(mask), 1).long(),
        "prompt_mask": torch.ones(len(mask), 1).long(),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": x["advantages"][rows],
        "old_per_token_logps": x["old_logps"][rows],
        "ref_per_token_logps": x["ref_logps"][rows],
        "num_items_in_batch": x["mask"].sum(),
    }


def grpo_loss(x: Inputs, logps: Tensor, rows: slice, steps: int, **options: Any) -> Tensor:
    trainer = bare(
        GRPOTrainer,
        args=SimpleNamespace(delta=options["delta"], use_bias_correction_kl=False, steps_per_generation=steps),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=steps,
        **{key: value for key, value in options.items() if key != "delta"},
    )
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logps[rows], torch.zeros_like(logps[rows]), None)
    return trainer._compute_loss(trainer.model, policy_inputs(x, rows))


def grpo_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    half = len(x["mask"]) // 2
    whole, halves = (slice(None),), (slice(half), slice(half, None))
    default = {"beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.2, "delta": None, "max_completion_length": 10}

    def one(title: str, loss_type: str, parts: tuple[slice, ...] = whole, **change: Any) -> dict[str, Any]:
        options = {"loss_type": loss_type} | default | change

        def loss(logps: Tensor) -> Tensor:
            return torch.stack([grpo_loss(x, logps, rows, len(parts), **options) for rows in parts]).sum()

        return case(title, name, GRPOTrainer._compute_loss, with_gradient(loss, x["logps"]), **options)

    return [
        one("grpo", "grpo"),
        one("grpo_kl", "grpo", beta=0.04),
        one("dr_grpo", "dr_grpo"),
        one("bnpo", "bnpo"),
        one("bnpo_accumulated", "bnpo", halves),
        one("dapo", "dapo", epsilon_high=0.28),
        one("dapo_accumulated", "dapo", halves, epsilon_high=0.28),
        one("two_sided", "dapo", delta=1.5),
    ]


def scored(trainer_class: type, x: Inputs, rewards: Tensor, **options: Any) -> dict[str, Tensor]:
    """The advantages [P, G] that a trainer gives completions with these rewards."""
    trainer = bare(
        trainer_class,
        ref_model=Answers(),
        args=SimpleNamespace(
            per_device_train_batch_size=len(x["mask"]),
            gradient_checkpointing_kwargs=None,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
        ),
        environment_factories=None,
        environments=None,
        tools=None,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        num_generations=rewards.shape[1],
        num_iterations=1,
        use_vllm=False,
        reward_weights=torch.ones(1, dtype=rewards.dtype),
        reward_func_names=["reward"],
        _logs={"prompt": [], "completion": [], "advantages": [], "rewards": {"reward": []}, "extra": {}},
        _pending_extra_logs={},
        _pending_metrics={},
        **options,
    )
    completions = [[1] * length for length in x["mask"].sum(1).tolist()]
    prompts, texts = [[1]] * len(completions), [""] * len(completions)
    for_rloo = prompts, completions, texts
    for_grpo = prompts, completions, None, texts, None, {}, None, None
    answers = iter((x["old_logps"], x["ref_logps"]))
    trainer._generate = lambda _: for_rloo if trainer_class is RLOOTrainer else for_grpo
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (next(answers), None, None)
    trainer._calculate_rewards = lambda *_: rewards.view(-1, 1)
    found = trainer._generate_and_score_completions([{"prompt": ""}] * len(completions))
    return {"advantages": found["advantages"].view_as(rewards)}


def grpo_advantages(title: str, name: str, x: Inputs, scale: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    options = {"scale_rewards": scale, "beta": 0.0, "multi_objective_aggregation": "sum_then_normalize"}
    outputs = scored(GRPOTrainer, x, x["outcomes"].to(dtype), **options)
    return case(title, name, GRPOTrainer._generate_and_score_completions, outputs, **options)


def rloo_advantages(title: str, name: str, x: Inputs, beta: float) -> dict[str, Any]:
    options = {"beta": beta, "reward_clip_range": None, "normalize_advantages": False}
    outputs = scored(RLOOTrainer, x, x["outcomes"], **options)
    return case(title, name, RLOOTrainer._generate_and_score_completions, outputs, **options)


def advantage_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    return [
        grpo_advantages("group_advantages", name, x, "group"),
        grpo_advantages("group_advantages_unscaled", name, x, "none"),
        rloo_advantages("rloo_advantages", name, x, 0.0),
        rloo_advantages("rloo_advantages_kl", name, x, 0.05),
    ]


def tie_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    """Groups of equal rewards, in float32 as reward functions give them."""
    return [grpo_advantages("group_advantages_tie", name, x, "group", torch.float32)]


def rloo_cases(name: str, x: Inputs) -> list[dict[str, Any]]:
    options = {"epsilon_low": 0.2, "epsilon_high": 0.2}

    def loss(logps: Tensor, old_logps: Tensor) -> Tensor:
        trainer = bare(RLOOTrainer, **options)
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logps, torch.zeros_like(logps), None)
        old = {"old_logps": (old_logps * x["mask"]).sum(1), "advantages": x["advantages"][:, 0]}
        return trainer._compute_loss(trainer.model, policy_inputs(x, slice(None)) | old)

    on_policy = with_gradient(lambda logps: loss(logps, x["logps"]), x["logps"])
    off_policy = with_gradient(lambda logps: loss(logps, x["old_logps"]), x["logps"])
    gradient = {"gradient": on_policy["gradient"]}
    return [
        case("rloo_on_policy", name, RLOOTrainer._compute_loss, gradient, **options),
        case("rloo", name, RLOOTrainer._compute_loss, off_policy, **options),
    ]
