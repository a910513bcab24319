"""clew against its peers: works, shapes, sides. `python benchmarks/dpo.py` and its like run one of them.

    CLEW_DATA=... python benchmarks/dpo.py [--shape small] [--rounds 5] [--peers runs/peers] [--out FOLDER] [--gpu]

Every side has a process and an environment of its own, the same weights, rows and order, no dropout, float32, two
threads, and takes its steps in turns with the others after one to warm up. Compared are the medians of the seconds
(pair by pair as well), the peak memory of the processes, libraries included, and the losses step by step. TRL is
installed into the folder of peers where it is not there yet.

--gpu: on CUDA, bfloat16 under autocast, the model "half" of 0.47 billion parameters, rows of about 1024 tokens, 16
threads; memory is what each process allocates on the device. TRL takes part where its environment is in the folder or
can be made, else clew runs alone. No result of a GPU is stored yet, and this way has not been run on one.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import paired
import world

from clew.data.sources import step_indices

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLAIN: dict[str, Any] = {"gradient_checkpointing": False}


@dataclass(frozen=True)
class Race:
    """A work, and the sides that do it: clew's with options, and peers' with flags of theirs."""

    batch: int
    rows: str = "pairs.jsonl"
    peers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    clew: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"clew": {}})
    same_losses: bool = True
    """False where each side learns from what it sampled itself."""
    needs_trl: bool = True
    """False where transformers alone is the peer, which is in our own environment as well."""


ROLLOUTS = {"group": 8, "max_tokens": 64, "kl": 0.04}
RACES = {
    "dpo": Race(8, peers={"TRL": {}, "TRL best": {**PLAIN, "precompute_ref_log_probs": True}}),
    "kto": Race(8, "thumbs.jsonl", peers={"TRL": {}, "TRL best": PLAIN}),
    "sft": Race(8, peers={"TRL": {}, "TRL best": PLAIN, "TRL padding-free": {**PLAIN, "padding_free": True}}),
    "reward": Race(8, peers={"TRL": {}, "TRL best": PLAIN}),
    "kwise": Race(4, "rankings.jsonl", peers={"TRL": {}, "TRL best": PLAIN}),
    "generate": Race(
        8,
        "rollouts.jsonl",
        peers={"generate": {}, "static cache": {"cache_implementation": "static"}},
        options={"group": 8, "max_tokens": 128},
        clew={"clew": {}, "clew bf16": {"engine": {"linears": "bf16"}}},
        needs_trl=False,
    ),
    "grpo": Race(
        8,
        "rollouts.jsonl",
        peers={"TRL": {}, "TRL best": {**PLAIN, "cache_implementation": "static"}},
        options=ROLLOUTS,
        same_losses=False,
    ),
    "grpo_given": Race(8, "rollouts.jsonl", peers={"TRL": {}, "TRL best": PLAIN}, options=ROLLOUTS),
    "ppo": Race(8, "rollouts.jsonl", options=ROLLOUTS),
}
"""The flags in "TRL best" are those that were found to help on this work (docs/performance.md)."""


def run(work: str, shape: str, asked: argparse.Namespace, *, gpu: bool = False) -> dict[str, Any]:
    """The results of one race: versions, each side's numbers, and the comparison."""
    rounds, threads = asked.rounds, 16 if gpu else asked.threads
    entry = RACES[work]
    options = options_of(work, world.make(asked.worlds, shape), shape, rounds=rounds, gpu=gpu)
    sides = [(name, sys.executable, "with_clew.py", {**options, **more}, threads) for name, more in entry.clew.items()]
    versions = our_versions()
    python = peer_python(entry, asked.peers, required=not gpu)
    if python is not None:
        if entry.needs_trl:
            versions["trl"] = version_in(python, "trl")
        sides += [
            (name, python, "with_trl.py", {**options, "flags": dict(flags)}, threads)
            for name, flags in entry.peers.items()
        ]
    found = paired.race([start(*side) for side in sides], rounds=rounds)
    for side in found.values():
        side |= shares(side)
    compared = paired.compared(found)
    if not entry.same_losses:
        for numbers in compared.values():
            numbers.pop("largest_loss_difference", None)
    settings = {"threads": threads} | {name: v for name, v in options.items() if name not in ("folder", "order")}
    return {"versions": versions, "options": settings, "rounds": rounds, "sides": found, "compared": compared}


