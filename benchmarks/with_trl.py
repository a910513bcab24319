"""TRL's side of every race, and transformers' own `generate`. Runs in the peer's environment (tools/peers).

The trainers as they are, with the flags of the race; rows come in the driver's order. Collating a batch happens
between TRL's turns and is not counted.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import pace
import rewards
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

options = pace.options()
turns = pace.Turns()
folder = Path(options["folder"])
device = options.get("device", "cpu")
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
losses: list[float] = []
generated: list[float] = []
"""Seconds of the turn after which the rollouts were there."""


class Paced(TrainerCallback):
    """A training step a turn."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if not turns.mine():
            sys.exit()
        losses.clear()
        generated.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        learning = {"learn_seconds": turns.elapsed() - generated[-1]} if generated else {}
        turns.done(loss=sum(losses), **learning)


def rows(name: str) -> list[dict[str, Any]]:
    """Of the world, in the order in which they are learnt from."""
    found = pace.read_rows(folder / name)
    return [found[i] for i in options["order"]]


def common(out: str, batch: int) -> dict[str, Any]:
    """Settings that all trainers share, and the flags of this race."""
    half = options.get("precision") == "bf16"
    return {
        "output_dir": out,
        "per_device_train_batch_size": batch,
        "max_steps": options["steps"],
        "learning_rate": options["lr"],
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "bf16": half,
        "use_cpu": device == "cpu",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
        **options["flags"],
    }


def start(trainer: Any) -> None:
    """Train, a step a turn; the loss is the one that is differentiated, not the rounded one of the log."""
    inner = trainer.compute_loss

    def compute_loss(*inputs: Any, **named: Any) -> Any:
        found = inner(*inputs, **named)
        losses.append(float((found[0] if isinstance(found, tuple) else found).detach()))
        return found

    trainer.compute_loss = compute_loss
    trainer.add_callback(Paced())
    pace.say(parameters=sum(p.numel() for p in trainer.model.parameters()))
    trainer.train()
    turns.mine()


def language_model(name: str = "model") -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)


def scalar_model() -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder / "scalar", dtype=torch.float32, num_labels=1)


def dataset(found: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(found)


def dpo(out: str) -> None:
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        **common(out, options["batch"]), train_sampling_strategy="sequential", beta=0.1, max_length=options["length"]
    )
    train = dataset(rows("pairs.jsonl"))
    start(DPOTrainer(model=language_model(), args=config, train_dataset=train, processing_class=tokenizer))


def kto(out: str) -> None:
    from trl import KTOConfig, KTOTrainer

    config = KTOConfig(
        **common(out, options["batch"]), train_sampling_strategy="sequential", beta=0.1, max_length=options["length"]
    )
    train = dataset(rows(options["rows"]))
    start(KTOTrainer(model=language_model(), args=config, train_dataset=train, processing_class=tokenizer))


def sft(out: str) -> None:
    from trl import SFTConfig, SFTTrainer

    limit = {} if options["flags"].get("padding_free") else {"max_length": options["length"]}
    settings = {**common(out, options["batch"]), "max_length": None, **limit}
    config = SFTConfig(**settings, train_sampling_strategy="sequential")
    train = dataset([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows("pairs.jsonl")])
    start(SFTTrainer(model=language_model(), args=config, train_dataset=train, processing_class=tokenizer))


def reward(out: str, found: list[dict[str, Any]] | None = None, pairs_each: int = 1) -> None:
    from trl import RewardConfig, RewardTrainer

    config = RewardConfig(
        **common(out, options["batch"] * pairs_each),
        train_sampling_strategy="sequential",
        max_length=options["length"],
    )
    train = dataset(found or rows("pairs.jsonl"))
    start(RewardTrainer(model=scalar_model(), args=config, train_dataset=train, processing_class=tokenizer))


def kwise(out: str) -> None:
    """A ranking as all its pairs: their mean is the ranking's loss, as every ranking has equally many."""
    found = [
        {"prompt": row["prompt"], "chosen": row["completions"][i], "rejected": row["completions"][j]}
        for row in rows("rankings.jsonl")
        for i in range(4)
        for j in range(i + 1, 4)
    ]
    reward(out, found, 6)


def grpo(out: str, rollouts: Any = None) -> None:
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        **common(out, options["batch"] * options["group"]),
        num_generations=options["group"],
        max_completion_length=options["max_tokens"],
        beta=options["kl"],
        shuffle_dataset=False,
    )
    train = dataset([{"prompt": row["prompt"]} for row in rows("rollouts.jsonl")])
    trainer = GRPOTrainer(
        model=language_model("endless"),
        args=config,
        train_dataset=train,
        reward_funcs=rewards.vowels,
        processing_class=tokenizer,
        **({} if rollouts is None else {"rollout_func": rollouts}),
    )
    inner = trainer._generate

    def generate(*inputs: Any, **named: Any) -> Any:
        found = inner(*inputs, **named)
        if rollouts is not None:
            turns.restart()
        generated.append(turns.elapsed())
        return found

    trainer._generate = generate
    start(trainer)


def grpo_given(out: str) -> None:
    known = {row["prompt"]: row for row in pace.read_rows(folder / "rollouts.jsonl")}

    def rollouts(prompts: list[str], trainer: Any) -> dict[str, Any]:
        which = [i % options["group"] for i in range(len(prompts))]
        return {
            "prompt_ids": [known[prompt]["prompt_ids"] for prompt in prompts],
            "completion_ids": [known[prompt]["answers_ids"][i] for prompt, i in zip(prompts, which, strict=True)],
            "logprobs": None,
        }

    grpo(out, rollouts)


def generate(out: str) -> None:
    """As TRL calls it: the prompts repeated for their samples, padded on the left."""
    model = language_model("talking").to(device).eval()
    pace.say(parameters=sum(p.numel() for p in model.parameters()))
    prompts = pace.read_rows(folder / "rollouts.jsonl")
    torch.manual_seed(0)
    for number in range(options["steps"]):
        if not turns.mine():
            return
        chosen = prompts[number * options["batch"] :][: options["batch"]]
        tokens = [row["prompt_ids"] for row in chosen for _ in range(options["group"])]
        width = max(map(len, tokens))
        padded = torch.tensor([[tokenizer.pad_token_id] * (width - len(x)) + x for x in tokens], device=device)
        real = torch.tensor([[0] * (width - len(x)) + [1] * len(x) for x in tokens], device=device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=options.get("precision") == "bf16"):
            found = model.generate(
                input_ids=padded,
                attention_mask=real,
                do_sample=True,
                top_k=0,
                max_new_tokens=options["max_tokens"],
                disable_compile=True,
                **options["flags"],
            )
        is_end = (found[:, width:] == tokenizer.eos_token_id).long()
        turns.done(new_tokens=float((is_end.cumsum(1) == is_end).sum()))
    turns.mine()


WORKS = {
    "dpo": dpo,
    "kto": kto,
    "sft": sft,
    "reward": reward,
    "kwise": kwise,
    "grpo": grpo,
    "grpo_given": grpo_given,
    "generate": generate,
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as out:
        WORKS[options["work"]](out)
