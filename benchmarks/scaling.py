"""What a training step costs against sequence length, batch, vocabulary, completions a prompt and model size.

    python benchmarks/scaling.py [--rounds 3]

clew alone, random weights and tokens, each point in a process of its own. Slopes on logarithmic axes are fitted by
least squares and set beside expected ones. Of seconds: the slope of the counted operations over the same points
(cost.py: matrices and head grow with the tokens, attention with their square). Of memory: that of the activations,
tokens times layers times width, since logits are cut into chunks and each token of a shared prompt is there once.
Memory is what is left of the peak without libraries, weights, gradients and AdamW's numbers. Fixed costs bend the
curves at their left ends, so a measured slope may be lower. Writes scaling.json and docs/images/scaling.svg.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import paired
import race

matplotlib.use("svg")
from matplotlib import pyplot as plt

BASE = {"length": 256, "prompts": 4, "completions": 2, "vocabulary": 8192, "width": 256, "layers": 4}
AXES = {
    "length": (128, 256, 512, 1024, 2048),
    "prompts": (2, 4, 8, 16, 32),
    "completions": (1, 2, 4, 8, 16),
    "vocabulary": (8192, 16384, 32768, 65536, 131072),
    "width": (128, 192, 256, 384, 512),
    "layers": (2, 4, 8, 16, 32),
}
"""Half of a row is prompt, half completion."""
TITLES = {"length": "tokens a row", "prompts": "prompts a step", "completions": "completions a prompt"}
NUMBERS = 4
"""float32 numbers that are kept for each parameter: itself, its gradient, AdamW's two."""


def point(asked: Mapping[str, int], rounds: int, threads: int) -> dict[str, float]:
    """Median seconds and peak memory of a step, and what both are expected to be in proportion to."""
    name = " ".join(f"{key} {value}" for key, value in asked.items())
    side = paired.Side(name, sys.executable, "with_points.py", asked, threads=threads)
    found = paired.race([side], rounds=rounds)[name]
    weights = NUMBERS * 4 * found["parameters"] / 2**20
    return {
        "seconds": found["median_seconds"],
        "mib": round(found["peak_mib"] - found["imported_mib"] - weights, 1),
        "operations": found["operations_counted"],
        "activations": found["tokens_counted"] * asked["layers"] * asked["width"],
    }


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope on logarithmic axes."""
    return round(float(np.polyfit(np.log(x), np.log(np.maximum(y, 1e-9)), 1)[0]), 3) + 0.0  # no -0.0


def curve(points: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """An axis: its points, and for seconds and memory the slope measured and the one expected."""
    x = list(points)
    columns = {name: [points[value][name] for value in x] for name in points[x[0]]}
    slopes = {name: slope(x, values) for name, values in columns.items()}
    return {
        "points": x,
        **columns,
        "seconds_slope": {"measured": slopes["seconds"], "expected": slopes["operations"]},
        "mib_slope": {"measured": slopes["mib"], "expected": slopes["activations"]},
    }


def plot(curves: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    plt.rcParams["svg.hashsalt"] = "clew"
    figure, axes = plt.subplots(2, len(curves), figsize=(3 * len(curves), 6), layout="constrained")
    rows = (("seconds", "operations", "seconds a step"), ("mib", "activations", "MiB beside weights"))
    for column, (axis, found) in enumerate(curves.items()):
        for row, (measured, expected, label) in enumerate(rows):
            place, y, shape = axes[row, column], np.array(found[measured]), np.array(found[expected], dtype=float)
            anchor = np.exp(np.mean(np.log(np.maximum(y, 1e-9)) - np.log(shape)))
            place.loglog(found["points"], y, "o-", label="measured", color="#1f5fa8")
            place.loglog(found["points"], anchor * shape, "--", label="expected slope", color="#b0562c")
            slopes = found[f"{measured}_slope"]
            place.set_title(f"{slopes['measured']:.2f}, expected {slopes['expected']:.2f}", fontsize=9)
            place.set_xticks(found["points"], [str(x) for x in found["points"]], fontsize=7)
            place.minorticks_off()
            place.set_yticks([y.min(), y.max()], [f"{end:.3g}" for end in (y.min(), y.max())], fontsize=7)
            place.set_xlabel(TITLES.get(axis, axis))
            if column == 0:
                place.set_ylabel(label)
    axes[0, 0].legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--axes", nargs="*", choices=AXES, default=list(AXES))
    parser.add_argument("--points", type=int, default=5, help="How many of each axis, from its small end.")
    parser.add_argument("--out", type=Path, default=race.RESULTS)
    parser.add_argument("--image", type=Path, default=race.ROOT / "docs" / "images" / "scaling.svg")
    asked = parser.parse_args()
    curves = {
        axis: curve({x: point({**BASE, axis: x}, asked.rounds, asked.threads) for x in AXES[axis][: asked.points]})
        for axis in asked.axes
    }
    plot(curves, asked.image)
    about = {"versions": race.our_versions(), "rounds": asked.rounds, "base": BASE, "curves": curves}
    paired.write(asked.out / "scaling.json", f"python benchmarks/scaling.py --rounds {asked.rounds}", about)
    for axis, found in curves.items():
        print(f"{axis}: seconds {found['seconds_slope']}, memory {found['mib_slope']}")


if __name__ == "__main__":
    main()
