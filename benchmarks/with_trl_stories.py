"""TRL's side of frontier.py. Runs in the peer's environment (tools/peers), one method and seed a process.

The same start, prompts in the same order or the same pairs, batch sizes, rates, clipping and coefficients as clew's
methods of the same name; what differs is TRL's own: its sampler, optimiser's defaults, tokenisation and KL estimate.
Checkpoints and a ledger of sampled tokens are left where clew's `evaluate` looks for them.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

options: dict[str, Any] = json.loads(sys.argv[1])
out = Path(options["out"])
tokenizer = AutoTokenizer.from_pretrained(options["model"])
sampled = 0


def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)


def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """Gold."""
    global sampled
    sampled += sum(map(len, completion_ids))
    spec = importlib.util.spec_from_file_location("stories", options["stories"])
    assert spec is not None and spec.loader is not None
    stories = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stories)
    return stories.happy_ending(prompts, completions)


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(options[name]).read_text().splitlines()]


def common(*, batch: int, updates: int, every: int) -> dict[str, Any]:
    return {
        "output_dir": str(out / "checkpoints"), "per_device_train_batch_size": batch, "max_steps": updates,
        "learning_rate": options["lr"], "lr_scheduler_type": options["schedule"], "warmup_steps": options["warmup"],
        "adam_beta2": 0.95, "max_grad_norm": 1.0, "use_cpu": True, "save_steps": every, "save_only_model": True,
        "report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "seed": options["seed"], "bf16": False,
        "gradient_checkpointing": False, "dataloader_pin_memory": False,
    }  # fmt: skip


def of_groups(trainer: type, config: type, **own: Any) -> Any:
    steps, num = options["steps"], options["rollouts"]
    settings = {
        **common(batch=num // 2, updates=2 * steps, every=2 * steps // 4),
        "num_generations": 8, "steps_per_generation": 2,
        "max_completion_length": options["max_tokens"], "beta": options["kl"], "shuffle_dataset": False, **own,
    }  # fmt: skip
    train = Dataset.from_list([{"prompt": row["prompt"]} for row in rows("ordered")])
    return trainer(model=policy(), args=config(**settings), train_dataset=train, reward_funcs=reward,
                   processing_class=tokenizer)  # fmt: skip


def grpo() -> Any:
    from trl import GRPOConfig, GRPOTrainer

    return of_groups(GRPOTrainer, GRPOConfig, loss_type="grpo", scale_rewards="group")


def rloo() -> Any:
    from trl import RLOOConfig, RLOOTrainer

    return of_groups(RLOOTrainer, RLOOConfig)


def online() -> Any:
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    def judged(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any
    ) -> list[float]:
        return reward(prompts, completions, completion_ids)

    steps, num = options["steps"], options["rollouts"] // 2
    config = OnlineDPOConfig(
        **common(batch=num, updates=steps, every=steps // 4), beta=[0.1], loss_type="sigmoid", temperature=1.0,
        max_new_tokens=options["max_tokens"], max_length=384, missing_eos_penalty=None,
    )  # fmt: skip
    train = Dataset.from_list([{"prompt": row["prompt"]} for row in rows("ordered")])
    return OnlineDPOTrainer(model=policy(), args=config, train_dataset=train, reward_funcs=reward,
                            processing_class=tokenizer)  # fmt: skip


def offline(trainer: type, config: type, found: list[dict[str, Any]], batch: int) -> Any:
    updates = options["epochs"] * len(rows("pairs")) // 32
    settings = common(batch=batch, updates=updates, every=10)
    args = config(**settings, beta=0.1, max_length=384)
    return trainer(model=policy(), args=args, train_dataset=Dataset.from_list(found), processing_class=tokenizer)


def dpo() -> Any:
    from trl import DPOConfig, DPOTrainer

    found = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows("pairs")]
    return offline(DPOTrainer, DPOConfig, found, 32)


def kto() -> Any:
    from trl import KTOConfig, KTOTrainer

    found = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in rows("pairs") for side in ("chosen", "rejected")
    ]  # fmt: skip
    return offline(KTOTrainer, KTOConfig, found, 64)


trainer = {"grpo": grpo, "rloo": rloo, "online": online, "dpo": dpo, "kto": kto}[options["method"]]()
trainer.train()
trainer.model.save_pretrained(out / "model")
tokenizer.save_pretrained(out / "model")
for checkpoint in (out / "checkpoints").glob("checkpoint-*"):
    tokenizer.save_pretrained(checkpoint)
(out / "run.json").write_text(json.dumps({"ledger": {"tokens_generated": sampled}}))
