"""Where the time of a training step goes: shares by operator, and how much work packing leaves of what padding asks.

    CLEW_DATA=... python benchmarks/where.py [--work reward] [--shape small] [--rounds 5]   # or sft, generate

One process, PyTorch's own profiler, the rows of the race of the same work. "Tokens" compares those that a padded batch
computes with those that clew does: what a peer of the same efficiency could lose by padding, and no more.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cost
import paired
import race
import torch
import world
from torch.profiler import ProfilerActivity, profile

from clew.batch import Batch, Objective, token_weights
from clew.data.chat import Codec, Encoding
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, step_indices
from clew.engines.local import LocalEngine
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.rank import all_pairs
from clew.models.load import load_policy, load_scalar
from clew.recipes import reward, sft
from clew.types import Prompt, Sampling

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("flash_attention", "_Spans"),
    "copies and fills": ("aten::copy_", "aten::fill_", "aten::cat"),
    "optimiser": ("fused_adamw", "foreach"),
}


def reward_batches(folder: Path, order: list[int], size: int) -> tuple[Any, Objective, list[Batch]]:
    model = load_scalar(str(folder / "scalar"))
    items = Codec(model.tokenizer, Encoding(max_length=512), print).answers(load_examples(source(folder)))
    batches = [reward.make_batch([items[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]
    return model, reward.rank_objective(all_pairs, 0.0), batches


def sft_batches(folder: Path, order: list[int], size: int) -> tuple[Any, Objective, list[Batch]]:
    policy = load_policy(str(folder / "model"))
    rows = sft.demonstrations(source(folder), Codec(policy.tokenizer, Encoding(max_length=512), print))
    cut = [collate([[rows[i]] for i in order[at : at + size]]) for at in range(0, len(order), size)]
    return policy, sft.objective, [b.with_weights(token=token_weights(b.mask, "token")) for b in cut]


def sampled(folder: Path) -> Callable[[int], Any]:
    """Samples the prompts of the race's n-th turn."""
    options = race.RACES["generate"].options
    engine = LocalEngine(load_policy(str(folder / "talking")))
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    prompts = [Prompt(str(i), row["prompt_ids"], row["prompt"]) for i, row in enumerate(rows)]
    sampling, size = Sampling(options["max_tokens"]), race.RACES["generate"].batch
    return lambda n: engine.generate(prompts[n * size :][:size], n=options["group"], sampling=sampling, key=(0, n))


def source(folder: Path) -> Source:
    return Source(path=str(folder / "pairs.jsonl"), limit=64)


WORKS: Mapping[str, Callable[[Path, list[int], int], tuple[Any, Objective, list[Batch]]]] = {
    "reward": reward_batches,
    "sft": sft_batches,
}


def main() -> None:
    parser = race.parser(__doc__)
    parser.add_argument("--work", choices=[*WORKS, "generate"], default="reward")
    parser.add_argument("--shape", choices=world.SHAPES, default="small")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = {"versions": race.our_versions(), "threads": asked.threads}
    found |= of_sampling(asked) if asked.work == "generate" else of_learning(asked)
    command = f"python benchmarks/where.py --work {asked.work} --shape {asked.shape} --rounds {asked.rounds}"
    paired.write((asked.out or race.RESULTS) / f"profile-{asked.work}-{asked.shape}.json", command, found)
    print({name: value for name, value in found.items() if name != "steps"})


def of_sampling(asked: argparse.Namespace) -> dict[str, Any]:
    sample = sampled(world.make(asked.worlds, asked.shape))
    sample(0)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for number in range(1, asked.rounds + 1):
            sample(number)
    return {"share_of_time": shares(seen)}


def of_learning(asked: argparse.Namespace) -> dict[str, Any]:
    size = race.RACES[asked.work].batch
    num = size * (asked.rounds + 1)
    order = [i for step in range(num // size) for i in step_indices(num, size, seed=0, step=step)]
    model, objective, batches = WORKS[asked.work](world.make(asked.worlds, asked.shape), order, size)
    learner = Learner(model, Optimiser(lr=1e-5, schedule="constant"), total_steps=len(batches))
    learner.step(Part(batches[0], objective))
    steps = [timed(learner, model, batch, objective) for batch in batches[1:]]
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for batch in batches[1:]:
            learner.step(Part(batch, objective))
    return {
        "steps": steps,
        "median_share_of_peak": round(statistics.median(s["share_of_peak"] for s in steps), 3),
        "median_padded_over_packed": round(statistics.median(s["padded_over_packed"] for s in steps), 2),
        "share_of_time": shares(seen),
    }


def timed(learner: Learner, model: Any, batch: Batch, objective: Objective) -> dict[str, float]:
    """One step beside the machine's peak at the same moment."""
    peak = cost.gemm_peak("cpu", torch.float32)
    start = time.perf_counter()
    learner.step(Part(batch, objective))
    seconds = time.perf_counter() - start
    operations = 3 * cost.forward_operations(model, model.trunk, batch)
    return {
        "seconds": round(seconds, 4),
        "peak_gflops": round(peak / 1e9, 1),
        "share_of_peak": round(operations / seconds / peak, 4),
        "padded_over_packed": round(batch.tokens.numel() / cost.sizes(batch)[0], 3),
    }


def shares(seen: Any) -> dict[str, float]:
    """Share of the CPU's own time by kind of operator, then the largest operators of no kind."""
    events = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    total = sum(events.values())
    found: dict[str, float] = {}
    for kind, names in KINDS.items():
        mine = [key for key in events if any(name in key for name in names)]
        found[kind] = sum(events.pop(key) for key in mine) / total
    largest = sorted(events.items(), key=lambda event: -event[1])[:12]
    return {name: round(share, 4) for name, share in {**found, **{k: v / total for k, v in largest}}.items()}


if __name__ == "__main__":
    main()
