"""Methods side by side: gold reward against the KL it costs, on the endings of stories.

    CLEW_DATA=... python benchmarks/frontier.py [--seeds 3] [--methods ppo grpo] [--folder runs/frontier]

Every method starts from one SFT model of stories260k and gets about as many sampled tokens (or as many pairs as those
tokens make): the same prompts, the same gold reward (`happy_ending`), one thread. A cell is a method and a seed; its
checkpoints are points of its curve, measured on the same held-out prompts. Cells that are there are not run again; to
do so, delete their file in benchmarks/results/frontier/. Best-of-n is the yardstick: sampled from the SFT model, its
mean for every n from the same answers, its KL at most log n - (n-1)/n. Settings are first guesses, changed after a look
at one run each of seed 100, which is not reported: gold with no penalty for what is cut, lower rates for all, a higher
tau for Nash-MD, fewer passes for PPO, APA and ILQL. After TRL's cells had been seen, GRPO's KL went from the reward
into the loss, where it is published, and KTO's batch was made as large as TRL's. ILQL gained +0.06 with batches of 64,
gamma 0.99 and beta 4; its settings were then looked for in eight runs of seeds 100 and 102 (those with batches of 16
gained +0.14 on the reported seeds, before batches of 8 were tried).
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from math import comb, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paired
import race
from scipy.stats import t as student

from clew.data import stories

if TYPE_CHECKING:
    from clew.types import Rollout

RESULTS = Path(__file__).parent / "results" / "frontier"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "frontier.png"
GOLD = "clew.data.stories:happy_ending"
MAX_TOKENS, ROLLOUTS, STEPS = 100, 64, 32
"""Tokens an answer, answers a step, steps: 2048 answers a cell."""
PROMPTS = {"endings": (0, 600), "prompts": (1400, 1024), "heldout": (3700, 240)}
LR = {"rl": 3e-4, "dpo": 3e-4, "kto": 3e-4}
CONSTANT: dict[str, Any] = {"schedule": "constant", "max_tokens": 4096}
FLAT = {"steps": STEPS, "save_every": STEPS // 4, "keep": None}


class Place:
    """Where runs lie: one SFT model for all, a folder for every cell."""

    def __init__(self, folder: Path, seed: int, method: str, peer: str | None = None) -> None:
        self.folder, self.seed, self.method, self.peer = folder, seed, method, peer
        self.data = folder / "data"

    @property
    def sft(self) -> str:
        return str(self.folder / "sft" / "model")

    def rows(self, name: str) -> dict[str, str]:
        return {"path": str(self.data / f"{name}.jsonl")}

    def run(self, name: str, kind: str, **options: Any) -> Path:
        """A recipe's run, or the one that is there."""
        from clew.config import build
        from clew.pipeline import recipe

        function, config = recipe(kind)
        usual: dict[str, Any] = {
            "seed": self.seed, "device": "cpu", "encoding": {"max_length": 384}, "max_tokens": MAX_TOKENS, "slots": 256,
        }  # fmt: skip
        known = {key: value for key, value in usual.items() if key in config.model_fields}
        function(build(config, {"out": str(self.folder / name), **known, **options}, name))
        return self.folder / name

    def trained(self, kind: str, **options: Any) -> Path:
        return self.run(f"{self.method}-{self.seed}", kind, model=self.sft, **options)

    def labels(self) -> Path:
        """Pairs of SFT answers as many as the others sample answers, judged by gold through a logistic."""
        raters = [{"rater": {"name": "honest", "sharpness": 3.0}, "num": 1}]
        return self.run(
            f"labels-{self.seed}", "label", model=self.sft, data=self.rows("prompts"), gold=GOLD, raters=raters,
            sampling={"max_tokens": MAX_TOKENS}, batch=128,
        )  # fmt: skip


def prepare(folder: Path) -> None:
    """Data and the SFT model that all start from."""
    place = Place(folder, 0, "sft")
    text = str(Path(os.environ["CLEW_DATA"]) / "text" / "tinystories_4mb.txt")
    files = {
        name: {"name": "clew.data.stories:endings", "path": text, "start": start, "num": num}
        for name, (start, num) in PROMPTS.items()
    }
    place.run("data", "prepare", files=files)
    start = str(Path(os.environ["CLEW_DATA"]) / "stories260k" / "hf")
    learner = {"lr": 2e-3, "warmup": 0.05, "max_tokens": 4096}
    place.run("sft", "sft", model=start, data=place.rows("endings"), epochs=4, batch=32, learner=learner)


