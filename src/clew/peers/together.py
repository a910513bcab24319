"""Options of the other tools that mean something together: batch and accumulation, a loss and its options, adapters."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clew.config import ConfigError
from clew.data.dataset_info import NAME, entries_of, path_of
from clew.peers.aliases import AVERAGINGS, METHODS, PAIR_LOSSES


@dataclass
class Plan:
    """A configuration on its way: what it was, what it becomes, and what is to be said."""

    tool: str
    method: str
    folder: Path
    theirs: dict[str, Any]
    """What the file says."""
    all: dict[str, Any]
    """With the tool's defaults."""
    ours: dict[str, Any] = field(default_factory=dict[str, Any])
    """By dotted path."""
    done: set[str] = field(default_factory=set[str])
    notes: dict[str, str] = field(default_factory=dict[str, str])
    """Option -> why it has no counterpart, or what is left to do."""

    def take(self, *names: str) -> list[Any]:
        """The values of options, which are dealt with by that; None for those that are not there."""
        self.done |= set(names)
        return [self.all.get(name) for name in names]


LOADERS = ("json", "csv", "parquet", "text", "arrow")
"""What `datasets.load_dataset` reads files with, by the names it has for them."""


def places(plan: Plan) -> None:
    plan.ours["out"] = "runs/imported"


