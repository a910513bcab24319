"""Every write, fsync, rename and removal of a run is made to fail, to fall short, or to be the last thing it does.

Afterwards the same run is begun again, undisturbed, and must end as one that nobody disturbed: the same state, the
same metric rows, each once.
"""

import json
from functools import partial
from pathlib import Path

import pytest

from clew.config import Config
from clew.runs import Run

from .faults import KINDS, disturbed, operations

STEPS = 5


class Options(Config):
    rate: float = 0.5


class Number:
    """A state whose every step depends on all before it, and on what was journalled."""

    def __init__(self) -> None:
        self.value = 1.0

    def save(self, folder: Path) -> None:
        (folder / "number.json").write_text(json.dumps(self.value))

    def load(self, folder: Path) -> None:
        self.value = json.loads((folder / "number.json").read_text())


def train(folder: Path) -> float:
    """A run in small: it journals, learns, logs, samples, saves, and leaves a model."""
    with Run(Options(), folder, "toy") as run:
        state = Number()
        for step in run.steps(STEPS, state, save_every=2, keep=2):
            (record,) = step.journal(lambda number=step.number: [{"reply": number / 7}])
            state.value = state.value * 1.5 + record["reply"]
            step.track({"value": state.value})
            step.samples([{"text": f"step {step.number}"}])
            run.ledger["tokens"] += 3
        run.model_folder.mkdir(exist_ok=True)
        state.save(run.model_folder)
        run.finish()
    return state.value


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_goes_wrong_the_run_ends_as_if_nothing_had(kind, tmp_path):
    expected = train(tmp_path / "whole")
    files = {name: (tmp_path / "whole" / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl")}
    total = operations(partial(train, tmp_path / "counted"))
    assert total > 60
    for at in range(total):
        folder = tmp_path / f"{kind} {at}"
        disturbed(partial(train, folder), kind, at)
        train(folder)
        assert json.loads((folder / "model" / "number.json").read_text()) == expected, at
        for name, content in files.items():
            assert (folder / name).read_bytes() == content, (at, name)
        about = json.loads((folder / "run.json").read_text())
        assert about["state"] == "finished"
        assert about["ledger"]["tokens"] == 3 * STEPS
        assert not list(folder.glob("**/*.partial")), at
