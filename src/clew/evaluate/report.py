"""One self-contained HTML file of a run or of a pipeline: what became better, by how much, and what to worry about."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clew import __version__
from clew.durable import read_rows
from clew.evaluate.figures import Point, curves, frontier
from clew.evaluate.markup import STYLE, amount, badge, counted, escaped, interval, table
from clew.evaluate.rounds import rounds
from clew.outcome import heldout, result

CURVES = (
    "loss/nll",
    "loss/rank",
    "accuracy",
    "loss/pair",
    "loss/distill",
    "rewards/accuracies",
    "objective/scores",
    "objective/kl",
    "completions/mean_length",
    "policy/entropy_avg",
)
"""What is plotted of a stage's metrics, as far as it has them."""
JUDGES = {"gold": ("gain", "win_rate"), "proxy": ("proxy_gain", "proxy_win_rate")}
"""Who may have judged, and what an evaluation calls the gain and the wins by them."""


def write_report(folder: Path | str, target: Path | str) -> Path:
    """Write the report of a run directory, or of a directory of runs, to `target`. Returns `target`.

    Raises ValueError when there is no run in `folder`.
    """
    folder, target = Path(folder), Path(target)
    runs = find_runs(folder)
    if not runs:
        raise ValueError(f"{folder} holds no run (no run.json in it or one level below); expected a run's directory")
    evaluated = [r for r in runs if (r / "evaluation.json").exists()]
    body = [
        f"<h1>{escaped(folder.resolve().name)}</h1>",
        f'<p class="soft">clew {__version__} · {counted(len(runs), "run")}</p>',
    ]
    for run in evaluated:
        body += _evaluation(json.loads((run / "evaluation.json").read_text(encoding="utf-8")))
    body += [
        *_heldout(runs),
        *_rounds(runs),
        *_raters(runs),
        *_samples([row for r in evaluated for row in read_rows(r / "samples.jsonl")]),
    ]
    body += [*_training(runs), *_ledger(runs), *_notes(runs), *_configurations(runs)]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escaped(folder.name)} · clew</title>"
    page += "<meta name=viewport content='width=device-width,initial-scale=1'>"
    target.write_text(f"{page}<style>{STYLE}</style><main>{''.join(body)}</main></html>\n", encoding="utf-8")
    return target


def find_runs(folder: Path) -> list[Path]:
    """Run directories: the folder itself, or those right below it, in the order in which they were begun.

    Stages that write reports have nothing to report.
    """
    if (folder / "run.json").exists():
        return [folder]
    found = (f.parent for f in folder.glob("*/run.json") if json.loads(f.read_text()).get("recipe") != "report")
    return sorted(found, key=lambda f: (f / "config.yaml").stat().st_mtime)


def _evaluation(found: Mapping[str, Any]) -> list[str]:
    final = [p for p in found["points"] if p["final"]]
    policies = [p for p in final if p["policy"] != "baseline"]
    judges = [judge for judge in JUDGES if any(judge in p for p in final)]
    lines = [*(_headline(p) for p in policies), *(_warning(text) for text in found.get("warnings", ()))]
    said = [
        f"{counted(found['prompts'], 'held-out prompt')}, one answer each, at temperature {found['temperature']:g}.",
        *found.get("judges", ()),
        "Brackets: 95 % bootstrap intervals over prompts; gain and wins are paired, prompt by prompt.",
    ]
    box = ['<div class="headline">', *lines, "</div>"] if lines else []
    body = ["<h2>What became better</h2>", *box, _policies(final, judges)]
    body.append(f'<p class="soft">{escaped(" ".join(said))}</p>')
    if judges:
        body += ["<h2>Reward against KL</h2>", frontier(found["points"], judges)]
    return [*body, *_alarms(policies)]


def _headline(point: Point) -> str:
    """By gold, or else by the proxy."""
    judge = next((judge for judge, (gain, _) in JUDGES.items() if gain in point), None)
    if judge is None:
        text = "no judge was asked; read its samples below"
    else:
        gain = point[JUDGES[judge][0]]
        better = (
            "better than the start"
            if gain["low"] > 0
            else "worse than the start"
            if gain["high"] < 0
            else "no clear change"
        )
        text = f"{better} on {'the ' * (judge == 'proxy')}{judge} ({interval(gain, signed=True)})"
    alarms = [f["rule"] for f in point["findings"] if f["state"] == "alarm"]
    if alarms:
        text += f" — {badge('alarm')} {escaped(', '.join(alarms))}: read its samples below"
    return f"<p><b>{escaped(point['policy'])}</b>: {text}</p>"


def _warning(text: str) -> str:
    return f"<p>{badge('watch')} {escaped(text)}</p>"


def _policies(final: Sequence[Point], judges: Sequence[str]) -> str:
    """A line a policy. Gains and wins are by the first judge, where there are two."""
    gain, wins = JUDGES[judges[0]] if judges else ("", "")
    head = ["policy", *judges, "KL, nats", "tokens", "ended", "alarms"]
    head[2:2] = [f"gain in {judges[0]}", "wins"] if judges else []
    rows: list[list[str]] = []
    for p in final:
        is_policy = p["policy"] != "baseline"
        compared = [interval(p.get(gain), signed=True), interval(p.get(wins), percent=True)] if is_policy else ["", ""]
        cells = [escaped(p["policy"]), *(interval(p.get(judge)) for judge in judges)]
        cells[2:2] = compared if judges else []
        cells += [interval(p["kl"]), f"{p['length']['value']:.1f}", f"{100 * p['ended']:.0f} %"]
        rows.append([*cells, badge(p["verdict"]) if is_policy else ""])
    return table(head, rows)


