"""What it is worth to know whom to believe: a reward model on human comparisons, labelled by raters of whom some flip.

    CLEW_DATA=... OMP_NUM_THREADS=1 python benchmarks/reliability.py [--folder runs/reliability] [--seeds 10]

HH's comparisons (arXiv 2204.05862) dealt to simulated raters as the desk does by default: one each, a tenth of the
pairs to three. 30 % of the raters turn a label round with probability 0.8, the others give it as it is. Models of the
recipe `reward` for each seed, on one of the sets in turn: on the true labels (clean), on the votes (plain), and on them
as far as their raters are to be believed (aware: what `weighted.jsonl` of an export holds); with --joint also with
reliabilities learnt inside the loss (crowd_bt). Each is measured on first turns that it has not seen, a fifth of them,
against the true labels. The language model that all start from is pretrained once, on text of neither set. Pooled
intervals resample first turns.
"""

import argparse
import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hh import FOLDS, SETS, Lab, Pair, gap, kept, load_pairs, pretraining_text, scores
from paired import write

from clew.evaluate.calibration import correct, grouped_mean_interval
from clew.evaluate.winrate import Interval
from clew.feedback import trust
from clew.feedback.aggregate import Outcome
from clew.feedback.trust import Belief, belief

RATERS, ADVERSARIES, FLIPPED = 20, 6, 0.8
AUDITED, VOTES = 0.1, 3
"""Share of pairs that more than one rater sees, and how many then do: the desk's defaults."""
MODEL: dict[str, Any] = {"width": 64, "layers": 2, "heads": 4, "context": 512}
PRETRAIN: dict[str, Any] = {
    "model": MODEL, "tokenizer": {"size": 2048}, "steps": 500, "batch": 16, "window": 255,
    "learner": {"lr": 3e-3, "warmup": 0.05},
}  # fmt: skip
REWARD: dict[str, Any] = {
    "epochs": 1, "batch": 16, "learner": {"lr": 1e-3, "warmup": 0.1, "max_tokens": 4096},
    "encoding": {"template": "transcript", "max_length": 256, "truncation": "truncate_prompt_left"},
}  # fmt: skip
ARMS = {"clean": "bradley_terry", "plain": "bradley_terry", "aware": "bradley_terry"}


DIFFERENCES = (("aware", "plain"), ("clean", "aware"), ("clean", "plain"), ("joint", "plain"))


class Vote(NamedTuple):
    pair: int
    rater: str
    right: bool


def voted(num: int, seed: int) -> list[Vote]:
    """Who says what of each pair."""
    rng = np.random.default_rng([seed, 3])
    votes: list[Vote] = []
    for pair in range(num):
        for rater in rng.choice(RATERS, size=VOTES if rng.random() < AUDITED else 1, replace=False):
            flips = rater < ADVERSARIES and rng.random() < FLIPPED
            votes.append(Vote(pair, f"rater-{rater:02}", not flips))
    return votes


def reliabilities(votes: Sequence[Vote]) -> dict[str, float]:
    """From the pairs that several raters saw."""
    judged = [Outcome(f"{v.pair} a", f"{v.pair} b", float(v.right), rater=v.rater) for v in votes]
    return trust.reliabilities(judged, trusted={v.rater for v in votes})


def labelled(pairs: Sequence[Pair], votes: Sequence[Vote], arm: str) -> list[dict[str, Any]]:
    """Rows to train on."""
    if arm == "clean":
        return [p.row for p in pairs]
    if arm == "joint":
        return [_row(pairs[v.pair], Belief(float(v.right), 1.0)) | {"rater": v.rater} for v in votes]
    believed = reliabilities(votes)
    by_pair: dict[int, list[Vote]] = defaultdict(list)
    for vote in votes:
        by_pair[vote.pair].append(vote)
    rows: list[dict[str, Any]] = []
    for pair, said in by_pair.items():
        if arm == "plain":
            says = Belief(float(np.mean([v.right for v in said])), float(len(said)))
        else:
            says = belief([(float(v.right), believed[v.rater]) for v in said])
        rows.append(_row(pairs[pair], says))
    return rows


