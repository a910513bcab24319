"""Observers of a run. `metrics.jsonl` in the run directory is the source of truth; these copy it elsewhere."""

import importlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console as Screen
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

KEY_METRICS = (
    "objective/scores",
    "objective/kl",
    "rewards/accuracies",
    "rewards/margins",
    "accuracy",
    "loss/policy",
    "loss/nll",
    "loss/rank",
    "loss/pair",
    "loss/distill",
    "completions/mean_length",
)
"""What the progress line shows, in this order, as far as a recipe reports it."""
PLAIN_EVERY_S = 10.0
PATIENCE_S = 60.0
T = TypeVar("T")


class Tracker(Protocol):
    """An observer of a run. `begin` says how many steps there are and which is the next, in every life of the run."""

    def begin(self, name: str, total: int, step: int) -> None: ...
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def note(self, message: str) -> None: ...
    def end(self) -> None: ...


class Named(Protocol):
    """A tracker by name, with its options (`config.Choice`)."""

    def bind(self, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Tracker]: ...


class Watched(Protocol):
    """A configuration with trackers (`config.Training`)."""

    @property
    def out(self) -> str: ...
    @property
    def trackers(self) -> Sequence[Named]: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def trackers(config: Watched) -> list[Tracker]:
    """The console, and what the configuration names. Raises ModuleNotFoundError with the extra that is missing."""
    folder, values = Path(config.out), config.model_dump(mode="json")
    return [Console(), *(choice.bind(TRACKERS)(folder, values) for choice in config.trackers)]


def unheard(message: str) -> None:
    """A note to nobody."""


def in_chunks(things: Sequence[T], size: int, doing: str, note: Callable[[str], None]) -> Iterator[Sequence[T]]:
    """The things, `size` at a time; where that takes long, how many are done and the seconds left are noted."""
    began, due = time.monotonic(), PLAIN_EVERY_S
    for start in range(0, len(things), size):
        spent = time.monotonic() - began
        if start and spent >= due:
            due = spent + min(spent, PATIENCE_S)
            note(f"{doing}: {start:,} of {len(things):,}, {spent * (len(things) / start - 1):.0f} s left")
        yield things[start : start + size]


class Console:
    """Progress on the terminal: stage, step, rate, remaining time, key metrics; plain lines where there is none."""

    def __init__(self, screen: Screen | None = None) -> None:
        self._screen = screen or Screen(stderr=True)
        self._progress: Progress | None = None
        self._name, self._total, self._first = "", 0, 0
        self._began = self._spoke = 0.0

    def begin(self, name: str, total: int, step: int) -> None:
        self._name, self._total, self._first = name, total, step
        self._began = self._spoke = time.monotonic()
        if step:
            self.note(f"{name}: resuming after step {step} of {total}")
        if self._screen.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=self._screen,
            )
            self._progress.add_task(name, total=total, completed=step, metrics="", rate="")
            self._progress.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        rate = (step + 1 - self._first) / max(now - self._began, 1e-9)
        shown = "  ".join(f"{name} {metrics[name]:.3g}" for name in KEY_METRICS if name in metrics)
        if self._progress is not None:
            task = self._progress.tasks[0].id
            self._progress.update(task, completed=step + 1, metrics=shown, rate=f"{rate:.2f} steps/s")
        elif now - self._spoke >= PLAIN_EVERY_S or step + 1 == self._total:
            self._spoke = now
            left = (self._total - step - 1) / rate
            self.note(f"{self._name}  {step + 1}/{self._total}  {rate:.2f} steps/s  {left:.0f} s left  {shown}")

    def note(self, message: str) -> None:
        self._screen.print(message, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class TensorBoard:
    """Event files in the run directory: `tensorboard --logdir runs`. Every life of a run writes them anew, whole."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._writers = _library("tensorboard", "tensorboard.summary.writer.event_file_writer")
        self._events, self._summaries = (
            _library("tensorboard", f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary")
        )
        self._folder = folder
        self._writer: Any = None

    def begin(self, name: str, total: int, step: int) -> None:
        shutil.rmtree(self._folder / "tensorboard", ignore_errors=True)
        self._writer = self._writers.EventFileWriter(str(self._folder / "tensorboard"))
        for number, metrics in _rows(self._folder):
            self._write(number, metrics)
        self._writer.flush()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, metrics)
        self._writer.flush()

    def note(self, message: str) -> None:
        """Notes stay in notes.jsonl."""

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [self._summaries.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        summary = self._summaries.Summary(value=values)
        self._writer.add_event(self._events.Event(wall_time=time.time(), step=step, summary=summary))


class Curve:
    """A run of a library with wandb's words (log, finish), which goes on where its last life ended.

    `start` begins or resumes it, and gives it with the first step that it does not have yet.
    """

    def __init__(self, folder: Path, start: Callable[[], tuple[Any, int]]) -> None:
        self._folder, self._start = folder, start
        self._run: Any = None
        self._next = 0

    def begin(self, name: str, total: int, step: int) -> None:
        self._run, self._next = self._start()
        for number, metrics in _rows(self._folder):
            self.log(number, metrics)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self._next:  # a step that is done again gives the same numbers
            self._run.log(dict(metrics), step=step)

    def note(self, message: str) -> None:
        """Notes stay in notes.jsonl."""

    def end(self) -> None:
        if self._run is not None:
            self._run.finish()


def wandb(folder: Path, config: Mapping[str, Any], *, project: str | None = None, entity: str | None = None) -> Curve:
    """Weights & Biases, as its own settings say: WANDB_MODE=offline, WANDB_PROJECT where `project` is null."""
    library = _library("wandb", "wandb")

    def start() -> tuple[Any, int]:
        run = library.init(
            project=project,
            entity=entity,
            id=_identity(folder),
            name=str(folder),
            dir=str(folder),
            config=dict(config),
            resume="allow",
            allow_val_change=True,
        )
        return run, run.step

    return Curve(folder, start)


def trackio(folder: Path, config: Mapping[str, Any], *, project: str = "clew") -> Curve:
    """Trackio, as its own settings say: on this machine (`trackio show`), a Space or a server."""
    library = _library("trackio", "trackio")

    def start() -> tuple[Any, int]:
        name = f"{folder}-{_identity(folder)}"  # it knows a run by its name
        run = library.init(project=project, name=name, config=dict(config), resume="allow", embed=False)
        return run, run._next_step  # it has no public word for it

    return Curve(folder, start)


def _library(extra: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the tracker {extra} needs {error.name}, which is not installed; pip install 'clew[{extra}]', or leave "
            "it out of `trackers`"
        ) from error


def _identity(folder: Path) -> str:
    """Of a run in all its lives."""
    file = folder / "tracked_as.txt"
    if not file.exists() or not file.read_text():
        file.write_text(uuid.uuid4().hex[:8])
    return file.read_text()


def _rows(folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """What earlier lives of the run have measured, as far as it still holds."""
    file = folder / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        row = json.loads(line)
        yield row.pop("step"), row


TRACKERS: dict[str, Callable[..., Tracker]] = {"tensorboard": TensorBoard, "trackio": trackio, "wandb": wandb}
