"""Why do methods stay below best-of-n at the same KL? What more answers, a held KL, and imitation of best-of-8 reach.

    CLEW_DATA=... OMP_NUM_THREADS=1 python benchmarks/reach.py [--folder runs/frontier]

The model, prompts and gold of frontier.py, four times its answers. `ppo` is PPO with 256 answers a step, a third of
frontier.py's rate, and five times its KL coefficient. `imitated` is SFT on the best of eight answers to each of 1,024
prompts, that is, on samples of the very law that best-of-8 is. One seed.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import frontier
import paired
import race

RESULT = frontier.RESULTS.parent / "reach.json"
STEPS, ROLLOUTS = 32, 256


def ppo(place: frontier.Place) -> Path:
    critic = {"model": place.sft, "learner": {"lr": 1e-3, **frontier.CONSTANT}}
    learner = {"lr": 1e-4, "warmup": 0.1, **frontier.CONSTANT}
    return place.trained(
        "rl", data=place.rows("prompts"), reward=[{"function": frontier.GOLD}], learner=learner, critic=critic,
        whiten_advantages=True, kl={"coefficient": 0.25}, prompts=ROLLOUTS // 4, group=4, steps=STEPS,
        save_every=STEPS // 8, keep=None,
    )  # fmt: skip


def imitated(place: frontier.Place) -> Path:
    learner = {"lr": 3e-4, "warmup": 0.1, "max_tokens": 4096}
    return place.trained(
        "reject", data=place.rows("prompts"), reward=[{"function": frontier.GOLD}], rounds=1, answers=8, minibatches=16,
        epochs=3, learner=learner, save_every=12, keep=None,
    )  # fmt: skip


RUNS: dict[str, Callable[[frontier.Place], Path]] = {"imitated": imitated, "ppo": ppo}


def measured(folder: Path, name: str, seed: int) -> list[dict[str, Any]]:
    """√KL and gold of a run's checkpoints, and how far best-of-n is above, in standard deviations of an answer's gold.

    None where best-of-n was not sampled so far.
    """
    import torch

    torch.set_num_threads(1)
    yardstick = json.loads((frontier.RESULTS / "best-of-n.json").read_text())
    best = [p["kl"] ** 0.5 for p in yardstick["points"]], [p["gold"] for p in yardstick["points"]]
    place = frontier.Place(folder, seed, f"reach-{name}")
    run = RUNS[name](place)
    found = place.run(
        f"{place.method}-{seed}-measured", "evaluate", baseline=place.sft, policies={name: str(run)},
        data=place.rows("heldout"), gold=frontier.GOLD,
    )  # fmt: skip
    points = json.loads((found / "evaluation.json").read_text())["points"]
    told = list[dict[str, Any]]()
    for p in (p for p in points if p["policy"] == name and not p["final"]):
        root, gold = max(p["kl"]["value"], 0.0) ** 0.5, p["gold"]["value"]
        top = frontier.reached(*best, root)
        above = None if top is None else (top - gold) / yardstick["spread"]
        told.append({"step": p["step"], "root_kl": root, "gold": gold, "best_of_n_above": above})
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/frontier"))
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = asked.folder.absolute()
    frontier.prepare(folder)
    runs = {name: measured(folder, name, asked.seed) for name in RUNS}
    for name, points in runs.items():
        print(name, points[-1])
    paired.write(RESULT, "python benchmarks/reach.py", {"versions": race.our_versions(), "runs": runs})


if __name__ == "__main__":
    main()
