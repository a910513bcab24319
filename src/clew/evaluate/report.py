"""One self-contained HTML file of a run or of a pipeline: what became better, by how much, and what to worry about."""

import html
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clew import __version__
from clew.durable import read_rows

Point = Mapping[str, Any]

COLOURS = ("#3b6fb6", "#d1495b", "#2f9e6e", "#b0772b", "#7a5ba8", "#4aa3b5")
CURVES = (
    "loss/nll",
    "loss/rank",
    "accuracy",
    "loss/pair",
    "rewards/accuracies",
    "objective/scores",
    "objective/kl",
    "completions/mean_length",
    "policy/entropy_avg",
)
"""What is plotted of a stage's metrics, as far as it has them."""

STYLE = """
:root { --ink: #1d2530; --soft: #5c6773; --line: #e3e7ec; --wash: #f7f8fa; }
* { box-sizing: border-box }
body { margin: 0; color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif }
main { max-width: 1060px; margin: 0 auto; padding: 40px 28px 80px }
h1 { font-size: 30px; margin: 0 0 4px; letter-spacing: -.01em }
h2 { font-size: 20px; margin: 44px 0 10px }
h3 { font-size: 15px; margin: 22px 0 6px }
p, li { max-width: 72ch }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: 7px 12px 7px 0; text-align: left; vertical-align: top }
th { font-weight: 600; color: var(--soft); vertical-align: bottom }
figure { margin: 14px 0 }
figure svg { max-width: 100%; height: auto }
details { margin: 10px 0 }
summary { cursor: pointer; font-weight: 600 }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; overflow: auto }
.soft { color: var(--soft) }
.wide { overflow-x: auto }
.badge { border-radius: 9px; padding: 0 9px; font-size: 12.5px; font-weight: 600; color: #fff; white-space: nowrap }
.ok { background: #2f9e6e } .watch { background: #b0772b } .alarm { background: #c8324a }
.headline { background: var(--wash); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px }
.headline p { margin: 4px 0; max-width: none }
.sample { border: 1px solid var(--line); border-radius: 10px; margin: 14px 0; overflow: hidden }
.sample .prompt { background: var(--wash); padding: 9px 14px; font-weight: 600 }
.sample .answer { padding: 9px 14px; border-top: 1px solid var(--line) }
.sample .who { display: inline-block; min-width: 130px; color: var(--soft); font-size: 13px }
.sample .text { white-space: pre-wrap }
.scores { color: var(--soft); font-size: 12.5px; font-variant-numeric: tabular-nums }
"""


def write_report(folder: Path | str, target: Path | str) -> Path:
    """Write the report of a run directory, or of a directory of runs, to `target`. Returns `target`.

    Raises ValueError when there is no run in `folder`.
    """
    folder, target = Path(folder), Path(target)
    runs = find_runs(folder)
    if not runs:
        raise ValueError(f"{folder} holds no run (no run.json in it or one level below); expected a run's directory")
    evaluations = [json.loads((r / "evaluation.json").read_text()) for r in runs if (r / "evaluation.json").exists()]
    body = [f"<h1>{_text(folder.resolve().name)}</h1>", f'<p class="soft">clew {__version__} · {len(runs)} runs</p>']
    for evaluation in evaluations:
        body += _evaluation(evaluation["points"], evaluation["prompts"], evaluation["temperature"])
    body += _samples([row for r in runs if (r / "evaluation.json").exists() for row in read_rows(r / "samples.jsonl")])
    body += [*_training(runs), *_ledger(runs), *_notes(runs), *_configurations(runs)]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(folder.name)} · clew</title>"
    page += "<meta name=viewport content='width=device-width,initial-scale=1'>"
    target.write_text(f"{page}<style>{STYLE}</style><main>{''.join(body)}</main></html>\n", encoding="utf-8")
    return target


def find_runs(folder: Path) -> list[Path]:
    """Run directories: the folder itself, or those right below it, in the order in which they were begun."""
    if (folder / "run.json").exists():
        return [folder]
    return sorted((f.parent for f in folder.glob("*/run.json")), key=lambda f: (f / "config.yaml").stat().st_mtime)


