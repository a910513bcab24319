"""CGPO beside weighted sums of rewards and penalties: two readers with opposite tastes, three constraints on endings.

    CLEW_DATA=... OMP_NUM_THREADS=1 python benchmarks/cgpo.py [--seeds 5] [--folder runs/cgpo]

One SFT model of stories260k is taught two things at once: a reader who likes happy endings with speech, and one who
likes restrained ones with many different words. An ending violates when it has more than 26 words, says "happy", or
is not about several people ("they"). CGPO has a task for each reader, all judges in both. Its rivals are RLOO on
a * happy + (1 - a) * restrained - penalty * violated, for weights fixed in SUMS. All sample the same number of answers
to the same prompts with the same optimiser, and are measured on the same held-out prompts. A cell is a method and a
seed; those in benchmarks/results/cgpo/ are not run again. Task and settings are the third that were tried, on seed 100,
which is not reported: under constraints that 94 % of the SFT model's answers violate, CRPG learnt to end at once. The
sums have the same rate and steps; their KL coefficient and penalties were not tuned.
"""

import argparse
import json
import os
import re
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import paired
from scipy.stats import t as student

from clew.config import build
from clew.data.stories import GRIEF, JOY, SPEECH, happy_ending
from clew.judges.constraints import forbidden, length, required
from clew.pipeline import recipe

RESULTS = Path(__file__).parent / "results"
MOST, WORD, NAMED = 26, "happy", "they"
"""Words that an ending may have, one that it may not, and whom it must be about."""
SUMS = {"even, penalty 0.5": (0.5, 0.5), "even, penalty 1": (0.5, 1.0), "even, penalty 2": (0.5, 2.0),
        "even, penalty 4": (0.5, 4.0), "even, penalty 8": (0.5, 8.0), "happy, penalty 2": (0.8, 2.0),
        "restrained, penalty 2": (0.2, 2.0)}  # fmt: skip
EVEN = [method for method, (share, _) in SUMS.items() if share == 0.5]
KL_MAX = 40.0
OPTIMISERS = {"CRPG": {"name": "crpg", "kl_max": KL_MAX}, "CRRAFT": {"name": "crraft", "kl_max": KL_MAX},
              "CODPO": {"name": "codpo", "beta": 0.1, "lam": 0.1}}  # fmt: skip
STEPS, ANSWERS, MAX_TOKENS = 32, 4, 90
SHARED: dict[str, Any] = {"encoding": {"max_length": 384}, "max_tokens": MAX_TOKENS, "steps": STEPS, "device": "cpu",
                          "save_every": STEPS, "learner": {"lr": 3e-4, "schedule": "constant"}}  # fmt: skip
HERE = f"{__file__}:"


def restrained(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Many different words, no speech, no joy and no grief."""
    return [_restraint(completion) for completion in completions]


def _restraint(ending: str) -> float:
    words = re.findall(r"[a-z']+", ending.lower())
    felt = sum(word in JOY or word in GRIEF for word in words)
    return min(len(set(words)) / 20, 2.0) - 0.5 * bool(SPEECH.search(ending)) - 0.25 * felt


def violated(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """1 where one of the three judges does not pass."""
    said = (
        length([], completions, most=MOST),
        forbidden([], completions, words=[WORD]),
        required([], completions, text=NAMED),
    )
    return [float(not all(of)) for of in zip(*said, strict=True)]


class Lab:
    """Runs in a folder: one SFT model for all cells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, name: str, kind: str, **options: Any) -> Path:
        start, config = recipe(kind)
        start(build(config, {"out": str(self.folder / name), **options}, name))
        return self.folder / name

    def prepare(self) -> None:
        text = {"path": f"{_data()}/text/tinystories_4mb.txt"}
        stories = {"name": "clew.data.stories:endings", "after": 170, **text}
        places = {"endings": (0, 700), "prompts": (1800, 700), "heldout": (3850, 150)}
        files = {name: {**stories, "start": start, "num": num} for name, (start, num) in places.items()}
        self.run("data", "prepare", files=files)
        self.run("sft", "sft", model=f"{_data()}/stories260k/hf", data=self.rows("endings"), epochs=4, device="cpu",
                 encoding={"max_length": 384}, learner={"lr": 2e-3, "warmup": 0.05})  # fmt: skip

    def rows(self, name: str) -> dict[str, str]:
        return {"path": str(self.folder / "data" / f"{name}.jsonl")}

    @property
    def start(self) -> str:
        return str(self.folder / "sft" / "model")

    def cgpo(self, optimiser: dict[str, Any], seed: int) -> Path:
        rules = [{"name": "length", "most": MOST}, {"name": "forbidden", "words": [WORD]},
                 {"name": "required", "text": NAMED}]  # fmt: skip
        task = {"data": self.rows("prompts"), "judges": rules, "optimiser": optimiser, "baseline": "data",
                "prompts": 8, "answers": ANSWERS}  # fmt: skip
        rewards = {"happy": "clew.data.stories:happy_ending", "restrained": HERE + "restrained"}
        tasks = {name: {**task, "reward": reward} for name, reward in rewards.items()}
        return self.run(f"{optimiser['name']}-{seed}", "cgpo", model=self.start, tasks=tasks, seed=seed, **SHARED)

    def weighted(self, share: float, penalty: float, seed: int) -> Path:
        reward = [{"function": "clew.data.stories:happy_ending", "weight": share},
                  {"function": HERE + "restrained", "weight": 1 - share},
                  {"function": HERE + "violated", "weight": -penalty}]  # fmt: skip
        return self.run(f"sum-{share}-{penalty}-{seed}", "rl", model=self.start, data=self.rows("prompts"), prompts=16,
                        group=ANSWERS, advantages="leave_one_out", loss="reinforce", reward=reward, seed=seed,
                        kl={"coefficient": 0.02}, **SHARED)  # fmt: skip


