"""Statistics of judgements against the libraries that test them: seconds, and how far results are apart.

    python benchmarks/judgements.py [--rounds 5] [--patience 5]

All sides of a work run in turns in one process, from judgements as Python lists to numbers; a side that took longer
than `patience` seconds runs once. Not named statistics.py, which would hide Python's module from the other scripts.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import choix
import krippendorff
import numpy as np
import paired
import pandas
from crowdkit.aggregation import DawidSkene
from scipy.special import expit

from clew.feedback.aggregate import Outcome, bradley_terry
from clew.feedback.agreement import alpha
from clew.feedback.crowd import Vote, Votes, dawid_skene
from clew.feedback.plackett_luce import Order, fit_orders

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("clew", "numpy", "scipy", "choix", "crowd-kit", "krippendorff")
PRIOR = 1e-6
"""So flat that sides with other priors, or none, look for the same strengths; the default of choix."""


class Work(NamedTuple):
    """What is computed, from what, and by whom. Sides give numbers that can be compared; ours is the first."""

    name: str
    size: str
    sides: Mapping[str, Callable[[], np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="Folder of results.")
    asked = parser.parse_args()
    found = [
        timed(work, asked.rounds, asked.patience)
        for work in (
            comparisons(50, 10_000),
            comparisons(200, 100_000),
            comparisons(1000, 200_000),
            rankings(200, 20_000, 5),
            votes(2000, 5, 30),
            units(2000, 5),
        )
    ]
    command = f"python benchmarks/judgements.py --rounds {asked.rounds} --patience {asked.patience:g}"
    versions = {name: version(name) for name in PACKAGES}
    paired.write(asked.out / "judgements.json", command, {"versions": versions, "works": found})


def timed(work: Work, rounds: int, patience: float) -> dict[str, Any]:
    """Seconds of each side, their medians, how many times ours is faster, and the largest difference from ours."""
    seconds: dict[str, list[float]] = {name: [] for name in work.sides}
    results: dict[str, np.ndarray] = {}
    for number in range(rounds):
        for name in list(work.sides)[:: 1 if number % 2 else -1]:
            if max(seconds[name], default=0) > patience:
                continue
            start = time.perf_counter()
            results[name] = work.sides[name]()
            seconds[name].append(round(time.perf_counter() - start, 4))
    ours, *others = work.sides
    medians = {name: median(took) for name, took in seconds.items()}
    about = {
        "work": work.name,
        "size": work.size,
        "seconds": seconds,
        "median_seconds": medians,
        "times_faster": {name: round(medians[name] / medians[ours], 1) for name in others},
        "largest_difference": {name: float(f"{np.abs(results[name] - results[ours]).max():.2g}") for name in others},
    }
    print(
        {k: about[k] for k in ("work", "size", "median_seconds", "times_faster", "largest_difference")}, file=sys.stderr
    )
    return about


def comparisons(n: int, count: int) -> Work:
    """ilsr and mm without a prior, mm as far as its own rule lets it go."""
    rng = np.random.default_rng(0)
    strengths = rng.normal(size=n)
    first = rng.integers(n, size=count)
    second = (first + rng.integers(1, n, size=count)) % n
    won = rng.random(count) < expit(strengths[first] - strengths[second])
    rows = list(zip(first.tolist(), second.tolist(), won.tolist(), strict=True))
    judged = [Outcome(f"{a:04}", f"{b:04}", float(w)) for a, b, w in rows]
    beaten = [(a, b) if w else (b, a) for a, b, w in rows]
    sides: dict[str, Callable[[], np.ndarray]] = {
        "clew": lambda: np.array(list(bradley_terry(judged, prior=PRIOR).values())),
        "choix.opt_pairwise": lambda: centred(choix.opt_pairwise(n, beaten, alpha=PRIOR / 2)),
    }
    if n <= 200:
        sides["choix.ilsr_pairwise"] = lambda: centred(choix.ilsr_pairwise(n, beaten))
        sides["choix.mm_pairwise"] = lambda: centred(choix.mm_pairwise(n, beaten))
    return Work("Bradley-Terry", f"{n} items, {count} comparisons", sides)


def rankings(n: int, count: int, size: int) -> Work:
    rng = np.random.default_rng(0)
    strengths = rng.normal(size=n)
    shown = np.array([rng.choice(n, size, replace=False) for _ in range(count)])
    places = np.argsort(-(strengths[shown] + rng.gumbel(size=shown.shape)), axis=1)
    rows = [tuple(row) for row in np.take_along_axis(shown, places, axis=1).tolist()]
    judged = [Order(tuple((f"{i:04}",) for i in row)) for row in rows]
    return Work(
        "Plackett-Luce",
        f"{n} items, {count} rankings of {size}",
        {
            "clew": lambda: np.array(list(fit_orders(judged, prior=PRIOR).strengths.values())),
            "choix.opt_rankings": lambda: centred(choix.opt_rankings(n, rows, alpha=PRIOR / 2)),
            "choix.ilsr_rankings": lambda: centred(choix.ilsr_rankings(n, rows)),
        },
    )


def votes(items: int, overlap: int, raters: int) -> Work:
    """A fifth of the raters answer at random, the others are right nine times in ten; 3 classes."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=items)
    cast = [
        Vote(f"{i:04}", f"{r:02}", int(truth[i] if r >= raters // 5 and rng.random() < 0.9 else rng.integers(3)))
        for i in range(items)
        for r in rng.choice(raters, overlap, replace=False)
    ]
    table = pandas.DataFrame(cast, columns=["task", "worker", "label"])
    return Work(
        "Dawid-Skene",
        f"{items} items, {overlap} votes each of {raters} raters",
        {
            "clew": lambda: dawid_skene(Votes.of(cast), strength=0.0).posterior,
            "crowd-kit": lambda: (
                DawidSkene(n_iter=200, tol=1e-6).fit_predict_proba(table).sort_index().sort_index(axis=1).to_numpy()
            ),
        },
    )


def units(items: int, raters: int) -> Work:
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=(items, 1))
    said = np.where(rng.random((items, raters)) < 0.7, truth, rng.integers(4, size=(items, raters)))
    counts = np.stack([(said == k).sum(1) for k in range(4)], axis=1).astype(float)
    return Work(
        "Krippendorff's alpha",
        f"{items} items, {raters} raters, nominal",
        {
            "clew": lambda: np.array([alpha(counts)]),
            "krippendorff": lambda: np.array([krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")]),
        },
    )


def centred(strengths: Sequence[float]) -> np.ndarray:
    return np.asarray(strengths) - np.mean(strengths)


if __name__ == "__main__":
    main()