def options_of(work: str, folder: Path, shape: str, *, rounds: int, gpu: bool) -> dict[str, Any]:
    """What every side is told; rows in the order in which clew's recipes take them."""
    entry, steps = RACES[work], rounds + 1
    num = entry.batch * steps
    have = len((folder / entry.rows).read_text().splitlines())
    if num > have:
        raise SystemExit(
            f"{rounds} rounds and a warm-up need {num} rows; {folder / entry.rows} has {have}: fewer --rounds"
        )
    order = [i for step in range(steps) for i in step_indices(num, entry.batch, seed=0, step=step)]
    return {
        "work": work,
        "folder": str(folder.absolute()),
        "rows": entry.rows,
        "batch": entry.batch,
        "steps": steps,
        "order": order,
        "lr": 1e-5,
        "length": world.SHAPES[shape]["length"],
        **entry.options,
        **({"device": "cuda", "precision": "bf16"} if gpu else {}),
    }


def start(name: str, python: Path | str, script: str, options: Mapping[str, Any], threads: int) -> paired.Side:
    print(f"{name} starts", file=sys.stderr)
    return paired.Side(name, python, script, options, threads=threads)


def shares(side: Mapping[str, Any]) -> dict[str, Any]:
    """Of our side: operations a second as a share of the machine's peak in the same turn, and tokens a second."""
    if "operations" not in side:
        return {}
    per_second = [o / s for o, s in zip(side["operations"], side["seconds"], strict=True)]
    found = [rate / peak for rate, peak in zip(per_second, side["peak_operations"], strict=True)]
    rates = [t / s for t, s in zip(side["tokens"], side["seconds"], strict=True)]
    return {
        "share_of_peak": [round(x, 4) for x in found],
        "median_share_of_peak": round(statistics.median(found), 4),
        "tokens_per_second": [round(x, 1) for x in rates],
    }


def peer_python(entry: Race, folder: Path, *, required: bool) -> str | None:
    """Where the peers of a race run: in TRL's environment in the folder, made if it is not there.

    None without peers, and where it cannot be made and need not be.
    """
    if not entry.peers:
        return None
    if not entry.needs_trl:
        return sys.executable
    command = [sys.executable, "-m", "tools.peers.environment", "trl", str(folder.absolute())]
    made = subprocess.run(command, cwd=ROOT, check=required, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip() if made.returncode == 0 else None


def our_versions() -> dict[str, str]:
    return {name: version(name) for name in ("clew", "torch", "transformers")}


def version_in(python: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that all scripts of races share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--threads", type=int, default=2, help="Of each side.")
    made.add_argument("--peers", type=Path, default=Path("runs/peers"), help="Folder of TRL's environment.")
    made.add_argument("--worlds", type=Path, default=Path("runs/worlds"), help="Folder of models and rows.")
    made.add_argument("--out", type=Path, help="Folder of results; benchmarks/results when absent.")
    return made


def main(description: str | None, works: Sequence[str]) -> None:
    """The races of a script, one file of results each."""
    options = parser(description)
    options.add_argument("--shape", choices=world.SHAPES)
    options.add_argument("--gpu", action="store_true", help="On CUDA, bfloat16, shape half.")
    asked = options.parse_args()
    shape = asked.shape or ("half" if asked.gpu else "small")
    for work in works:
        found = run(work, shape, asked, gpu=asked.gpu)
        name = f"{work}-{shape}" + ("-gpu" if asked.gpu else "")
        flags = f" --shape {shape} --rounds {asked.rounds}" + (" --gpu" if asked.gpu else "")
        flags += "" if asked.threads == 2 else f" --threads {asked.threads}"
        paired.write(
            (asked.out or RESULTS) / f"{name}.json", f"python benchmarks/{Path(sys.argv[0]).name}{flags}", found
        )
        print(f"{name}: {found['compared']}")