def batch(plan: Plan) -> None:
    """One number: rows a step. In RL the tools count completions, clew prompts."""
    rows, steps = plan.take("per_device_train_batch_size", "gradient_accumulation_steps")
    total = rows * steps
    if METHODS[plan.method] != "rl":
        plan.ours["batch"] = total
        return
    group = plan.all.get("num_generations", 1)
    per_generation, completions = plan.take("steps_per_generation", "generation_batch_size")
    per_generation = per_generation or (completions // rows if completions else steps)
    updates = max(1, per_generation // steps)
    plan.ours |= {"prompts": max(1, total * updates // group), "minibatches": updates}
    if total * updates % group:
        plan.notes["prompts"] = f"{total * updates} completions are no multiple of num_generations {group}"


def length_of_run(plan: Plan) -> None:
    """Steps and epochs: where a recipe counts only one of them, the other needs the number of rows."""
    steps, epochs = plan.take("max_steps", "num_train_epochs")
    steps = steps if steps and steps > 0 else None
    kind = METHODS[plan.method]
    if kind == "sft":
        plan.ours |= {"steps": steps} if steps else {"epochs": float(epochs)}
    elif kind == "rl":
        updates = _updates(plan)
        (every,) = plan.take("save_steps")
        plan.ours["save_every"] = max(1, every // updates)
        if steps:
            plan.ours["steps"] = math.ceil(steps / updates)
        if steps and updates > 1:
            plan.notes["max_steps"] = (
                f"{steps / updates:g} batches of rollouts, each with the {updates} updates that TRL counts"
            )
        if not steps:
            plan.notes["num_train_epochs"] = f"set steps: {epochs:g} times the prompts of the data, divided by prompts"
    else:
        plan.ours["epochs"] = float(epochs)
        if steps:
            plan.notes["max_steps"] = f"set epochs: {steps} times batch, divided by the rows of the data"


def _updates(plan: Plan) -> int:
    """Optimiser steps that learn from one batch of rollouts; TRL counts those, LLaMA-Factory and clew the batches."""
    return plan.ours["minibatches"] * plan.all.get("num_iterations", 1)


def optimiser(plan: Plan) -> None:
    plan.ours["learner.betas"] = [float(b) for b in plan.take("adam_beta1", "adam_beta2")]
    (warmup,) = plan.take("warmup_steps")
    if warmup and warmup < 1:
        plan.ours["learner.warmup"] = float(warmup)
    elif warmup and plan.all.get("max_steps", -1) > 0:
        plan.ours["learner.warmup"] = warmup / plan.all["max_steps"]
    elif warmup:
        plan.notes["warmup_steps"] = f"set learner.warmup: {warmup} divided by the steps of the run"


def precision(plan: Plan) -> None:
    bf16, pure, dtype = plan.take("bf16", "pure_bf16", "dtype")
    is_half = plan.theirs.get("fp16") and "bf16" not in plan.theirs
    if (bf16 and not is_half) or pure:
        plan.ours["precision"] = "bf16"
    if pure or dtype in ("bfloat16", "float16"):
        plan.notes["dtype"] = "trained weights are float32 here; lora.weights: bf16 is for frozen ones"


def adapters(plan: Plan) -> None:
    wanted, kind = plan.take("use_peft", "finetuning_type")
    bits, four, eight, targets, named = plan.take(
        "quantization_bit", "load_in_4bit", "load_in_8bit", "lora_target_modules", "lora_target"
    )
    if kind not in (None, "lora", "full"):
        plan.notes["finetuning_type"] = f"there is no {kind}; this trains all weights"
    if not wanted and kind != "lora":
        plan.take("lora_r", "lora_rank", "lora_alpha", "lora_dropout")
        return
    rank = plan.all.get("lora_rank") or plan.all.get("lora_r") or (16 if plan.tool == "trl" else 8)
    plan.ours |= {
        "lora.rank": rank,
        "lora.alpha": plan.all.get("lora_alpha") or (32 if plan.tool == "trl" else 2 * rank),
    }
    targets = targets or named
    if not targets and plan.tool == "trl":
        plan.notes["lora_target_modules"] = (
            "peft chooses some layers by the kind of model (often q_proj and v_proj); name them in lora.targets, which "
            "are all linear ones otherwise"
        )
    if targets and targets not in ("all", "all-linear", ["all-linear"]):
        plan.ours["lora.targets"] = [t.strip() for t in targets.split(",")] if isinstance(targets, str) else targets
    if four or bits == 4:
        plan.ours |= {"lora.weights": "nf4", "precision": "bf16"}
    elif eight or bits:
        plan.notes["load_in_8bit"] = "frozen weights are held in fp32, bf16 or nf4 (four bits)"


def data(plan: Plan) -> None:
    name, split, tests, sources = plan.take("dataset_name", "dataset_train_split", "dataset_test_split", "datasets")
    named, folder = plan.take("dataset", "dataset_dir")
    several = [n.strip() for n in named.split(",")] if isinstance(named, str) else list(named or [])
    several = [_file(plan, n, folder or "data") for n in several]
    files, tests_file = _files(plan, name) if name in LOADERS else ([], None)
    name = None if name in LOADERS else name
    several += [*files, *([f"{name}:{split}" if split and split != "train" else name] if name else [])]
    several += [source["data_files"] if source.get("data_files") else source["path"] for source in sources or []]
    if not several:
        plan.notes["data"] = "to be filled in, the file names none: data.path, and heldout.path if there is one"
    elif len(several) > 1:
        plan.notes["dataset"] = (
            f"one path only; put the files into a folder and name that: {', '.join(map(str, several))}"
        )
    plan.ours["data.path"] = several[0] if several else "data.jsonl"
    _held_out(plan, named=f"{name}:{tests or 'test'}" if name else tests_file)


def _files(plan: Plan, kind: str) -> tuple[list[str], str | None]:
    """Files to train on and the one to test on, where `dataset_name` is a kind of file and `data_files` names them."""
    (named,) = plan.take("data_files")
    by_split = named if isinstance(named, dict) else {"train": named}
    train, test = (
        [files] if isinstance(files, str) else list(files or [])
        for files in (by_split.get("train"), by_split.get("test") or by_split.get("validation"))
    )
    plan.notes |= {} if train else {"dataset_name": f"{kind} is a kind of file, and no data_files name one"}
    return train, test[0] if test else None


def _held_out(plan: Plan, named: str | None) -> None:
    """A share of the data, a dataset of its own, or the split that is `named` for it."""
    (share,) = plan.take("test_split_size") if plan.tool == "trl" else plan.take("val_size")
    evaluated, strategy, best = plan.take("eval_dataset", "eval_strategy", "load_best_model_at_end")
    if share and share >= 1:
        plan.notes["test_split_size" if plan.tool == "trl" else "val_size"] = (
            f"set data.part: train, data.heldout: {share:g} divided by the rows of the data, and heldout the same with "
            "part: heldout"
        )
    elif share:
        held = {"heldout.path": plan.ours["data.path"], "heldout.part": "heldout", "heldout.heldout": share}
        plan.ours |= {"data.part": "train", "data.heldout": share, **held}
    elif evaluated:
        folder = plan.all.get("dataset_dir", "data")
        plan.ours["heldout.path"] = _file(plan, str(evaluated).split(",")[0].strip(), folder)
    elif named and strategy in ("steps", "epoch"):
        plan.ours["heldout.path"] = named
    plan.ours |= {"result": "best"} if best and "heldout.path" in plan.ours else {}


def _file(plan: Plan, name: str, folder: str) -> str:
    """LLaMA-Factory's name of a dataset as a path or hub name, by dataset_info.json where it is there."""
    place = next((p for p in (plan.folder / folder, Path(folder)) if (p / NAME).exists()), None)
    entry = entries_of(place).get(name) if place else None
    if place and entry and (path := path_of(entry, place)):
        said = [k for k in ("columns", "formatting", "tags", "subset") if k in entry and entry.get("hf_hub_url")]
        if said:
            plan.notes["dataset"] = f"{NAME} is not read for hub names ({', '.join(said)}); data.columns names columns"
        return path
    lacks = "was not found" if place is None else "has no file or hub name for it"
    plan.notes["dataset"] = f"{folder}/{NAME} {lacks}, so the file of {name!r} is a guess"
    return f"{folder}/{name}.json"


def truncation(plan: Plan) -> None:
    (mode,) = plan.take("truncation_mode")
    if METHODS[plan.method] != "rl":
        how = "drop" if (plan.tool, plan.method) == ("trl", "reward") else "truncate_completion"
        plan.ours["encoding.truncation"] = "truncate_prompt_left" if mode == "keep_end" else how
    if plan.tool == "llamafactory" and METHODS[plan.method] != "rl":
        plan.notes["cutoff_len"] = "LLaMA-Factory cuts prompt and answer in proportion; here the answer's end is cut"
    if METHODS[plan.method] == "rl":
        longest = plan.all.get("cutoff_len") or 512 + (plan.all.get("max_completion_length") or 0)
        plan.ours |= {"encoding.max_length": longest, "encoding.truncation": "truncate_prompt_left"}
        plan.take("cutoff_len", "max_prompt_length")


def pair_loss(plan: Plan) -> None:
    if METHODS[plan.method] != "preference":
        return
    kinds = plan.take("loss_type", "pref_loss")
    kind = next((k for k in kinds if k), "kto" if plan.method == "kto" else "sigmoid")
    if isinstance(kind, list):
        if len(kind) > 1:
            plan.notes["loss_type"] = f"one loss only; left out: {', '.join(kind[1:])}"
        kind = kind[0]
    if kind not in PAIR_LOSSES:
        raise ConfigError(f"the loss {kind!r} has no counterpart (there are: {', '.join(PAIR_LOSSES)})")
    name, options = PAIR_LOSSES[kind]
    beta, pref_beta, gamma = plan.take("beta", "pref_beta", "simpo_gamma")
    chosen, rejected = plan.take("kto_chosen_weight", "kto_rejected_weight")
    given = {
        "beta": pref_beta or beta or 0.1, "simpo_gamma": 0.5 if gamma is None else gamma, "desirable_weight": chosen,
        "undesirable_weight": rejected, **{k: v for k, v in plan.theirs.items() if k in options and k != "beta"},
    }  # fmt: skip
    plan.done |= set(options)
    plan.ours["loss"] = {"name": name, **{ours: given[k] for k, ours in options.items() if given.get(k) is not None}}
    smoothing, dpo_smoothing = plan.take("label_smoothing", "dpo_label_smoothing")
    if name == "dpo" and dpo_smoothing:
        plan.ours["loss"]["label_smoothing"] = dpo_smoothing
    elif name == "dpo" and smoothing:
        plan.notes["label_smoothing"] = "TRL's sigmoid loss does not use it; loss.label_smoothing would be cDPO"


def objective(plan: Plan) -> None:
    """Advantages, clip, averaging and KL."""
    if METHODS[plan.method] != "rl":
        return
    low, high, beta, delta = plan.take("epsilon", "epsilon_high", "beta", "delta")
    clipped = {"name": "clipped", "low": low or 0.2, "high": high or low or 0.2} | ({"dual": delta} if delta else {})
    if plan.method == "grpo":
        averaging, scale = plan.take("loss_type", "scale_rewards")
        if averaging not in AVERAGINGS:
            raise ConfigError(f"loss_type {averaging!r} has no counterpart (there are: {', '.join(AVERAGINGS)})")
        plan.ours |= {"loss": clipped, "averaging": AVERAGINGS[averaging]}
        plan.ours["advantages"] = "group_normalised" if scale in (True, "group") else "group_mean"
        if scale == "batch":
            plan.notes["scale_rewards"] = "rewards are scaled by their group or not at all; this does not scale them"
        plan.ours |= {"kl.coefficient": beta, "kl.place": "loss", "kl.loss": "forward"}
    elif plan.method == "rloo":
        is_on_policy = _updates(plan) == 1
        plan.ours |= {"advantages": "leave_one_out", "loss": "reinforce" if is_on_policy else clipped}
        plan.ours |= {"averaging": "fixed", "kl.coefficient": beta, "kl.place": "reward"}
        norm, eps = plan.take("max_grad_norm", "adam_epsilon")
        longest = plan.all["max_completion_length"]
        plan.ours |= {"learner.clip": norm / longest, "learner.eps": eps / longest}
        plan.notes["averaging"] = (
            "TRL sums over a sequence; fixed divides that by max_tokens, and so are learner.clip and learner.eps"
        )
        if not is_on_policy:
            plan.notes["epsilon"] = "TRL clips the ratio of a whole sequence, clipped that of each token"
    else:
        (target,) = plan.take("ppo_target")
        plan.ours |= {"advantages": "gae", "loss": clipped, "whiten_advantages": True, "epochs": 4}
        plan.ours |= {"kl.coefficient": 0.2, "kl.place": "reward", "kl.target": target or 6.0}


def rewards(plan: Plan) -> None:
    if METHODS[plan.method] != "rl":
        return
    model, lora_model, functions, weights = plan.take(
        "reward_model_name_or_path", "reward_model", "reward_funcs", "reward_weights"
    )
    sources: list[dict[str, Any]] = [{"model": m} for m in (model, lora_model) if m]
    for name in [functions] if isinstance(functions, str) else functions or []:
        module, _, function = name.rpartition(".")
        if not module:
            plan.notes[name] = "a reward that TRL brings; write it in my_rewards.py"
        sources.append({"function": f"{module or 'my_rewards'}:{function}"})
    if not sources:
        plan.notes["reward"] = "the file names none; write it in my_rewards.py"
        sources = [{"function": "my_rewards:reward"}]
    for source, weight in zip(sources, weights or [], strict=False):
        source["weight"] = weight
    plan.ours["reward"] = sources
    if plan.method == "ppo":
        plan.ours["critic.model"] = sources[0].get("model") or plan.all.get("model_name_or_path")


def trackers(plan: Plan) -> None:
    (asked,) = plan.take("report_to")
    known = ("tensorboard", "wandb", "trackio")
    names = [asked] if isinstance(asked, str) else list(asked or [])
    plan.ours |= {"trackers": [n for n in names if n in known]} if any(n in known for n in names) else {}
    others = [n for n in names if n not in (*known, "none")]
    if others:
        plan.notes["report_to"] = f"{', '.join(others)}: there are {', '.join(known)}"


TOGETHER: tuple[Callable[[Plan], None], ...] = (
    places, data, batch, length_of_run, optimiser, precision, adapters, truncation, pair_loss, objective,
    rewards, trackers,
)  # fmt: skip
