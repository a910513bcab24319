"""What TRL 1.16 and LLaMA-Factory 0.9.5 call things, beside what clew calls them: the table of `clew import-config`."""

from collections.abc import Callable
from typing import Any

METHODS = {
    "sft": "sft", "dpo": "preference", "kto": "preference", "reward": "reward", "grpo": "rl", "rloo": "rl", "ppo": "rl",
}  # fmt: skip
"""Method of the other tool -> recipe of clew."""
STAGES = {"pt": "sft", "sft": "sft", "dpo": "dpo", "kto": "kto", "rm": "reward", "ppo": "ppo"}
"""LLaMA-Factory's stage -> method."""

COMMON = {
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 3.0, "save_steps": 500,
    "lr_scheduler_type": "linear", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "weight_decay": 0.0,
    "max_grad_norm": 1.0, "seed": 42,
}  # fmt: skip
TOOLS: dict[str, dict[str, Any]] = {
    "trl": {"bf16": True, "gradient_checkpointing": True},
    "llamafactory": {
        "learning_rate": 5e-5, "cutoff_len": 2048, "finetuning_type": "lora", "gradient_checkpointing": True,
    },
}  # fmt: skip
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("trl", "sft"): {"learning_rate": 2e-5, "max_length": 1024},
    ("trl", "dpo"): {"learning_rate": 1e-6, "max_length": 1024, "beta": 0.1, "loss_type": "sigmoid"},
    ("trl", "kto"): {"learning_rate": 1e-6, "max_length": 1024, "beta": 0.1, "loss_type": "kto"},
    ("trl", "reward"): {"learning_rate": 1e-4, "max_length": 1024},
    ("trl", "grpo"): {
        "learning_rate": 1e-6, "num_generations": 8, "max_completion_length": 512, "beta": 0.0, "num_iterations": 1,
        "epsilon": 0.2, "loss_type": "dapo", "scale_rewards": "group", "temperature": 1.0,
    },
    ("trl", "rloo"): {
        "learning_rate": 1e-6, "num_generations": 2, "max_completion_length": 512, "beta": 0.05, "num_iterations": 1,
        "epsilon": 0.2, "temperature": 1.0,
    },
}  # fmt: skip
"""What holds where a file is silent: the tool's own defaults, since the file was written with them in mind."""

Change = Callable[[Any], Any]
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant"}
ALIASES: dict[str, tuple[str, Change]] = {
    "model_name_or_path": ("model", str),
    "output_dir": ("out", str),
    "seed": ("seed", int),
    "learning_rate": ("learner.lr", float),
    "lr_scheduler_type": ("learner.schedule", lambda name: SCHEDULES[name]),
    "warmup_ratio": ("learner.warmup", float),
    "weight_decay": ("learner.weight_decay", float),
    "max_grad_norm": ("learner.clip", float),
    "adam_epsilon": ("learner.eps", float),
    "gradient_checkpointing": ("learner.gradient_checkpointing", bool),
    "disable_gradient_checkpointing": ("learner.gradient_checkpointing", lambda is_off: not is_off),
    "num_train_epochs": ("epochs", float),
    "max_length": ("encoding.max_length", int),
    "max_seq_length": ("encoding.max_length", int),
    "cutoff_len": ("encoding.max_length", int),
    "save_steps": ("save_every", int),
    "save_total_limit": ("keep", int),
    "num_generations": ("group", int),
    "num_iterations": ("epochs", int),
    "ppo_epochs": ("epochs", int),
    "max_completion_length": ("max_tokens", int),
    "max_new_tokens": ("max_tokens", int),
    "temperature": ("temperature", float),
    "entropy_coef": ("entropy", float),
    "ppo_whiten_rewards": ("whiten_rewards", bool),
    "ref_model": ("reference", str),
    "center_rewards_coefficient": ("centring", float),
    "max_samples": ("data.limit", int),
    "lora_alpha": ("lora.alpha", int),
    "lora_r": ("lora.rank", int),
    "lora_rank": ("lora.rank", int),
}
"""Name there -> name here, and how the value is changed. Options that make sense only together are in together.py."""

PAIR_LOSSES: dict[str, tuple[str, dict[str, str]]] = {
    "sigmoid": ("dpo", {"beta": "beta"}),
    "ipo": ("ipo_mean", {"beta": "tau"}),
    "hinge": ("hinge", {"beta": "beta"}),
    "robust": ("robust_dpo", {"beta": "beta", "label_smoothing": "flip_rate"}),
    "apo_zero": ("apo_zero", {"beta": "beta"}),
    "apo_down": ("apo_down", {"beta": "beta"}),
    "orpo": ("orpo", {"beta": "lam"}),
    "simpo": ("simpo", {"beta": "beta", "simpo_gamma": "margin"}),
    "kto": ("kto", {n: n for n in ("beta", "desirable_weight", "undesirable_weight")}),
}  # fmt: skip
"""Loss there -> loss here, and the names of its options. Both tools divide IPO's log-ratios by their lengths."""

AVERAGINGS = {"dapo": "token", "bnpo": "token", "grpo": "sequence", "dr_grpo": "fixed"}
"""GRPO's `loss_type`, which is how tokens are averaged."""

SAID = ("do_train", "overwrite_output_dir", "overwrite_cache", "stage")
"""What choosing the recipe says."""
BECAUSE = {
    "every run can be resumed: the same command goes on": "resume_from_checkpoint save_only_model save_strategy",
    "every step is written to metrics.jsonl": (
        "logging_steps logging_strategy logging_first_step plot_loss log_completions disable_tqdm"
    ),
    "rows always go without padding, and never see each other": (
        "packing neat_packing eval_packing padding_free group_by_length pad_to_multiple_of"
    ),
    "answers are learnt and prompts are not": ("completion_only_loss assistant_only_loss train_on_prompt mask_history"),
    "the column of plain text is `text`; data.columns renames others": "dataset_text_field",
    "one process; learner.max_tokens is the setting for memory": (
        "preprocessing_num_workers dataloader_num_workers dataset_num_proc dataloader_pin_memory num_processes "
        "accelerate_config deepspeed fsdp ddp_timeout ddp_find_unused_parameters env"
    ),
    "a matter of speed, which has one way here": (
        "attn_implementation flash_attn use_liger_kernel enable_liger_kernel torch_compile use_unsloth use_vllm "
        "vllm_mode vllm_gpu_memory_utilization cache_implementation optim tf32"
    ),
    "code from the hub is not run": "trust_remote_code",
    "the result is a model folder, to be exported": "push_to_hub hub_model_id hub_strategy run_name",
    "always so where it matters": (
        "remove_unused_columns shuffle_dataset disable_dropout precompute_ref_log_probs lora_task_type "
        "lora_modules_to_save additional_target use_cache"
    ),
    "held-out rows are measured at every checkpoint (save_every)": (
        "per_device_eval_batch_size eval_steps metric_for_best_model eval_accumulation_steps"
    ),
    "adapters have no dropout here": "lora_dropout",
    "there is bf16 and fp32, no fp16": "fp16",
    "RL samples from the whole softmax, as its log-probabilities suppose": "top_p top_k min_p repetition_penalty",
    "the tokenizer's own chat template is used; encoding.template names another": "template",
}
SETTLED = {name: reason for reason, names in BECAUSE.items() for name in names.split()}
"""Options that need no counterpart, and why."""
