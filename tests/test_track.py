"""Each tracker shows what metrics.jsonl says, each step once, however often the run was killed."""

import importlib.util
import json
import multiprocessing
import os
import re
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from clew.config import ConfigError, Training, build
from clew.failure import Failure
from clew.runs import NoState, Run, RunExists
from clew.track import trackers

STEPS, KILLED = 7, 9


def config(folder: Path, *names: object) -> Training:
    return build(Training, {"out": str(folder), "trackers": names, "save_every": 3}, "test")


def train(settings: Training, *, dies_in: int | None = None, after_s: float = 0.0) -> None:
    """A run whose numbers depend on the step alone; `after_s` lets a tracker write what it holds before the run dies."""
    with Run(settings, settings.out, "toy", trackers(settings)) as run:
        for step in run.steps(STEPS, NoState(), save_every=settings.save_every, keep=1):
            if step.number == dies_in:
                time.sleep(after_s)
                os._exit(KILLED)  # as kill -9 does: nothing is flushed
            step.track({"loss/nll": 1 / (step.number + 1), "kl": float(step.number)})
        run.finish()


def live(settings: Training, *, dies_in: int | None = None, after_s: float = 0.0) -> None:
    """One life of a run, in a process of its own."""
    options = {"dies_in": dies_in, "after_s": after_s}
    child = multiprocessing.get_context("fork").Process(target=train, args=(settings,), kwargs=options)
    child.start()
    child.join()
    assert child.exitcode == (0 if dies_in is None else KILLED)


def live_three_times(settings: Training, *, after_s: float = 0.0) -> None:
    for dies_in in (2, 5, None):
        live(settings, dies_in=dies_in, after_s=after_s)


EXPECTED = {
    (name, step): value for step in range(STEPS) for name, value in (("loss/nll", 1 / (step + 1)), ("kl", step))
}


def test_tensorboard_shows_every_step_once(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    live_three_times(config(tmp_path / "run", "tensorboard"))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"), purge_orphaned_data=False).Reload()
    found = [((tag, e.step), e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
    assert len(found) == 2 * STEPS
    assert dict(found) == pytest.approx(EXPECTED)


def test_a_tracker_that_comes_later_shows_the_whole_curve(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    live(config(tmp_path / "run"), dies_in=5)
    train(config(tmp_path / "run", "tensorboard"))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("kl")] == list(range(STEPS))
    assert "goes on with trackers: [] -> [{'name': 'tensorboard'}]" in (tmp_path / "run" / "notes.jsonl").read_text()


def test_wandb_goes_on_with_the_same_run_and_shows_every_step_once(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    live_three_times(config(tmp_path / "run", {"name": "wandb", "project": "guestbook"}))
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({f.name for f in files}) == 1  # offline each life has a file of its own, of the same run
    found = [
        ((key, record.history.step.num), json.loads(item.value_json))
        for record in wandb_records(max(files, key=lambda f: f.stat().st_mtime))
        for item in record.history.item
        if not (key := item.key or item.nested_key[0]).startswith("_")
    ]
    assert len(found) == 2 * STEPS
    assert dict(found) == pytest.approx(EXPECTED)


def wandb_records(file: Path) -> Iterator:
    """Records of a file below 32 KiB: after 7 bytes, each with 4 bytes of checksum, 2 of length, 1 of type."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at = file.read_bytes(), 7
    assert len(content) < 32768
    while at < len(content):
        length = struct.unpack_from("<IHB", content, at)[1]
        yield Record.FromString(content[at + 7 : at + 7 + length])
        at += 7 + length


@pytest.mark.parametrize("after_s", [0.0, 1.5], ids=["what it held is lost", "what it held is written"])
def test_trackio_goes_on_with_the_same_run_and_shows_every_step_once(after_s, tmp_path, monkeypatch):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported: in the children
    live_three_times(config(tmp_path / "run", "trackio"), after_s=after_s)
    with sqlite3.connect(tmp_path / "trackio" / "clew.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    assert len({name for name, _, _ in rows}) == 1
    assert sorted(step for _, step, _ in rows) == list(range(STEPS))
    found = {(key, step): value for _, step, metrics in rows for key, value in json.loads(metrics).items()}
    assert found == pytest.approx(EXPECTED)


class Listener:
    """A user's own tracker."""

    heard: ClassVar[list] = []

    def __init__(self, folder, config, *, loud: bool = False):
        self.heard.append((folder.name, config["seed"], loud))

    def begin(self, name, total, step):
        self.heard.append((name, total, step))

    def log(self, step, metrics):
        self.heard.append((step, metrics["kl"]))

    def note(self, message):
        self.heard.append(message)

    def end(self):
        self.heard.append("end")


def test_a_users_own_tracker_hears_everything(tmp_path):
    train(config(tmp_path / "run", {"name": f"{__name__}:Listener", "loud": True}))
    begun, total, note, *others = Listener.heard
    assert (begun, total) == (("run", 0, True), ("run", STEPS, 0))
    assert re.fullmatch(r"run: first step \d+\.\d s after the run began, \d+\.\d s after clew was imported", note)
    assert others == [*((i, float(i)) for i in range(STEPS)), "end"]


class Broken(Listener):
    def end(self):
        raise ConnectionError("the tracker's server is gone")


def test_a_tracker_that_cannot_end_hides_nothing(tmp_path, monkeypatch):
    Listener.heard.clear()
    monkeypatch.setattr(NoState, "save", not_finite)
    settings = config(tmp_path / "run", *(f"{__name__}:{name}" for name in ("Listener", "Broken", "Listener")))
    with pytest.raises(Failure, match="^the loss is not finite. See .*rows.txt$"):
        train(settings)
    assert (tmp_path / "run" / "rows.txt").read_text() == "the rows"
    assert Listener.heard.count("end") == 2
    says = "tracker Broken could not end: ConnectionError: the tracker's server is gone"
    assert says in (tmp_path / "run" / "notes.jsonl").read_text()
    assert says in Listener.heard


def not_finite(*_):
    raise Failure("the loss is not finite", {"rows.txt": "the rows"})


def test_trackers_that_cannot_be_had_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no 'wandbb' here; did you mean 'wandb'"):
        trackers(config(tmp_path, "wandbb"))
    with pytest.raises(ConfigError, match="wandb has no option 'projct'; did you mean 'project'"):
        trackers(config(tmp_path, {"name": "wandb", "projct": "x"}))
    for name in ("tensorboard", "wandb", "trackio"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            for module in [m for m in sys.modules if m.startswith(f"{name}.")]:
                patch.setitem(sys.modules, module, None)
            with pytest.raises(ModuleNotFoundError, match=rf"pip install 'clew\[{name}\]', or leave it out"):
                trackers(config(tmp_path, name))


def test_how_a_run_is_computed_may_change_while_it_goes_on_and_what_may_not(tmp_path):
    live(config(tmp_path / "run"), dies_in=5)
    train(config(tmp_path / "run").model_copy(update={"keep": None}))
    assert "goes on with keep: 2 -> None" in (tmp_path / "run" / "notes.jsonl").read_text()
    assert "keep: null" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(RunExists, match="seed: 0 -> 1"):
        train(config(tmp_path / "run").model_copy(update={"seed": 1}))
