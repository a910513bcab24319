"""How far a proxy can be pushed: gold reward against √KL when a reward model of few labels is optimised.

    CLEW_DATA=... python benchmarks/overoptimisation.py [--seeds 3] [--folder runs/frontier]

Every seed has labels and a reward model of its own (the proxy), all from the SFT model of frontier.py. Best-of-n by the
proxy is exact for every n, from 64 answers to each held-out prompt; reinforcement learning is PPO on the proxy
without a penalty, its checkpoints measured on the same prompts. With d = √KL and R the gain of gold on the SFT model,
the forms of Gao et al. (arXiv 2210.10760, eq. 1), R = d (α - β d) for best-of-n and R = d (α - β ln d) for RL, are
fitted by least squares to all seeds' points. The proxy has spread 1 on its first training answers.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import frontier
import numpy as np
import paired

RESULT = Path(__file__).parent / "results" / "overoptimisation.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "overoptimisation.png"
LABELS, ANSWERS, STEPS = 256, 64, 72
Curve = Sequence[Mapping[str, float]]
"""Points with d, gold and proxy, both as gains on the SFT model."""

FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"best of n": lambda d: d, "PPO": np.log}
"""What β is multiplied with, beside d."""


def proxy_of(place: frontier.Place) -> str:
    """A reward model of `LABELS` pairs."""
    pairs = {"path": str(place.labels() / "pairs.jsonl"), "limit": LABELS}
    learner = {"lr": 1e-3, "warmup": 0.05, "max_tokens": 4096}
    folder = place.run(
        f"proxy-{place.seed}", "reward", model=place.sft, data=pairs, epochs=2, batch=32, learner=learner
    )
    return str(folder / "model")


def by_search(place: frontier.Place) -> Curve:
    """Best of n by the proxy."""
    from clew.data.stories import happy_ending
    from clew.judges.score import RewardSource, make_reward
    from clew.models.load import load_policy

    rollouts = frontier.sampled(place.folder, ANSWERS)
    reward = make_reward([RewardSource(model=proxy_of(place))], load_policy(place.sft))
    proxy = np.array([score.value for score in reward(rollouts)]).reshape(-1, ANSWERS)
    gold = np.array(happy_ending([r.prompt for r in rollouts], [r.text for r in rollouts])).reshape(-1, ANSWERS)
    both = zip(frontier.means_of_best(gold, proxy), frontier.means_of_best(proxy, proxy), strict=True)
    return [
        {
            "n": ours["n"], "d": ours["kl"] ** 0.5, "gold": ours["gold"] - float(gold.mean()),
            "proxy": theirs["gold"] - float(proxy.mean()),
        }
        for ours, theirs in both
    ]  # fmt: skip


def by_learning(place: frontier.Place) -> Curve:
    """PPO on the proxy without a penalty."""
    proxy, every = proxy_of(place), STEPS // 12
    critic = {"model": place.sft, "learner": {"lr": 1e-3, **frontier.CONSTANT}}
    run = place.run(
        f"pushed-{place.seed}", "rl", model=place.sft, data=place.rows("prompts"), reward=[{"model": proxy}],
        critic=critic, whiten_advantages=True, minibatches=2, kl={"coefficient": 0.0},
        prompts=frontier.ROLLOUTS // 4, group=4, steps=STEPS, save_every=every, keep=None,
        missing_eos={"how": "replace", "value": -4.0}, learner={"lr": 3e-4, **frontier.CONSTANT},
    )  # fmt: skip
    measured = place.run(
        f"pushed-{place.seed}-measured", "evaluate", baseline=place.sft, policies={"pushed": str(run)}, proxy=proxy,
        data=place.rows("heldout"), gold=frontier.GOLD,
    )  # fmt: skip
    start, *points = json.loads((measured / "evaluation.json").read_text())["points"]
    return [
        {
            "step": p["step"], "d": max(p["kl"]["value"], 0.0) ** 0.5,
            "gold": p["gold"]["value"] - start["gold"]["value"], "proxy": p["proxy"]["value"] - start["proxy"]["value"],
        }
        for p in points if not p["final"]
    ]  # fmt: skip


def fitted(curves: Sequence[Curve], form: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """α and β of R = d (α - β form(d)), the share of R's variance that they explain, and where the form is highest."""
    d, gold = (np.array([p[key] for curve in curves for p in curve if p["d"] > 0]) for key in ("d", "gold"))
    terms = np.stack([d, -d * form(d)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(terms, gold, rcond=None)
    left = gold - terms @ (alpha, beta)
    grid = np.linspace(0.01, 2 * float(d.max()), 2000)
    top = float(grid[(grid * (alpha - beta * form(grid))).argmax()])
    return {"alpha": float(alpha), "beta": float(beta), "r2": 1 - float(left.var() / gold.var()), "highest_at": top}


def draw(found: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5))
    for axis, (name, each) in zip(axes, found.items(), strict=True):
        for number, points in enumerate(each["curves"]):
            d = [p["d"] for p in points]
            axis.plot(d, [p["proxy"] for p in points], "C1.:", label=None if number else "proxy")
            axis.plot(d, [p["gold"] for p in points], "C0o", ms=3, label=None if number else "gold")
        grid = np.linspace(0.01, max(p["d"] for points in each["curves"] for p in points), 200)
        form = grid * (each["fit"]["alpha"] - each["fit"]["beta"] * FORMS[name](grid))
        axis.plot(grid, form, "C0-", label=f"form of Gao et al., R² {each['fit']['r2']:.2f}")
        axis.set(title=name, xlabel="√KL to the SFT model", ylabel="gain on the SFT model")
        axis.axhline(0, color="0.7", lw=0.8, zorder=0)
        axis.legend(frameon=False)
    figure.savefig(file, dpi=130, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/frontier"))
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    frontier.prepare(asked.folder)
    places = [frontier.Place(asked.folder, seed, "pushed") for seed in range(asked.seeds)]
    curves = {"best of n": [by_search(p) for p in places], "PPO": [by_learning(p) for p in places]}
    found = {name: {"curves": each, "fit": fitted(each, FORMS[name])} for name, each in curves.items()}
    versions = {name: version(name) for name in ("clew", "torch", "transformers")}
    paired.write(RESULT, "python benchmarks/overoptimisation.py", {"versions": versions, "labels": LABELS, **found})
    draw(found, FIGURE)
    for name, each in found.items():
        print(name, {key: round(value, 3) for key, value in each["fit"].items()})


if __name__ == "__main__":
    main()