def _evaluation(points: Sequence[Point], prompts: int, temperature: float) -> list[str]:
    final = [p for p in points if p["final"]]
    judged = [p for p in final if "gain" in p]
    body = ["<h2>What became better</h2>", '<div class="headline">', *(_headline(p) for p in judged), "</div>"]
    rows = [
        [
            _text(p["policy"]),
            _interval(p.get("gold")),
            _interval(p.get("gain"), signed=True) if p["policy"] != "baseline" else "",
            _interval(p.get("win_rate"), percent=True) if p["policy"] != "baseline" else "",
            _interval(p["proxy"]),
            _interval(p["kl"]),
            f"{p['length']['value']:.1f}",
            _badge(p["verdict"]) if p["policy"] != "baseline" else "",
        ]
        for p in final
    ]
    head = ["policy", "gold", "gain on the start", "wins", "proxy", "KL, nats", "tokens", "alarms"]
    body.append(_table(head, rows))
    body.append(
        f'<p class="soft">{prompts} held-out prompts, one answer each, at temperature {temperature:g}. Gold is the '
        "independent judge that training never saw; proxy is the reward it was trained on. Brackets: 95 % bootstrap "
        "intervals over prompts; gain and wins are paired, prompt by prompt.</p>"
    )
    body += ["<h2>Reward against KL</h2>", _figure(frontier(points)), *_alarms(final)]
    return body


def _headline(point: Point) -> str:
    if point["policy"] == "baseline":
        return ""
    gain, alarms = point["gain"], [f["rule"] for f in point["findings"] if f["state"] == "alarm"]
    better = (
        "better than the start"
        if gain["low"] > 0
        else "worse than the start"
        if gain["high"] < 0
        else "no clear change"
    )
    text = f"<b>{_text(point['policy'])}</b>: {better} on gold ({_interval(gain, signed=True)})"
    if alarms:
        text += f" — <span class='badge alarm'>alarm</span> {_text(', '.join(alarms))}: read its samples below"
    return f"<p>{text}</p>"


def _alarms(final: Sequence[Point]) -> list[str]:
    found = [p for p in final if p["policy"] != "baseline"]
    if not found:
        return []
    rules = [f["rule"] for f in found[0]["findings"]]
    cells = {(p["policy"], f["rule"]): f for p in found for f in p["findings"]}
    rows = []
    for rule in rules:
        one = cells[found[0]["policy"], rule]
        states = [cells[p["policy"], rule] for p in found]
        marks = [f"{_badge(cell['state'])}&nbsp;{cell['value']:.2f}" for cell in states]
        rows.append(
            [
                f"<b>{rule}</b><br><span class=soft>{_text(one['says'])}</span>",
                *marks,
                f"{one['watch']} / {one['alarm']}",
            ]
        )
    head = ["rule", *(_text(p["policy"]) for p in found), "watch / alarm above"]
    says = (
        '<p class="soft">Computed without the gold reward, each against the start. An audit, not a prophecy: an alarm '
        "says where to look, silence is no proof.</p>"
    )
    return ["<h2>Alarms</h2>", _table(head, rows), says]


