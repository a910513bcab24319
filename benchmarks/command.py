"""clew's side of the race to the first step: `clew sft FILE` or `clew preference FILE`, and a tracker that waits.

    python benchmarks/command.py '{"work": "sft", "folder": ..., "batch": 8, "steps": 1, "length": 512, "lr": 1e-5}'

Ready is when a run tells its trackers that the first step is next (pace.py).
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pace

from clew.cli import main

options = pace.options()
turns = pace.Turns()
RECIPES = {"sft": "sft", "dpo": "preference"}


class Waiting:
    """A tracker that lets one step happen, and ends the command after it."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None: ...

    def begin(self, name: str, total: int, step: int) -> None:
        pace.say()
        turns.mine()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        turns.done(loss=sum(value for name, value in metrics.items() if name.startswith("loss/")))
        turns.mine()
        sys.exit()

    def note(self, message: str) -> None: ...
    def end(self) -> None: ...


def start() -> None:
    rows = {"path": f"{options['folder']}/pairs.jsonl", "limit": options["batch"] * options["steps"]}
    with tempfile.TemporaryDirectory() as out:
        config = {
            "out": f"{out}/run",
            "model": f"{options['folder']}/model",
            "data": rows,
            "encoding": {"max_length": options["length"]},
            "batch": options["batch"],
            "learner": {"lr": options["lr"], "schedule": "constant", "warmup": 0.0},
            "trackers": ["__main__:Waiting"],
            **({"cache": None} if options["work"] == "dpo" else {}),  # the reference anew in every round
        }
        file = Path(out) / "config.yaml"
        file.write_text(json.dumps(config))  # which is YAML
        sys.argv = ["clew", RECIPES[options["work"]], str(file)]
        main()


if __name__ == "__main__":
    start()