def measured(model: str, start: str, heldout: dict[str, str]) -> dict[str, float]:
    """Means over four answers to each held-out prompt, and the KL from where all began."""
    from clew.data.chat import Codec, Encoding
    from clew.data.sources import Source, load_examples
    from clew.engines.local import LocalEngine
    from clew.models.load import load_policy
    from clew.models.remembered import row_logps
    from clew.types import Sampling

    policy = load_policy(model, device="cpu")
    prompts = Codec(policy.tokenizer, Encoding(max_length=384)).prompts(
        load_examples(Source(path=heldout["path"])), MAX_TOKENS
    )
    found = LocalEngine(policy).generate(prompts, n=4, sampling=Sampling(MAX_TOKENS), key=(7, 0))
    refs = row_logps(load_policy(start, device="cpu"), [[r] for r in found], max_tokens=4096)
    texts = [r.text for r in found]
    return {
        "happy": float(np.mean(happy_ending([], texts))),
        "restrained": float(np.mean(restrained([], texts))),
        "violations": float(np.mean(violated([], texts))),
        "kl": float(np.mean([sum(r.logps) - float(ref) for r, ref in zip(found, refs, strict=True)])),
        "answers": len(found),
    }


def cell(lab: Lab, method: str, seed: int) -> dict[str, Any]:
    file = RESULTS / "cgpo" / f"{re.sub('[^a-z0-9.]+', '-', method.lower())}-{seed}.json"
    if file.exists():
        return json.loads(file.read_text())
    began = _cpu_seconds()
    if method == "SFT":
        folder = Path(lab.start).parent
    elif method in OPTIMISERS:
        folder = lab.cgpo(OPTIMISERS[method], seed)
    else:
        folder = lab.weighted(*SUMS[method], seed)
    spent = _cpu_seconds() - began
    found = {"method": method, "seed": seed, "cpu_seconds": round(spent, 1),
             **measured(str(folder / "model"), lab.start, lab.rows("heldout"))}  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(found, file=sys.stderr)
    return found


def summary(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means with intervals; which sums dominate CGPO; and CGPO's reward above that of sums at its violation rate: on
    the line through the even ones, and of the best (in hindsight) of those that violate no more often."""
    methods = list(dict.fromkeys(c["method"] for c in cells))
    of = {m: {n: np.array([c[n] for c in cells if c["method"] == m]) for n in MEASURED} for m in methods}
    for columns in of.values():
        columns["both"] = (columns["happy"] + columns["restrained"]) / 2
    table = {m: {n: _interval(x) for n, x in columns.items()} for m, columns in of.items()}
    against = {}
    for name in (m for m in methods if m in OPTIMISERS):
        ours = of[name]
        beaten = [m for m in methods if m in SUMS and _dominates(of[m], ours)]
        gaps = np.array([_above(of, ours, i) for i in range(len(ours["both"]))])
        rarer = [m for m in SUMS if m in of and of[m]["violations"].mean() <= ours["violations"].mean()]
        best = max(rarer, key=lambda m: of[m]["both"].mean())
        against[name] = {
            "dominated_by": beaten,
            "reward_above_sums_at_its_violations": _interval(gaps),
            "best_sum_that_violates_no_more": best,
            "reward_above_it": _interval(ours["both"] - of[best]["both"]),
        }
    return {"table": table, "cgpo": against}


def _dominates(sums: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> bool:
    """In the means: no less of either reward, no more violations."""
    no_less = all(sums[n].mean() >= ours[n].mean() for n in ("happy", "restrained"))
    return no_less and bool(sums["violations"].mean() <= ours["violations"].mean())


def _above(of: dict[str, dict[str, np.ndarray]], ours: dict[str, np.ndarray], seed: int) -> float:
    """Of a seed: the mean reward above the line through the even sums of that seed; at its end beyond its ends."""
    even = sorted((of[m]["violations"][seed], of[m]["both"][seed]) for m in EVEN)
    rates, rewards = zip(*even, strict=True)
    return float(ours["both"][seed] - np.interp(ours["violations"][seed], rates, rewards))


def _interval(values: np.ndarray) -> list[float]:
    """Mean and its 95 % interval over seeds, by Student's t; the mean alone of one seed."""
    mean = float(values.mean())
    if len(values) < 2:
        return [round(mean, 4)]
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return [round(x, 4) for x in (mean, mean - half, mean + half)]


MEASURED = ("happy", "restrained", "violations", "kl", "cpu_seconds")


def _data() -> str:
    return os.environ["CLEW_DATA"]


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--methods", nargs="*", choices=["SFT", *OPTIMISERS, *SUMS])
    parser.add_argument("--folder", type=Path, default=Path("runs/cgpo"))
    asked = parser.parse_args()
    lab = Lab(asked.folder.resolve())
    lab.prepare()
    methods = asked.methods or ["SFT", *OPTIMISERS, *SUMS]
    cells = [cell(lab, m, s) for s in range(asked.first, asked.first + asked.seeds) for m in methods]
    if asked.methods is None and asked.first == 0:
        versions = {name: version(name) for name in ("clew", "torch", "transformers")}
        found = {"versions": versions, "steps": STEPS, "seeds": asked.seeds, **summary(cells), "cells": cells}
        paired.write(RESULTS / "cgpo.json", f"python benchmarks/cgpo.py --seeds {asked.seeds}", found)
        print(json.dumps({k: found[k] for k in ("table", "cgpo")}, indent=1))


if __name__ == "__main__":
    main()
