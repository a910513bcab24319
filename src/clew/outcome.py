"""What a run came to, in words: its model, what was measured on held-out rows, and the commands that go on from it."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def heldout(run: Path) -> str:
    """What the result was found to be on held-out rows; empty where nothing was held out."""
    return in_words(result(run).get("heldout", {}))


def result(run: Path) -> dict[str, Any]:
    """What a run measured at its end: `heldout`, `raters` with their reliabilities, `round` of a loop."""
    file = run / "result.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def in_words(measured: Mapping[str, float]) -> str:
    """Example: `accuracy 64.1 % [58.0, 70.0] of 240 pairs, calibration error 0.031`."""
    said: list[str] = []
    if "nll" in measured:
        said.append(f"{measured['nll']:.3f} nats a token")
    if "accuracy" in measured:
        value, low, high = (100 * measured[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
        said.append(f"accuracy {value:.1f} % [{low:.1f}, {high:.1f}] of {measured['pairs']} pairs")
        said.append(f"calibration error {measured['calibration_error']:.3f}")
    if "auc" in measured:
        said.append(f"area under the curve {measured['auc']:.3f} of {measured['answers']} answers")
    if "correlation" in measured:
        said.append(f"correlation with the labels {measured['correlation']:.3f}")
    return ", ".join(said)


def ending(run: Path) -> list[str]:
    """What to tell at the end: of a stage of a pipeline one line, of a run alone also what can be done next."""
    model = run / "model"
    if not (model / "config.json").exists():
        return []
    found = heldout(run)
    says = f"{run.name}: the model is in {model}" + (f"; held out: {found}" if found else "")
    return [says] if (run / "identity.json").exists() else [says, f"next: {'; '.join(_next(run, model))}"]


def _next(run: Path, model: Path) -> list[str]:
    kinds = json.loads((model / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    scores = any(kind.endswith("ForSequenceClassification") for kind in kinds)
    place = shlex.quote(str(run))
    commands = [f"clew report {place}", f"clew export {place} FOLDER"]
    return commands if scores else [*commands, f"clew chat {place}"]
