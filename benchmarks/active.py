"""What choosing the pairs saves: labels until a reward is as good as with all of the randomly chosen ones.

    CLEW_DATA=... OMP_NUM_THREADS=1 python benchmarks/active.py [--seeds 20] [--out benchmarks/results/active.json]

Three worlds that were fixed before any way of choosing was written (active_worlds.py), with simulated raters; and human
comparisons replayed: a pool of HH pairs as hashed words and length, each with the one label that it has. The reward is
linear on these features, refitted after every batch; every way starts from the same random labels. Intervals are over
seeds, by resampling them. "random again" is random beside random: differences that are chance alone.
"""

import argparse
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from active_worlds import BATCH, FIRST, LABELS, WORLDS, Floats, World
from hh import load_pairs
from paired import write
from words import length_gap, words

from clew.feedback.active import SELECTIONS, Posterior, at_random, fitted

RESAMPLES = 2000
REACHED, WORSE = 0.75, -0.01
"""Share of random's labels that must be enough; and how far below random, at equal labels, one may never be."""

Way = Callable[[Floats, Posterior, int, np.random.Generator], np.ndarray]


class Setting(NamedTuple):
    """A world with the labels that are drawn at random first, asked for at a time, and asked for in all."""

    make: Callable[[int], tuple[World, Floats]]
    """World and labels of a seed."""
    first: int
    batch: int
    labels: int
    prior: float


def at_random_again(pool: Floats, known: Posterior, num: int, rng: np.random.Generator) -> np.ndarray:
    """Random against random: what is chance alone."""
    return rng.permutation(len(pool))[-num:]


WAYS: dict[str, Way] = {"random": at_random, "random again": at_random_again, **SELECTIONS}


def curve(setting: Setting, way: Way, seed: int) -> list[float]:
    """Accuracy after each batch."""
    world, label_N = setting.make(seed)
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(label_N))
    asked, left = order[: setting.first], order[setting.first :]
    found: list[float] = []
    while True:
        known = fitted(world.pool_ND[asked], label_N[asked], prior=setting.prior)
        found.append(world.accuracy(known.mean_D))
        num = min(setting.batch, setting.labels - len(asked))
        if num <= 0:
            return found
        picked = way(world.pool_ND[left], known, num, rng)
        asked, left = np.concatenate([asked, left[picked]]), np.delete(left, picked)


def invented(name: str) -> Setting:
    def make(seed: int) -> tuple[World, Floats]:
        rng = np.random.default_rng(seed)
        world = WORLDS[name](rng)
        return world, (rng.random(len(world.chance_N)) < world.chance_N).astype(float)

    return Setting(make, FIRST, BATCH, LABELS, 0.3)