def _row(pair: Pair, says: Belief) -> dict[str, Any]:
    first, second = ("chosen", "rejected") if says.probability > 0.5 else ("rejected", "chosen")
    row = {"chosen": pair.row[first], "rejected": pair.row[second]}
    return row | {"agreement": max(says.probability, 1 - says.probability), "weight": says.weight}


def margins(lab: Lab, base: Path, name: str, seed: int, arm: str) -> tuple[np.ndarray, list[Pair]]:
    """Of the held-out pairs."""
    inside = [p for p in lab.pairs if p.set == name]
    seen, held = ([p for p in inside if (p.fold == seed % FOLDS) is where] for where in (False, True))
    run = f"{name}-{seed}-{arm}"
    data = lab.file(run, labelled(seen, voted(len(seen), seed), arm))
    model = lab.run(run, "reward", model=str(base), data=data, loss=ARMS[arm], seed=seed, **REWARD)
    return kept(model.parent / "margins.json", lambda: gap(scores(model, held))), held


def pooled(rows: Sequence[tuple[np.ndarray, list[Pair]]]) -> Interval:
    """Mean over all seeds; a first turn's pairs, of every seed that tests it, are resampled together."""
    values = np.concatenate([v for v, _ in rows])
    return grouped_mean_interval(values, [p.first for _, held in rows for p in held])


def report(lab: Lab, base: Path, seeds: int) -> dict[str, Any]:
    right: dict[str, list[tuple[np.ndarray, list[Pair]]]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        name = list(SETS)[seed % len(SETS)]
        for arm in ARMS:
            found, held = margins(lab, base, name, seed, arm)
            right[arm].append((correct(found), held))
        print(seed, name, {arm: round(float(right[arm][-1][0].mean()), 4) for arm in ARMS}, flush=True)

    def difference(a: str, b: str) -> dict[str, float]:
        return pooled([(x - y, held) for (x, held), (y, _) in zip(right[a], right[b], strict=True)])._asdict()

    known = [reliabilities(voted(1850, seed)) for seed in range(seeds)]
    found = np.array([(value, int(rater[-2:]) < ADVERSARIES) for one in known for rater, value in one.items()])
    adversary = found[:, 1] == 1
    return {
        "accuracy": {arm: pooled(right[arm])._asdict() for arm in ARMS},
        **{f"{a}_minus_{b}": difference(a, b) for a, b in DIFFERENCES if {a, b} <= ARMS.keys()},
        "accuracy_by_seed": {arm: [round(float(v.mean()), 4) for v, _ in rows] for arm, rows in right.items()},
        "raters": {
            "adversaries_below_a_half": float((found[adversary, 0] < 0.5).mean()),
            "others_above_a_half": float((found[~adversary, 0] > 0.5).mean()),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/reliability"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reliability.json"))
    parser.add_argument("--joint", action="store_true")
    options = parser.parse_args()
    if options.joint:
        ARMS["joint"] = "crowd_bt"
    lab = Lab(options.folder, [p for name, file in SETS.items() for p in load_pairs(name, file)])
    base = lab.run("pretrain", "pretrain", data=lab.file("text", pretraining_text(lab.pairs)), **PRETRAIN)
    found = report(lab, base, options.seeds)
    ledgers = [json.loads(file.read_text())["ledger"] for file in lab.folder.glob("*/run.json")]
    about = {
        "versions": {p: version(p) for p in ("clew", "torch", "numpy")} | {"python": platform.python_version()},
        "settings": {
            "raters": RATERS,
            "adversaries": ADVERSARIES,
            "flipped": FLIPPED,
            "audited": AUDITED,
            "model": MODEL,
            "reward": REWARD,
        },
        "seeds": options.seeds,
        "cpu_minutes_in_loops": round(sum(ledger.get("cpu_seconds", 0) for ledger in ledgers) / 60, 1),
        **found,
    }
    write(options.out, "OMP_NUM_THREADS=1 python benchmarks/reliability.py", about)
    for name in (n for n in found if "_minus_" in n):
        print(name, {k: round(v, 4) for k, v in found[name].items()})


if __name__ == "__main__":
    main()