def frontier(points: Sequence[Point]) -> Figure:
    """Gold and proxy against the square root of KL, a line a policy, a dot a checkpoint."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.1), constrained_layout=True)
    names = list(dict.fromkeys(p["policy"] for p in points if p["policy"] != "baseline"))
    start = [p for p in points if p["policy"] == "baseline"][:1]
    for axis, key, title in zip(
        axes, ("gold", "proxy"), ("gold: what we wanted", "proxy: what was optimised"), strict=True
    ):
        for colour, name in zip(COLOURS * 9, names, strict=False):
            _line(axis, [*start, *(p for p in points if p["policy"] == name)], key, name, colour)
        axis.set(title=title, xlabel="√KL to the start, √nats", ylabel="reward")
        axis.axhline(start[0][key]["value"] if start and key in start[0] else 0, color="#999", lw=0.8, ls=":")
        _plain(axis)
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def _line(axis: Axes, points: Sequence[Point], key: str, name: str, colour: str) -> None:
    found = [p for p in points if key in p and math.isfinite(p[key]["value"])]
    # A run's model and its last checkpoint are one; in order of steps, the model (-1) last.
    found.sort(key=lambda p: (p["policy"] != "baseline", p["step"] < 0, p["step"]))
    x = [math.sqrt(max(p["kl"]["value"], 0)) for p in found]
    y = [p[key]["value"] for p in found]
    error = [[p[key]["value"] - p[key]["low"] for p in found], [p[key]["high"] - p[key]["value"] for p in found]]
    axis.errorbar(x, y, yerr=error, color=colour, marker="o", ms=4.5, lw=1.6, elinewidth=0.9, capsize=2, label=name)


def _samples(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    by_prompt: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_prompt[row["prompt"]].append(row)
    body = ["<h2>Samples, before and after</h2>"] if rows else []
    for prompt, answers in by_prompt.items():
        body.append(f'<div class="sample"><div class="prompt">{_text(prompt)}</div>')
        for row in answers:
            gold = f" · gold {row['gold']:.2f}" if row.get("gold") is not None else ""
            body.append(
                f'<div class="answer"><span class="who">{_text(row["policy"])}</span>'
                f'<span class="scores">proxy {row["proxy"]:.2f}{gold}</span>'
                f'<div class="text">{_text(row["text"].strip())}</div></div>'
            )
        body.append("</div>")
    return body


def _training(runs: Sequence[Path]) -> list[str]:
    body: list[str] = []
    for run in runs:
        rows = read_rows(run / "metrics.jsonl")
        shown = [name for name in CURVES if sum(name in row for row in rows) > 1]
        if shown:
            body += [f"<h3>{_text(run.name)}</h3>", _figure(curves(rows, shown))]
    return ["<h2>Training</h2>", *body] if body else []


def curves(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> Figure:
    """Metrics of a run over its steps, a panel each."""
    figure, axes = plt.subplots(1, len(names), figsize=(2.6 * len(names), 2.1), constrained_layout=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        found = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*found, strict=True), color=COLOURS[0], lw=1.1)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        _plain(axis)
    return figure


def _ledger(runs: Sequence[Path]) -> list[str]:
    rows: list[list[str]] = []
    keys = ("tokens_generated", "tokens_trained", "flops", "labels/person", "labels/model", "labels/program")
    total: dict[str, float] = defaultdict(float)
    for run in runs:
        info = json.loads((run / "run.json").read_text())
        ledger = info.get("ledger", {})
        times = [ledger.get(k, 0.0) for k in ("wall_seconds", "cpu_seconds")]
        rows.append(
            [
                _text(run.name),
                _text(info["state"]),
                *(_count(ledger.get(k)) for k in keys),
                *(f"{t:.0f}" for t in times),
            ]
        )
        for key in (*keys, "wall_seconds", "cpu_seconds"):
            total[key] += ledger.get(key, 0)
    rows.append(
        [
            "<b>all</b>",
            "",
            *(_count(total[k]) for k in keys),
            *(f"{total[k]:.0f}" for k in ("wall_seconds", "cpu_seconds")),
        ]
    )
    head = [
        "run",
        "state",
        "tokens sampled",
        "tokens trained",
        "FLOPs",
        "labels: people",
        "models",
        "programs",
        "wall s",
        "CPU s",
    ]
    return ["<h2>Ledger</h2>", _table(head, rows)]


def _notes(runs: Sequence[Path]) -> list[str]:
    notes = [f"<li><b>{_text(r.name)}</b>: {_text(n['note'])}</li>" for r in runs for n in read_rows(r / "notes.jsonl")]
    return ["<h2>Notes of the runs</h2><ul>", *notes, "</ul>"] if notes else []


def _configurations(runs: Sequence[Path]) -> list[str]:
    body = ["<h2>Configuration</h2>"]
    for run in runs:
        text = (run / "config.yaml").read_text(encoding="utf-8")
        body.append(f"<details><summary>{_text(run.name)}</summary><pre>{_text(text)}</pre></details>")
    return body



def _figure(figure: Figure) -> str:
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, lw=0.6)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{lines}</table></div>'


def _interval(found: Mapping[str, float] | None, *, signed: bool = False, percent: bool = False) -> str:
    if found is None or "low" not in found:
        return "–"
    scale, digits, sign = (100, 0, "") if percent else (1, 2, "+" if signed else "")
    value, low, high = (f"{found[k] * scale:{sign}.{digits}f}" for k in ("value", "low", "high"))
    return f"{value}{' %' if percent else ''} <span class=soft>[{low}, {high}]</span>"


def _badge(state: str) -> str:
    return f'<span class="badge {state}">{state}</span>'


def _count(value: float | None) -> str:
    if not value:
        return ""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def _text(value: object) -> str:
    return html.escape(str(value))
