"""`clew runs` and `clew diff`: what lies in the run directories, and how two runs differ."""

import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clew.durable import read_rows


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, at any depth.")] = Path("runs"),
) -> None:
    """List the runs below a folder: state, steps, last metrics, what they cost."""
    from clew.config import ConfigError
    from clew.track import KEY_METRICS

    inside = (f.parent for f in folder.rglob("run.json") if "checkpoints" not in f.parts)
    found = sorted(inside, key=lambda run: (run / "config.yaml").stat().st_mtime)
    if not found:
        raise ConfigError(f"{folder} holds no run (no run.json below it)")
    table = Table(
        "run", "recipe", "state", "step", "last metrics", "CPU", box=None, header_style="bold", pad_edge=False
    )
    for run in found:
        about = _about(run)
        metrics = "  ".join(f"{name} {about['metrics'][name]:.3g}" for name in KEY_METRICS if name in about["metrics"])
        table.add_row(
            str(run.relative_to(folder)) if run != folder else run.name,
            about["recipe"], about["state"], about["step"], metrics, about["cpu"],
        )  # fmt: skip
    Console(highlight=False).print(table)


def diff_runs(
    a: Annotated[Path, typer.Argument(help="A run directory.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say how two runs differ: configuration, then the last value of every metric that both report."""
    from clew.runs import differences

    one, two = _about(a), _about(b)
    screen = Console(highlight=False)
    changed = [d for d in differences(one["config"], two["config"]) if not d.startswith("out:")]
    screen.print("\n".join(changed) or "the same configuration", soft_wrap=True)
    shared = [name for name in one["metrics"] if name in two["metrics"]]
    table = Table("last value", str(a), str(b), "difference", box=None, header_style="bold", pad_edge=False)
    for name in shared:
        x, y = one["metrics"][name], two["metrics"][name]
        table.add_row(name, f"{x:.4g}", f"{y:.4g}", f"{y - x:+.3g}")
    if shared:
        screen.print("", table)


def _about(run: Path) -> dict[str, Any]:
    """What a run directory says of itself."""
    import yaml

    from clew.config import ConfigError

    if not (run / "run.json").exists():
        raise ConfigError(f"{run} is no run directory: it has no run.json")
    info = json.loads((run / "run.json").read_text())
    last = dict(*read_rows(run / "metrics.jsonl")[-1:])
    cpu = info.get("ledger", {}).get("cpu_seconds")
    return {
        "config": yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")),
        "recipe": info["recipe"],
        "state": _state(info),
        "step": str(last["step"] + 1) if last else "",
        "metrics": {k: v for k, v in last.items() if k != "step" and isinstance(v, (int, float))},
        "cpu": f"{cpu:.0f} s" if cpu else "",
    }


def _state(info: dict[str, Any]) -> str:
    """As the run said it; a run that says it is running, and whose process is gone, was killed."""
    why = info.get("why", "").splitlines()
    if info["state"] != "running":
        return f"{info['state']}: {why[0][:60]}" if why else info["state"]
    machine, process = info.get("process", ("", 0))
    if machine != platform.node():
        return "running"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return "killed"
    except PermissionError:
        pass
    return "running"
