"""What each round of a loop brought: how much better the reward model became, how far raters agreed, what it cost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from clew.outcome import result


class Round(NamedTuple):
    """Example: `Round(2, 64, 0.81, 12.8, 0.71, 0.74)`"""

    number: int
    labels: int
    agreement: float | None
    """Share of pairs of answers to one question that say the same; None where nobody was asked the same."""
    cost: float
    before: float | None
    """Accuracy on held-out pairs of the reward model that chose the questions; None where there was none."""
    after: float | None
    """Of the one that learnt from the answers; None where none has yet."""

    @property
    def gain(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def labels_a_point(self) -> float | None:
        """For a percentage point of accuracy; None where nothing was gained."""
        return self.labels / (100 * self.gain) if self.gain and self.gain > 0 else None

    @property
    def cost_a_point(self) -> float | None:
        return self.cost / (100 * self.gain) if self.cost and self.gain and self.gain > 0 else None


def rounds(runs: Sequence[Path]) -> list[Round]:
    """Of the runs that asked, in order; the reward models are found by what they learnt from."""
    configs = {run: yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) for run in runs}
    asking = [run for run in runs if _recipe(run) == "ask" and (run / "result.json").exists()]
    found: list[Round] = []
    for run in asking:
        about = result(run)["round"]
        learnt = [r for r in runs if _recipe(r) == "reward" and _is_in(configs[r]["data"]["path"], run)]
        reward = configs[run]["reward"]
        before = None if reward is None else _accuracy(Path(reward).parent)
        after = _accuracy(learnt[0]) if learnt else None
        found.append(Round(about["number"], about["labels"], about["agreement"], about["cost"], before, after))
    return sorted(found)


def told(one: Round) -> str:
    """Example: `round 2: 64 answers, agreement 81 %, accuracy 71.0 % -> 74.0 %, 21 answers a point`."""
    said = [f"{one.labels} answers"]
    said += [] if one.agreement is None else [f"agreement {100 * one.agreement:.0f} %"]
    if one.after is not None:
        start = "" if one.before is None else f"{100 * one.before:.1f} % -> "
        said.append(f"accuracy {start}{100 * one.after:.1f} %")
    said += [f"{one.labels_a_point:.0f} answers a point"] if one.labels_a_point is not None else []
    said += [f"cost {one.cost:g}"] if one.cost else []
    said += [f"{one.cost_a_point:.2f} a point"] if one.cost_a_point is not None else []
    return f"round {one.number}: {', '.join(said)}"


def _recipe(run: Path) -> str:
    return json.loads((run / "run.json").read_text()).get("recipe", "")


def _accuracy(run: Path) -> float | None:
    return result(run).get("heldout", {}).get("accuracy")


def _is_in(path: str, folder: Path) -> bool:
    return Path(path).resolve().is_relative_to(folder.resolve())