def replayed(file: str) -> Setting:
    """Pairs of HH, the answers in random order; a third of the first turns, another for each seed, measures."""
    pairs = load_pairs(file, file)
    gaps = hashed([p.texts for p in pairs])

    def make(seed: int) -> tuple[World, Floats]:
        rng = np.random.default_rng([seed, 2])
        turn = rng.choice([-1.0, 1.0], size=len(pairs))
        firsts = sorted({p.first for p in pairs})
        tested = set(rng.permutation(len(firsts))[: len(firsts) // 3])
        number = {first: i for i, first in enumerate(firsts)}
        is_test = np.array([number[p.first] in tested for p in pairs])
        turned = gaps * turn[:, None]
        label = (turn > 0).astype(float)
        test, pool = turned[is_test], turned[~is_test]
        world = World(pool, label[~is_test], test, turn[is_test], np.full(len(test), 1 / len(test)))
        return world, label[~is_test]

    return Setting(make, 100, 100, 1000, 1.0)


def hashed(texts: Sequence[tuple[str, str]], width: int = 256) -> Floats:
    """Tf-idf of words, hashed with signs, and the log of the ratio of lengths: first minus second, [N, width + 1]."""
    documents = [Counter(words(text)) for pair in texts for text in pair]
    frequency = Counter(word for document in documents for word in document)
    table = np.zeros((len(documents), width))
    for row, document in zip(table, documents, strict=True):
        for word, count in document.items():
            code = crc32(word.encode())
            rarity = 1 + np.log((1 + len(documents)) / (1 + frequency[word]))
            row[code % width] += (1 if code >> 31 else -1) * (1 + np.log(count)) * rarity
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    return np.hstack([table[::2] - table[1::2], length_gap(texts)])


def compared(curves: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """Each way beside random: curves, the worst difference at equal labels, and the share of labels that it needs, with
    its interval; None where random's accuracy is not reached.
    """
    rng = np.random.default_rng(0)
    num = len(curves["random"])
    draws = [np.arange(num), *rng.integers(num, size=(RESAMPLES, num))]
    random = np.array([curves["random"][d].mean(0) for d in draws])
    result: dict[str, Any] = {"labels": labels.tolist(), "random": random[0].round(4).tolist()}
    for name, found in curves.items():
        if name == "random":
            continue
        ours = np.array([found[d].mean(0) for d in draws])
        share = np.array([reached(o, r[-1], labels) / labels[-1] for o, r in zip(ours, random, strict=True)])
        gain = ours - random
        worst = int(gain[0].argmin())
        final = np.quantile(gain[1:, -1], (0.025, 0.975))
        enough = np.quantile(share[1:], (0.025, 0.975), method="higher")
        result[name] = {
            "curve": ours[0].round(4).tolist(),
            "worst_difference": round(float(gain[0, worst]), 4),
            "worst_difference_low": round(float(np.quantile(gain[1:, worst], 0.025)), 4),
            "at_labels": int(labels[worst]),
            "final_difference": [round(float(x), 4) for x in (gain[0, -1], *final)],
            "share_of_labels": [round(float(x), 3) if np.isfinite(x) else None for x in (share[0], *enough)],
        }
    return result


def reached(curve: np.ndarray, target: float, labels: np.ndarray) -> float:
    """Labels at which a mean curve first is at the target, between batches on a straight line; infinite if never."""
    above = np.flatnonzero(curve >= target)
    if not len(above):
        return np.inf
    i = int(above[0])
    if i == 0:
        return float(labels[0])
    part = (target - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(labels[i - 1] + part * (labels[i] - labels[i - 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="Of a world; three times as many of a replayed pool.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/active.json"))
    options = parser.parse_args()
    settings = {name: invented(name) for name in WORLDS}
    if os.environ.get("CLEW_DATA"):
        settings |= {f"hh {name}": replayed(f"{name}-base") for name in ("harmless", "helpful")}
    began, results = time.process_time(), dict[str, Any]()
    for name, setting in settings.items():
        labels = np.array([*range(setting.first, setting.labels, setting.batch), setting.labels])
        seeds = range(options.seeds * (1 if name in WORLDS else 3))  # human labels are noisier
        curves = {w: np.array([curve(setting, f, seed) for seed in seeds]) for w, f in WAYS.items()}
        results[name] = compared(curves, labels)
        for way in list(WAYS)[1:]:
            row = results[name][way]
            told = f"worst {row['worst_difference']:+.3f} at {row['at_labels']}, labels {row['share_of_labels']}"
            print(f"{name:16} {way:22} final {row['final_difference']}, {told}", flush=True)
    about = {
        "versions": {p: version(p) for p in ("clew", "numpy", "scipy")} | {"python": platform.python_version()},
        "seeds": options.seeds,
        "cpu_minutes": round((time.process_time() - began) / 60, 1),
        "wanted": {"share_of_labels": REACHED, "never_below": WORSE},
        "worlds": results,
    }
    write(options.out, "OMP_NUM_THREADS=1 python benchmarks/active.py", about)


if __name__ == "__main__":
    main()
