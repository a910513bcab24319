"""Figures of the report, as SVG that stands in the page: reward against KL, metrics over steps."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Point = Mapping[str, Any]

COLOURS = ("#3b6fb6", "#d1495b", "#2f9e6e", "#b0772b", "#7a5ba8", "#4aa3b5")


def frontier(points: Sequence[Point], judges: Sequence[str]) -> str:
    """Each judge in a panel, against the square root of KL: a line a policy, a dot a checkpoint."""
    figure, axes = plt.subplots(
        1, len(judges), figsize=(5.25 * len(judges), 4.1), constrained_layout=True, squeeze=False
    )
    names = list(dict.fromkeys(p["policy"] for p in points if p["policy"] != "baseline"))
    start = [p for p in points if p["policy"] == "baseline"][:1]
    for axis, key in zip(axes[0], judges, strict=True):
        for colour, name in zip(COLOURS * 9, names, strict=False):
            _line(axis, [*start, *(p for p in points if p["policy"] == name)], key, name, colour)
        axis.set(title=key, xlabel="√KL to the start, √nats", ylabel="reward")
        axis.axhline(start[0][key]["value"] if start and key in start[0] else 0, color="#999", lw=0.8, ls=":")
        _plain(axis)
    axes[0, 0].legend(frameon=False, fontsize=9)
    return _svg(figure)


def _line(axis: Axes, points: Sequence[Point], key: str, name: str, colour: str) -> None:
    found = [p for p in points if key in p and math.isfinite(p[key]["value"])]
    # A run's model and its last checkpoint are one; in order of steps, the model (-1) last.
    found.sort(key=lambda p: (p["policy"] != "baseline", p["step"] < 0, p["step"]))
    x = [math.sqrt(max(p["kl"]["value"], 0)) for p in found]
    y = [p[key]["value"] for p in found]
    error = [[p[key]["value"] - p[key]["low"] for p in found], [p[key]["high"] - p[key]["value"] for p in found]]
    axis.errorbar(x, y, yerr=error, color=colour, marker="o", ms=4.5, lw=1.6, elinewidth=0.9, capsize=2, label=name)


def curves(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> str:
    """Metrics of a run over its steps, a panel each."""
    figure, axes = plt.subplots(1, len(names), figsize=(2.6 * len(names), 2.1), constrained_layout=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        found = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*found, strict=True), color=COLOURS[0], lw=1.1)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        _plain(axis)
    return _svg(figure)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, lw=0.6)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"