def _alarms(policies: Sequence[Point]) -> list[str]:
    if not policies:
        return []
    cells = {(p["policy"], f["rule"]): f for p in policies for f in p["findings"]}
    rows: list[list[str]] = []
    for one in policies[0]["findings"]:
        found = [cells[p["policy"], one["rule"]] for p in policies]
        rule = f"<b>{one['rule']}</b><br><span class=soft>{escaped(one['says'])}</span>"
        limits = f"{one['watch']} / {'–' if one['alarm'] is None else one['alarm']}"
        rows.append([rule, *(_mark(finding) for finding in found), limits])
    head = ["rule", *(escaped(p["policy"]) for p in policies), "watch / alarm above"]
    says = (
        '<p class="soft">Computed without the gold reward, each against the start. An audit, not a prophecy: an alarm '
        "says where to look, silence is no proof. What is not measured needs <code>heldout</code>: reward models that "
        "were not trained on, one for the gap, two for disagreement; and the gap a proxy.</p>"
    )
    return ["<h2>Alarms</h2>", table(head, rows), says]


def _mark(finding: Mapping[str, Any]) -> str:
    value = "" if finding["value"] is None else f"&nbsp;{finding['value']:z.2f}"
    return badge(finding["state"]) + value


def _heldout(runs: Sequence[Path]) -> list[str]:
    rows = [[escaped(run.name), escaped(found)] for run in runs if (found := heldout(run))]
    return ["<h2>On held-out rows</h2>", table(["run", "its model"], rows)] if rows else []


def _rounds(runs: Sequence[Path]) -> list[str]:
    found = rounds(runs)
    if not found:
        return []
    head = ["round", "answers", "agreement", "accuracy before", "after", "gain, points", "answers a point"]
    rows = [
        [
            *(str(r.number), str(r.labels), *(_percent(x) for x in (r.agreement, r.before, r.after))),
            "" if r.gain is None else f"{100 * r.gain:+z.1f}",
            amount(r.labels_a_point),
            *(f"{x:.2f}" if x else "" for x in (r.cost, r.cost_a_point)),
        ]
        for r in found
    ]
    says = "Accuracy of the reward model on held-out pairs, before and after it learnt from the answers."
    return [
        "<h2>Rounds of asking</h2>",
        table([*head, "cost", "cost a point"], rows),
        f'<p class="soft">{says}</p>',
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _raters(runs: Sequence[Path]) -> list[str]:
    known = {run.name: found for run in runs if (found := result(run).get("raters"))}
    if not known:
        return []
    names = sorted({name for found in known.values() for name in found})
    rows = [[escaped(n), *(_percent(found.get(n)) for found in known.values())] for n in names]
    says = (
        '<p class="soft">Probability that a rater is right, learnt with the scores (crowd_bt). Below 50 %, labels are '
        "used the other way round.</p>"
    )
    return ["<h2>Raters</h2>", table(["rater", *map(escaped, known)], rows), says]


def _samples(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    by_prompt: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_prompt[row["prompt"]].append(row)
    body = ["<h2>Samples, before and after</h2>"] if rows else []
    for prompt, answers in by_prompt.items():
        body.append(f'<div class="sample"><div class="prompt">{escaped(prompt)}</div>')
        for row in answers:
            scores = " · ".join(f"{judge} {row[judge]:z.2f}" for judge in JUDGES if row.get(judge) is not None)
            body.append(
                f'<div class="answer"><span class="who">{escaped(row["policy"])}</span>'
                f'<span class="scores">{scores}</span>'
                f'<div class="text">{escaped(row["text"].strip())}</div></div>'
            )
        body.append("</div>")
    return body


def _training(runs: Sequence[Path]) -> list[str]:
    body: list[str] = []
    for run in runs:
        rows = read_rows(run / "metrics.jsonl")
        shown = [name for name in CURVES if sum(name in row for row in rows) > 1]
        if shown:
            body += [f"<h3>{escaped(run.name)}</h3>", curves(rows, shown)]
    return ["<h2>Training</h2>", *body] if body else []


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
                escaped(run.name),
                escaped(info["state"]),
                *(amount(ledger.get(k)) for k in keys),
                *(f"{t:.0f}" for t in times),
            ]
        )
        for key in (*keys, "wall_seconds", "cpu_seconds"):
            total[key] += ledger.get(key, 0)
    rows.append(
        [
            "<b>all</b>",
            "",
            *(amount(total[k]) for k in keys),
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
    return ["<h2>Ledger</h2>", table(head, rows)]


def _notes(runs: Sequence[Path]) -> list[str]:
    notes = [
        f"<li><b>{escaped(r.name)}</b>: {escaped(n['note'])}</li>" for r in runs for n in read_rows(r / "notes.jsonl")
    ]
    return ["<h2>Notes of the runs</h2><ul>", *notes, "</ul>"] if notes else []


def _configurations(runs: Sequence[Path]) -> list[str]:
    body = ["<h2>Configuration</h2>"]
    for run in runs:
        text = (run / "config.yaml").read_text(encoding="utf-8")
        body.append(f"<details><summary>{escaped(run.name)}</summary><pre>{escaped(text)}</pre></details>")
    return body
