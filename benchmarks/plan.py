"""What `clew plan` predicts, beside what the same runs take: the most memory of the process, and seconds a step.

    CLEW_DATA=... OMP_NUM_THREADS=2 python benchmarks/plan.py [--shapes small wide] [--folder runs/plan]

Some minutes. Every run is `clew RECIPE FILE` in a process of its own, four steps (eight of ilql, which learns from both
answers); its memory is the most that the kernel saw resident (max RSS). The prediction is `clew plan FILE --recipe
RECIPE --json`, made before. --recipes also takes ilql and distill.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import paired
import world

STEPS, BATCH = 4, 8
REWARD = "def reward(prompts, completions, **columns):\n    return [-abs(len(c) - 100) / 100 for c in completions]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["small", "wide"])
    parser.add_argument("--recipes", nargs="+", default=["sft", "preference", "reward", "rl"])
    parser.add_argument("--folder", type=Path, default=Path("runs/plan"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/plan.json"))
    options = parser.parse_args()
    runs = [compare(options.folder, shape, recipe) for shape in options.shapes for recipe in options.recipes]
    versions = {name: version(name) for name in ("clew", "torch", "transformers")}
    furthest = max(abs(run["memory_ratio"] - 1) for run in runs)
    about = {"versions": versions, "threads": os.environ.get("OMP_NUM_THREADS"), "furthest": round(furthest, 3)}
    command = f"python benchmarks/plan.py --shapes {' '.join(options.shapes)} --recipes {' '.join(options.recipes)}"
    paired.write(options.out, f"OMP_NUM_THREADS=2 {command}", {**about, "runs": runs})


def compare(folder: Path, shape: str, recipe: str) -> dict[str, Any]:
    """Predicted and measured, and their ratio: above 1, more was measured."""
    made = world.make(folder / "worlds", shape)
    file = write_config(folder, made, shape, recipe)
    plan, run = [sys.executable, "-m", "clew", "plan", str(file), "--recipe", recipe, "--json"], [recipe, str(file)]
    predicted = json.loads(subprocess.run(plan, check=False, capture_output=True, text=True).stdout)["stages"][0]
    shutil.rmtree(file.with_suffix(""), ignore_errors=True)
    peak, step = measured([sys.executable, "-m", "clew", *run], file.with_suffix(""))
    found = {
        "shape": shape,
        "recipe": recipe,
        "commands": [f"clew plan {file.name} --recipe {recipe}", f"clew {recipe} {file.name}"],
        "predicted_mb": round(predicted["peak"] / 1e6),
        "predicted_parts_mb": {name: round(size / 1e6) for name, size in predicted["parts"].items()},
        "measured_mb": round(peak / 1e6),
        "memory_ratio": round(peak / predicted["peak"], 3),
        "predicted_step_s": round(sum(predicted["seconds"].values()) - predicted["seconds"].get("once", 0), 3),
        "measured_step_s": round(step, 3),
    }
    print(json.dumps(found), file=sys.stderr)
    return found


def write_config(folder: Path, made: Path, shape: str, recipe: str) -> Path:
    config: dict[str, Any] = {"out": str(folder / f"{shape}-{recipe}"), "model": str(made / "model"), "seed": 0}
    config["data"] = {"path": str(made / "pairs.jsonl"), "limit": STEPS * BATCH}
    if recipe in ("rl", "ilql"):
        (folder / "rewards.py").write_text(REWARD)
        config |= {"reward": [{"function": f"{folder / 'rewards.py'}:reward"}]}
    if recipe == "rl":
        config |= {"prompts": 8, "group": 4, "max_tokens": 48, "steps": STEPS, "advantages": "group_normalised"}
        config |= {"kl": {"place": "loss", "loss": "forward"}}
    else:
        config |= {"batch": BATCH} | ({"context": "Once upon a time. "} if recipe == "distill" else {})
    file = folder / f"{shape}-{recipe}.yaml"
    file.write_text(json.dumps(config))
    return file


def measured(command: list[str], run: Path) -> tuple[int, float]:
    """Bytes that the process had resident at its most, and the median seconds between two steps."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    steps: list[float] = []
    metrics = run / "metrics.jsonl"
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        if metrics.exists() and len(metrics.read_text().splitlines()) > len(steps):
            steps.append(time.perf_counter())
        time.sleep(0.02)
    _, status, used = ended
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}; its error stands above")
    gaps = [after - before for before, after in pairwise(steps)]
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024), statistics.median(gaps)


if __name__ == "__main__":
    main()
