"""Is the default consensus ever materially worse than the majority?

    python benchmarks/consensus.py simulate [--first 1000] [--designs 240]
    python benchmarks/consensus.py sets [--data $CLEW_DATA]

The rule of `clew.feedback.consensus.choice` is developed on simulated designs 0 to 239 (`--first 0`); 1000 to 1239
are new to it. Of the rules tried it has the largest share of designs whose lower bound against the majority is above
minus a point, among those that gain two points on average. Intervals: paired, over items.
"""

import argparse
import csv
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from crowds import drawn, simulated

from clew.feedback.consensus import Choice, choice, hierarchical
from clew.feedback.crowd import Consensus, Floats, Ints, Vote, Votes, dawid_skene, majority, one_coin
from clew.feedback.glad import glad
from clew.feedback.mace import mace

SETS = ("rte", "bluebird", "dog", "SP", "CF", "MS")
METHODS: Mapping[str, Callable[[Votes], Consensus]] = {
    "one coin": one_coin,
    "Dawid-Skene": dawid_skene,
    "MACE": lambda votes: mace(votes).consensus,
    "GLAD": lambda votes: glad(votes).consensus,
    "hierarchical": hierarchical,
}
VARIANTS = ((10.0, 1.0), (10.0, 10.0), (10.0, 30.0), (30.0, 1.0), (30.0, 10.0))
"""Strength of the model, odds at which it overrules the majority."""
RULE = (10.0, 10.0)
LIMITS = tuple((gain, lead) for gain in (2.0, 3.0, 5.0, 8.0) for lead in (0.0, 0.1, 0.2, 0.3))
WORSE = -0.01
"""A point less than the majority is materially worse."""


def credit(found: Consensus, truth: Ints) -> Floats:
    """1 where the most probable class is true; 1 / m where it is one of m that are equally probable."""
    rounded = np.round(found.posterior, 9)
    top = rounded == rounded.max(1, keepdims=True)
    return top[np.arange(len(truth)), truth] / top.sum(1)


def measured(votes: Votes, truth: Ints) -> dict[str, Any]:
    """Credit of each method on each item, and what the choice went by."""
    started = time.perf_counter()
    chosen = choice(votes)
    seconds = time.perf_counter() - started
    credits = {"majority": credit(majority(votes), truth), "consensus": credit(chosen.consensus, truth)}
    credits |= {name: credit(method(votes), truth) for name, method in METHODS.items()}
    variants = {(strength, odds): trusted(votes, strength, odds) for strength, odds in VARIANTS}
    return {
        "credits": credits,
        "choice": chosen,
        "seconds": seconds,
        "variants": {key: (found, credit(found.consensus, truth)) for key, found in variants.items()},
    }


def trusted(votes: Votes, strength: float, odds: float) -> Choice:
    """What the rule chooses from when nothing keeps it from the model."""
    return choice(votes, strength=strength, least_odds=odds, least_gain=-np.inf, least_lead=-np.inf)


def gained(row: Mapping[str, Any], name: str) -> Floats:
    return row["credits"][name] - row["credits"]["majority"]


