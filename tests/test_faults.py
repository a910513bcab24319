"""Every write, fsync, rename and removal of a run is made to fail, to fall short, or to be the last thing it does.

Afterwards the same run is begun again, undisturbed, and must end as one that nobody disturbed: the same state, the
same metric rows, each once.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clew.config import Config
from clew.runs import Run

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


class Killed(BaseException):
    """What is left of a process after kill -9: nothing that it does has an effect."""


class Faults:
    """Counts operations on files and lets the one numbered `at` go wrong."""

    def __init__(self, kind: str, at: int) -> None:
        self.kind, self.at, self.count = kind, at, 0

    def strikes(self) -> bool:
        number, self.count = self.count, self.count + 1
        if self.kind == "kill" and number > self.at >= 0:
            raise Killed
        return number == self.at

    def fail(self) -> None:
        if self.kind == "kill":
            raise Killed
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def around(self, operation: Callable, *, after: bool = False) -> Callable:
        """Before the operation or, for a kill `after` it, just when it is done."""

        def faulty(*args, **options):
            strikes = self.strikes()
            if strikes and not after:
                self.fail()
            result = operation(*args, **options)
            if strikes:
                self.fail()
            return result

        return faulty

    def open(self, path: Path, mode: str = "r", *args, **options):
        file = open(path, mode, *args, **options)  # noqa: SIM115, PTH123 (Path.open is what is replaced)
        if not set(mode) & set("wa+"):
            return file
        whole = file.write

        def write(text: str) -> int:
            if self.strikes():
                whole(text[: len(text) // 2])
                file.flush()
                self.fail()
            return whole(text)

        file.write = write
        file.writelines = lambda lines: [write(line) for line in lines] and None
        return file

    def install(self, patch: pytest.MonkeyPatch) -> None:
        after = self.kind == "kill after"
        self.kind = "kill" if after else self.kind
        patch.setattr(Path, "open", self.open_method())
        patch.setattr(os, "fsync", self.around(os.fsync, after=after))
        patch.setattr(Path, "rename", self.around(Path.rename, after=after))
        patch.setattr(Path, "replace", self.around(Path.replace, after=after))
        patch.setattr(Path, "unlink", self.around(Path.unlink, after=after))
        patch.setattr(Path, "mkdir", self.around(Path.mkdir, after=after))
        patch.setattr(shutil, "rmtree", self.around(shutil.rmtree, after=after))

    def open_method(self) -> Callable:
        return lambda path, mode="r", *args, **options: self.open(path, mode, *args, **options)


def operations(tmp_path: Path) -> int:
    """How many operations an undisturbed run makes."""
    counter = Faults("fail", -1)
    with pytest.MonkeyPatch.context() as patch:
        counter.install(patch)
        train(tmp_path / "counted")
    return counter.count


@pytest.mark.parametrize("kind", ["fail", "kill", "kill after"])
def test_whatever_goes_wrong_the_run_ends_as_if_nothing_had(kind, tmp_path):
    expected = train(tmp_path / "whole")
    files = {name: (tmp_path / "whole" / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl")}
    total = operations(tmp_path)
    assert total > 60
    for at in range(total):
        folder, faults = tmp_path / f"{kind} {at}", Faults(kind, at)
        with pytest.MonkeyPatch.context() as patch, pytest.raises((Killed, OSError)):
            faults.install(patch)
            train(folder)
        train(folder)
        assert json.loads((folder / "model" / "number.json").read_text()) == expected, at
        for name, content in files.items():
            assert (folder / name).read_bytes() == content, (at, name)
        about = json.loads((folder / "run.json").read_text())
        assert about["state"] == "finished"
        assert about["ledger"]["tokens"] == 3 * STEPS
        assert not list(folder.glob("**/*.partial")), at