def rl(place: Place, *, lr: float, **options: Any) -> Path:
    learner = {"lr": lr, **CONSTANT}
    given = {"data": place.rows("prompts"), "reward": [{"function": GOLD}], "learner": learner, **FLAT, **options}
    return place.trained("rl", **given)


def ppo(place: Place) -> Path:
    critic = {"model": place.sft, "learner": {"lr": 1e-3, **CONSTANT}}
    kl = {"coefficient": 0.05}
    return rl(
        place, lr=LR["rl"], prompts=ROLLOUTS // 4, group=4, critic=critic, whiten_advantages=True, minibatches=2, kl=kl
    )


def group(place: Place, **options: Any) -> Path:
    given = {"kl": {"coefficient": 0.05}, **options}
    return rl(place, lr=LR["rl"], prompts=ROLLOUTS // 8, group=8, minibatches=2, **given)


def rloo(place: Place) -> Path:
    return group(place, advantages="leave_one_out")


def grpo(place: Place) -> Path:
    """As published: the KL in the loss, a mean over each answer's tokens."""
    kl = {"coefficient": 0.05, "place": "loss", "loss": "forward"}
    return group(place, advantages="group_normalised", averaging="sequence", kl=kl)


def cispo(place: Place) -> Path:
    return group(place, advantages="group_normalised", loss="cispo")


def apa(place: Place) -> Path:
    critic = {"model": place.sft, "learner": {"lr": 1e-3, **CONSTANT}}
    loss = {"name": "apa", "beta": 0.2}
    return rl(
        place, lr=LR["rl"], prompts=ROLLOUTS // 4, group=4, critic=critic, loss=loss, minibatches=2,
        kl={"coefficient": 0},
    )  # fmt: skip


def reject(place: Place) -> Path:
    """RAFT: four rounds of best-of-8."""
    learner = {"lr": 1e-3, **CONSTANT}
    reward = [{"function": GOLD}]
    return place.trained(
        "reject", data=place.rows("prompts"), reward=reward, rounds=4, prompts=ROLLOUTS, answers=8, minibatches=4,
        learner=learner, save_every=4, keep=None,
    )  # fmt: skip


def online(place: Place) -> Path:
    """Online DPO."""
    learner = {"lr": LR["rl"], **CONSTANT}
    reward = [{"function": GOLD}]
    return place.trained(
        "online", data=place.rows("prompts"), reward=reward, steps=STEPS, prompts=ROLLOUTS // 2,
        loss={"name": "dpo", "beta": 0.1}, learner=learner, save_every=STEPS // 4, keep=None,
    )  # fmt: skip


def nash(place: Place) -> Path:
    """Nash-MD. Half of the answers are the opponents'."""
    learner = {"lr": LR["rl"], **CONSTANT}
    return place.trained(
        "nash", data=place.rows("prompts"), preference="clew.data.stories:happier", tau=0.05, steps=STEPS,
        prompts=ROLLOUTS // 4, measured=0, learner=learner, save_every=STEPS // 4, keep=None,
    )  # fmt: skip


def ilql(place: Place) -> Path:
    """From the answers of the pairs, each with its gold reward."""
    learner = {"lr": 1e-3, "warmup": 0.1, "max_tokens": 4096}
    reward = [{"function": GOLD}]
    return place.trained(
        "ilql", data={"path": str(place.labels() / "pairs.jsonl")}, reward=reward, learner=learner, batch=8, epochs=2,
        gamma=1.0, polyak=0.05, polyak_every=1, decode={"beta": 8.0}, save_every=256, keep=None,
    )  # fmt: skip


def preference(place: Place, loss: dict[str, Any], lr: float, batch: int) -> Path:
    pairs = {"path": str(place.labels() / "pairs.jsonl")}
    learner = {"lr": lr, "warmup": 0.1, "max_tokens": 4096}
    return place.trained(
        "preference", data=pairs, loss=loss, learner=learner, batch=batch, epochs=2, save_every=10, keep=None
    )


def dpo(place: Place) -> Path:
    return preference(place, {"name": "dpo", "beta": 0.1}, LR["dpo"], batch=32)


def kto(place: Place) -> Path:
    """From as many answers a step as 32 pairs have."""
    return preference(place, {"name": "kto", "beta": 0.1}, LR["kto"], batch=64)


OFFLINE = ("dpo", "kto", "ilql", "trl-dpo", "trl-kto")
"""They learn from the same pairs, or from their answers."""
METHODS: dict[str, Callable[[Place], Path]] = {
    f.__name__: f for f in (ppo, rloo, grpo, cispo, apa, reject, online, nash, dpo, kto, ilql)
}


def of_trl(method: str, place: Place) -> Path:
    """The same start, data, batches and rates, by TRL in its own environment (with_trl_stories.py)."""
    from clew.data.sources import step_indices

    assert place.peer is not None, "cells of TRL need its environment"
    out = place.folder / f"trl-{method}-{place.seed}"
    if (out / "run.json").exists():
        return out
    prompts, ordered = (place.data / "prompts.jsonl").read_text().splitlines(), place.folder / f"{out.name}.jsonl"
    size = ROLLOUTS // 2 if method == "online" else ROLLOUTS // 8
    picked = [prompts[i] for step in range(STEPS) for i in step_indices(len(prompts), size, seed=place.seed, step=step)]
    ordered.write_text("".join(f"{row}\n" for row in picked))
    rates = LR.get(method, LR["rl"]), *(("cosine", 6) if method in LR else ("constant", 0))
    options = {
        "method": method, "model": place.sft, "seed": place.seed, "out": str(out), "ordered": str(ordered),
        "pairs": str(place.labels() / "pairs.jsonl") if method in LR else None, "epochs": 2, "steps": STEPS,
        "rollouts": ROLLOUTS, "max_tokens": MAX_TOKENS, "kl": 0.05, "stories": str(stories.__file__),
        **dict(zip(("lr", "schedule", "warmup"), rates, strict=True)),
    }  # fmt: skip
    subprocess.run([place.peer, "with_trl_stories.py", json.dumps(options)], check=True, cwd=Path(__file__).parent)
    return out


METHODS |= {f"trl-{name}": partial(of_trl, name) for name in ("rloo", "grpo", "online", "dpo", "kto")}


def cell(folder: Path, method: str, seed: int, peer: str | None) -> dict[str, Any]:
    """Trains and measures one cell. In a process of its own, so that its time is its own."""
    import torch

    torch.set_num_threads(1)
    place = Place(folder, seed, method, peer)
    if method in OFFLINE:
        place.labels()
    began = cpu_seconds()
    run = METHODS[method](place)
    cpu_s = cpu_seconds() - began
    measured = place.run(
        f"{method}-{seed}-measured", "evaluate", baseline=place.sft, policies={method: str(run)},
        data=place.rows("heldout"), gold=GOLD,
    )  # fmt: skip
    points = json.loads((measured / "evaluation.json").read_text())["points"]
    runs = [run, folder / f"labels-{seed}"] if method in OFFLINE else [run]
    used = [json.loads((each / "run.json").read_text())["ledger"] for each in runs]
    return {
        "method": method,
        "seed": seed,
        "points": [{name: p[name] for name in ("policy", "step", "final", "gold", "gain", "kl")} for p in points],
        "tokens_sampled": sum(ledger.get("tokens_generated", 0) for ledger in used),
        "labels": sum(ledger.get("labels/program", 0) for ledger in used),
        "cpu_s": round(cpu_s, 1),
    }


def cpu_seconds() -> float:
    """Of this process and of those that it started."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def best_of_n(folder: Path, *, num: int = 128) -> dict[str, Any]:
    """Mean gold of the best of n, from `num` answers of each held-out prompt, and the spread of one answer's gold."""
    rollouts = sampled(folder, num)
    gold = np.array(stories.happy_ending([r.prompt for r in rollouts], [r.text for r in rollouts])).reshape(-1, num)
    return {"points": means_of_best(gold, gold), "spread": float(gold.std(ddof=1))}


@cache
def sampled(folder: Path, num: int) -> "list[Rollout]":
    """`num` answers of the SFT model to each held-out prompt, one prompt after another."""
    import torch

    from clew.data.chat import Codec, Encoding
    from clew.data.sources import Source, load_examples, without_repeats
    from clew.engines.local import LocalEngine
    from clew.models.load import load_policy
    from clew.types import Sampling

    torch.set_num_threads(1)
    place = Place(folder, 0, "best-of-n")
    policy = load_policy(place.sft)
    examples = without_repeats(load_examples(Source(**place.rows("heldout"))))
    prompts = Codec(policy.tokenizer, Encoding(max_length=384)).prompts(examples, MAX_TOKENS)
    return LocalEngine(policy, slots=512).generate(prompts, n=num, sampling=Sampling(MAX_TOKENS), key=(100, 0))


def means_of_best(worth: np.ndarray, by: np.ndarray) -> list[dict[str, float]]:
    """Mean worth of the best of n by another measure, [prompts, answers] both, for every power of two.

    Over all choices of n among a prompt's answers: the i-th smallest is the best of n in C(i, n-1) of C(num, n).
    """
    num = worth.shape[1]
    ordered = np.take_along_axis(worth, by.argsort(axis=1, kind="stable"), axis=1)
    found = []
    for n in (2**k for k in range(num.bit_length())):
        best = ordered @ np.array([comb(i, n - 1) / comb(num, n) for i in range(num)])
        half = 1.96 * float(best.std(ddof=1)) / len(best) ** 0.5
        found.append({"n": n, "kl": log(n) - (n - 1) / n, "gold": float(best.mean()), "half_width": half})
    return found


AT = (1.0, 1.9)
"""√KL at which curves are compared with best-of-n, which ends at 1.97 for 128 answers."""


def curve(found: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """√KL and gold of a cell's points, from the SFT model on."""
    start = [p for p in found["points"] if p["policy"] != found["method"]]
    own = sorted((p for p in found["points"] if p["policy"] == found["method"]), key=lambda p: (p["final"], p["step"]))
    root = [max(p["kl"]["value"], 0.0) ** 0.5 for p in own]
    return [0.0, *root], [start[0]["gold"]["value"], *(p["gold"]["value"] for p in own)]


def reached(root: Sequence[float], gold: Sequence[float], at: float) -> float | None:
    """Gold where a curve first crosses this √KL, on the line between its two points; None where it never does."""
    for place in range(1, len(root)):
        low, high = root[place - 1], root[place]
        if low <= at <= high:
            return gold[place - 1] + (gold[place] - gold[place - 1]) * (at - low) / max(high - low, 1e-9)
    return None


def summary(cells: Sequence[dict[str, Any]], yardstick: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each method, over seeds: final gold and KL, what a gain cost in tokens, labels and time; beside best-of-n."""
    best = [p["kl"] ** 0.5 for p in yardstick["points"]], [p["gold"] for p in yardstick["points"]]
    rows = []
    for method in dict.fromkeys(c["method"] for c in cells):
        own = [c for c in cells if c["method"] == method]
        finals = [next(p for p in c["points"] if p["final"] and p["policy"] == method) for c in own]
        gains, kls = ([p[key]["value"] for p in finals] for key in ("gain", "kl"))
        per = {key: float(np.mean([c[key] for c in own])) for key in ("tokens_sampled", "labels", "cpu_s")}
        gain = float(np.mean(gains))
        rows.append({
            "method": method, "seeds": len(own), "gold": float(np.mean([p["gold"]["value"] for p in finals])),
            "gain": gain, "gains": gains, "lowest": min(p["gain"]["low"] for p in finals), "kl": float(np.mean(kls)),
            "behind_best_of_n": {str(at): behind(own, at, best, yardstick["spread"]) for at in AT},
            "gain_per_1000_tokens": 1000 * gain / per["tokens_sampled"],
            "gain_per_1000_labels": 1000 * gain / per["labels"] if per["labels"] else None,
            "gain_per_cpu_minute": 60 * gain / per["cpu_s"], **per,
        })  # fmt: skip
    return rows


def behind(
    cells: Sequence[dict[str, Any]], at: float, best: tuple[list[float], list[float]], spread: float
) -> list[float | None]:
    """Of each seed: how far its curve lies under best-of-n at this √KL, in standard deviations of an answer's gold.

    None where the curve, or best-of-n with the answers that there are, does not get so far.
    """
    if at > best[0][-1]:
        return [None] * len(cells)
    found = [reached(*curve(c), at) for c in cells]
    top = float(np.interp(at, *best))
    return [None if gold is None else (top - gold) / spread for gold in found]


def area(found: Mapping[str, Any]) -> float:
    """Mean gain on the way: the area under the learning curve, from 0 at the start to the last checkpoint."""
    own = [p for p in found["points"] if p["policy"] == found["method"] and not p["final"]]
    own.sort(key=lambda p: p["step"])
    steps, gains = ([0.0, *each] for each in zip(*((p["step"], p["gain"]["value"]) for p in own), strict=True))
    return float(np.trapezoid(gains, steps)) / steps[-1]


def against_trl(cells: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each method that TRL has too: areas of both, seed by seed, and Student's interval of their difference."""
    areas = {(c["method"], c["seed"]): area(c) for c in cells}
    found = dict[str, dict[str, Any]]()
    for name in sorted({m for m, _ in areas if f"trl-{m}" in METHODS}):
        seeds = sorted(s for m, s in areas if m == name and (f"trl-{name}", s) in areas)
        if len(seeds) < 2:
            continue
        ours, theirs = (np.array([areas[m, s] for s in seeds]) for m in (name, f"trl-{name}"))
        apart = ours - theirs
        half = float(student.ppf(0.975, len(seeds) - 1) * apart.std(ddof=1) / len(seeds) ** 0.5)
        mean = float(apart.mean())
        found[name] = {"clew": ours.tolist(), "trl": theirs.tolist(), "difference": mean,
                       "low": mean - half, "high": mean + half}  # fmt: skip
    return found


def draw(cells: Sequence[dict[str, Any]], yardstick: Mapping[str, Any], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 6))
    best = yardstick["points"]
    axis.plot([p["kl"] ** 0.5 for p in best], [p["gold"] for p in best], "k--", label="best of n")
    names = list(dict.fromkeys(c["method"].removeprefix("trl-") for c in cells))
    for method in dict.fromkeys(c["method"] for c in cells):
        curves = [curve(c) for c in cells if c["method"] == method]
        depth = min(len(root) for root, _ in curves)
        root, gold = (np.array([c[i][:depth] for c in curves]) for i in (0, 1))
        style = "s:" if method.startswith("trl-") else "o-"
        colour = f"C{names.index(method.removeprefix('trl-'))}"
        axis.plot(root.mean(0), gold.mean(0), style, ms=4, color=colour, label=method)
        axis.vlines(root.mean(0), gold.min(0), gold.max(0), color=colour, alpha=0.4)
    axis.set(xlabel="√KL to the SFT model, nats per answer", ylabel="gold reward on held-out prompts")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=130, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--folder", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--peers", type=Path, default=Path("runs/peers"), help="Folder of TRL's environment.")
    parser.add_argument("--at-once", type=int, default=2, help="Cells in processes side by side, one thread each.")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare(folder)
    command = "python benchmarks/frontier.py"
    wanted = [(m, s) for s in range(asked.seeds) for m in asked.methods if not (RESULTS / f"{m}-{s}.json").exists()]
    versions = race.our_versions()
    peer = (
        race.peer_python(race.RACES["dpo"], asked.peers, required=True) if any("trl" in m for m, _ in wanted) else None
    )
    with multiprocessing.get_context("spawn").Pool(asked.at_once, maxtasksperchild=1) as pool:
        jobs = [(m, s, pool.apply_async(cell, (folder, m, s, peer))) for m, s in wanted]
        for method, seed, job in jobs:
            found = job.get()
            paired.write(
                RESULTS / f"{method}-{seed}.json", f"{command} --methods {method}", {"versions": versions, **found}
            )
            print(method, seed, found["points"][-1]["gain"], found["points"][-1]["kl"], found["cpu_s"], flush=True)
    yardstick_file = RESULTS / "best-of-n.json"
    if not yardstick_file.exists():
        paired.write(yardstick_file, command, {"versions": versions, **best_of_n(folder)})
    yardstick = json.loads(yardstick_file.read_text())
    cells = [json.loads(f.read_text()) for f in sorted(RESULTS.glob("*-[0-9]*.json"))]
    paired.write(RESULTS / "summary.json", command, {
        "versions": versions, "methods": summary(cells, yardstick), "against_trl": against_trl(cells),
    })  # fmt: skip
    draw(cells, yardstick, FIGURE)


if __name__ == "__main__":
    main()
