"""`clew plan`: the memory and time that a run will need, before it starts."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from clew.machine import Machine
    from clew.pipeline import Stage
    from clew.plan import Plan

TIGHT = 0.85
"""Share of the memory from which a prediction is too near to be sure of."""


def plan(
    file: Annotated[str, typer.Argument(help="A pipeline file, or a recipe's with --recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, dotted: learner.lr=1e-5")] = None,
    recipe: Annotated[str | None, typer.Option(help="The recipe that the file is for, such as sft.")] = None,
    gpu: Annotated[str | None, typer.Option(help="For this GPU instead: h200, a100-80, 4090, …")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say how much memory and time a run will need, and what to change where it does not fit. Trains nothing.

    Exits 1 when a stage does not fit.
    """
    from rich.console import Console

    from clew import machine, plan

    stages = _stages(file, overrides or [], recipe)
    device = next((s.config.model_dump().get("device", "auto") for s in stages), "auto")
    where = machine.gpu(gpu) if gpu else machine.this_machine(device)
    if as_json:
        typer.echo(json.dumps(_as_json(stages, where), indent=1))
        return
    screen = Console(highlight=False)
    screen.print(f"[bold]{where.name}[/bold]: {_size(where.memory)} of memory, {_rates(where)} ({where.source})\n")
    fits = True
    for number, stage in enumerate(stages):
        found = plan.plan(stage, where, stages[:number])
        if found is None and "model" in type(stage.config).model_fields:
            screen.print(f"[bold]{stage.name}[/bold]: not predicted; clew plan does not know this recipe\n")
        elif found is not None:
            _show(screen, found)
            fits &= _verdict(screen, found, stage, where, stages[:number])
    raise typer.Exit(0 if fits else 1)


def _stages(file: str, overrides: list[str], recipe: str | None) -> "list[Stage]":
    from clew import config, pipeline

    if recipe is not None:
        run, kind = pipeline.recipe(recipe)
        return [pipeline.Stage(recipe, run, config.load(kind, Path(file), overrides), {})]
    found = pipeline.find(file)
    if "stages" not in config.read_yaml(found):
        raise config.ConfigError(
            f"{file} has no stages, so it is no pipeline; say which recipe it is for: --recipe sft"
        )
    return pipeline.load(found, overrides)[1]


def _as_json(stages: "list[Stage]", where: "Machine") -> "dict[str, Any]":
    from clew import plan

    found = [plan.plan(stage, where, stages[:number]) for number, stage in enumerate(stages)]
    told = [
        {
            "name": p.name, "recipe": p.recipe, "steps": p.steps, "peak": p.peak.total, "phase": p.peak.name,
            "parts": p.peak.parts, "phases": {phase.name: phase.parts for phase in p.phases}, "seconds": p.seconds,
            "about": p.about, "fits": p.peak.total <= where.memory,
        }
        for p in found if p is not None
    ]  # fmt: skip
    return {"machine": asdict(where), "stages": told}


def _show(screen: "Console", found: "Plan") -> None:
    from rich.table import Table

    steps = f", {found.steps:,} steps" if found.steps else ""
    screen.print(f"[bold]{found.name}[/bold]  {found.recipe}{steps}; {'; '.join(found.about)}")
    kinds = list(dict.fromkeys(kind for phase in found.phases for kind in phase.parts))
    table = Table("  phase", *kinds, "peak", "time", box=None, header_style="dim", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for phase in found.phases:
        parts = [_size(phase.parts[kind]) if phase.parts.get(kind) else "" for kind in kinds]
        taken = found.seconds.get(phase.name)
        peak = f"[bold]{_size(phase.total)}[/bold]" if phase is found.peak else _size(phase.total)
        table.add_row(f"  {phase.name}", *parts, peak, "" if taken is None else f"{_time(taken)} a step")
    screen.print(table)
    step = found.step_seconds
    once = f"{_time(found.seconds['once'])} before the first step, " if "once" in found.seconds else ""
    whole = f", {_time(step * found.steps + found.seconds.get('once', 0))} in all" if found.steps else ""
    screen.print(f"  predicted: {once}{_time(step)} a step{whole}")


def _verdict(screen: "Console", found: "Plan", stage: "Stage", where: "Machine", earlier: "Sequence[Stage]") -> bool:
    """Whether it fits; if it does not, what would."""
    from clew.alternatives import alternatives

    share = found.peak.total / where.memory
    says = f"{_size(found.peak.total)} at its peak ({found.peak.name}), {share:.0%} of the memory"
    if share <= TIGHT:
        screen.print(f"  [green]fits[/green]: {says}\n")
        return True
    screen.print(f"  [yellow]just fits[/yellow]: {says}" if share <= 1 else f"  [red]does not fit[/red]: {says}")
    *single, together = alternatives(stage) or [[]]
    found_one = [_tried(screen, group, found, where, earlier) for group in single]
    if not any(found_one):
        _tried(screen, together, found, where, earlier)
    screen.print()
    return share <= 1


def _tried(
    screen: "Console", group: "list[tuple[str, Stage]]", found: "Plan", where: "Machine", earlier: "Sequence[Stage]"
) -> bool:
    """Whether one of these fits; none after it is tried, nor after one that gains nothing."""
    from clew import plan

    before = found.peak.total
    for text, changed in group:
        other = plan.plan(changed, where, earlier)
        assert other is not None
        size = other.peak.total
        if size > 0.98 * before:
            return False
        before, fits = size, size <= TIGHT * where.memory
        slower = other.step_seconds / found.step_seconds
        verdict = "[green]fits[/green]" if fits else "does not fit either"
        screen.print(f"    {text}: {_size(size)}, {slower:.2f} × the time; {verdict}")
        if fits:
            return True
    return False


def _size(num: float) -> str:
    return f"{num / 1e9:,.1f} GB" if num >= 1e9 else f"{num / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:,.0f} min" if seconds >= 90 else f"{seconds:.2g} s"


def _rates(where: "Machine") -> str:
    rates = ", ".join(f"{rate / 1e12:,.3g} TFLOP/s {name}" for name, rate in where.flops.items())
    return f"{rates}, of which {where.share:.0%} are reckoned with"