def bounds(difference: Floats, *, repeats: int = 10_000, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean of paired differences, over items."""
    rng = np.random.default_rng(seed)
    n = len(difference)
    means = [difference[rng.integers(n, size=n)].mean() for _ in range(repeats)]
    return [round(float(q), 4) for q in np.quantile(means, [0.025, 0.975])]


def lowest(difference: Floats) -> float:
    """Lower 95 % bound, by the normal approximation."""
    return float(difference.mean() - 1.96 * difference.std() / np.sqrt(len(difference)))


def by_limits(row: Mapping[str, Any], gain: float, lead: float, *, variant: tuple[float, float] = RULE) -> Floats:
    """Difference from the majority had the rule been this one."""
    found, credits = row["variants"][variant]
    difference = credits - row["credits"]["majority"]
    return difference if found.gain >= gain and found.lead >= lead else np.zeros_like(difference)


def summary(differences: Sequence[Floats]) -> dict[str, Any]:
    gains = np.array([d.mean() for d in differences])
    return {
        "mean_gain": round(float(gains.mean()), 4),
        "worst": round(float(gains.min()), 4),
        "share_a_point_worse": round(float((gains < WORSE).mean()), 3),
        "share_lower_bound_above_minus_a_point": round(float(np.mean([lowest(d) > WORSE for d in differences])), 3),
    }


def simulate(first: int, designs: int) -> dict[str, Any]:
    rows = [measured(*simulated(drawn(seed))) for seed in range(first, first + designs)]
    return {
        "designs": f"{first} to {first + designs - 1}",
        "accuracy_of_majority": round(float(np.mean([row["credits"]["majority"].mean() for row in rows])), 4),
        "consensus_is_majority": round(float(np.mean([row["choice"].is_majority for row in rows])), 3),
        "against_majority": {
            name: summary([gained(row, name) for row in rows]) for name in rows[0]["credits"] if name != "majority"
        },
        "limits": {
            f"gain {gain:g}, lead {lead:g}": summary([by_limits(row, gain, lead) for row in rows])
            for gain, lead in LIMITS
        },
        "variants": {
            f"strength {strength:g}, odds {odds:g}": summary(
                [by_limits(row, 5.0, 0.2, variant=(strength, odds)) for row in rows]
            )
            for strength, odds in VARIANTS
        },
    }


def labelled(folder: Path, name: str) -> tuple[Votes, Ints]:
    """Votes, and the place of each item's true class."""
    votes, truth = (list(csv.reader((folder / f"{name}.{kind}.csv").open()))[1:] for kind in ("label", "truth"))
    table, known = Votes.of(Vote(item, rater, label) for item, rater, label in votes), dict(map(tuple, truth))
    return table, np.array([table.classes.index(known[item]) for item in table.items])


def on_sets(folder: Path) -> dict[str, Any]:
    rows = {name: measured(*labelled(folder, name)) for name in SETS}
    table = {name: on_one(rows, name) for name in SETS}
    return {
        "sets": table,
        "mean_gain": round(float(np.mean([gained(row, "consensus").mean() for row in rows.values()])), 4),
        "mean_gain_limits_from_other_sets": round(float(np.mean([t["other_sets"]["gain"] for t in table.values()])), 4),
        "every_lower_bound_above_minus_a_point": all(t["interval"][0] > WORSE for t in table.values()),
    }


def on_one(rows: Mapping[str, Any], name: str) -> dict[str, Any]:
    row, chosen = rows[name], rows[name]["choice"]
    limits = best_limits([other for key, other in rows.items() if key != name])
    held_out = by_limits(row, *limits)
    return {
        "accuracy": {method: round(float(c.mean()), 4) for method, c in row["credits"].items()},
        "gain": round(float(gained(row, "consensus").mean()), 4),
        "interval": bounds(gained(row, "consensus")),
        "is_majority": chosen.is_majority,
        "standard_errors_gained": round(chosen.gain, 2),
        "lead": round(chosen.lead, 3),
        "seconds": round(row["seconds"], 3),
        "other_sets": {"limits": limits, "gain": round(float(held_out.mean()), 4), "interval": bounds(held_out)},
    }


def best_limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The limits of the largest mean gain among those with no loss of a point; of equal ones the strictest."""

    def worth(limits: tuple[float, float]) -> tuple[bool, float, tuple[float, float]]:
        gains = [float(by_limits(row, *limits).mean()) for row in rows]
        return min(gains) > WORSE, round(float(np.mean(gains)), 9), limits

    return max(LIMITS, key=worth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("simulate", "sets"))
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--designs", type=int, default=240)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CLEW_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/consensus.json"))
    options = parser.parse_args()
    if options.what == "simulate":
        name = "developed_on" if options.first == 0 else "simulated"
        found = simulate(options.first, options.designs)
    else:
        name, found = "real", on_sets(options.data / "crowd")
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result |= {
        "name": "consensus",
        "command": "python benchmarks/consensus.py simulate --first 0; simulate; sets",
        "versions": {p: version(p) for p in ("clew", "numpy", "scipy")} | {"python": platform.python_version()},
        name: found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
