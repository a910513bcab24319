"""The run directory: resolved configuration, metrics, samples, journal, checkpoints, and exact resume.

    config.yaml        resolved; the run can be repeated from it
    metrics.jsonl      one line a step: the source of truth, which trackers copy
    samples.jsonl      rollouts kept for people to read
    journal/           rollouts and scores of steps not yet covered by a checkpoint
    checkpoints/       checkpoint-000100/ …, each with a manifest of hashes
    model/             the result
    run.json           state, versions, ledger
    hangs.txt, not_finite.json   evidence of what stopped it

A step first journals what it cannot repeat (rollouts, scores, remote replies), fsynced, then learns from it. After
kill -9 the run goes back to its newest whole checkpoint and repeats the steps since, reading the journal: the
weights end bit-identical, and no metric row is lost or doubled.
"""

import json
import math
import os
import platform
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import yaml
from pydantic import BaseModel, ValidationError

from clew import IMPORTED, __version__
from clew.durable import broken, fsync, read_lines, read_rows, seal, write_durably
from clew.failure import Failure, check_space, is_out_of_memory, memory_for
from clew.outcome import ending
from clew.track import Tracker

STEP_DIGITS = 6
WORK = ("metrics.jsonl", "samples.jsonl", "journal", "checkpoints", "model", "feedback.sqlite", "result.json")
"""A run without any of these failed before its first step, and may be corrected."""
HOW = re.compile(
    r"(^|\.)(trackers(\..*)?|at_once|cache|keep|slots|max_batch_tokens|timeout_s"
    r"|learner\.(max_tokens|gradient_checkpointing))$"
)
"""Options that say how a run is computed and watched, not what it computes: they may change while it goes on."""


class State(Protocol):
    """What a checkpoint holds: whatever lets the next step be the one an uninterrupted run would have made."""

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


@runtime_checkable
class Large(Protocol):
    """A state whose size on disk matters."""

    def num_bytes(self) -> tuple[int, int]:
        """Of a checkpoint, and of the model that the run leaves."""
        ...


class NoState:
    """Of a loop whose steps depend on nothing but their number."""

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


class Loop(Protocol):
    """What the loop of a recipe needs of its run."""

    ledger: Counter[str]

    def steps(self, total: int, state: State, *, save_every: int, keep: int | None) -> "Iterator[Step]": ...
    def account(self, *spent: Mapping[str, float]) -> None: ...


class Step:
    """One step of a run, as the loop sees it."""

    def __init__(self, run: "Run", number: int, *, is_saved: bool) -> None:
        self._run = run
        self.number = number
        self.is_saved = is_saved
        """A checkpoint follows: the moment to measure on held-out rows, as `heldout/…`."""
        self.metrics: dict[str, float] = {}

    def journal(self, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Records of this step, kept until a checkpoint follows it."""
        return self._run.journal(f"step-{self.number:0{STEP_DIGITS}}", compute)

    def track(self, metrics: Mapping[str, float]) -> None:
        """Numbers of this step; the last word on a name counts."""
        self.metrics.update(metrics)

    def samples(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Rollouts for people to read."""
        self._run.append("samples.jsonl", [{"step": self.number, **record} for record in records])


class RunExists(ValueError):
    """The directory holds a run of another configuration."""


class Run:
    """A run directory: new, or of an earlier life of the same configuration.

    Example: `with Run(config, config.out, "sft", trackers(config)) as run: …; run.finish()`

    Raises RunExists naming the keys that differ when another configuration has made steps there.
    """

    def __init__(self, config: BaseModel, folder: str | Path, recipe: str, trackers: Sequence[Tracker] = ()) -> None:
        self.folder = Path(folder)
        self.trackers = trackers
        self.ledger: Counter[str] = Counter()
        """Tokens generated and trained, FLOPs, labels by kind of rater; wall and CPU seconds."""
        self._interrupted = False
        self._began = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim(config)
        if not self.is_finished:
            self._set_info(
                state="running",
                why="",
                process=[platform.node(), os.getpid()],
                recipe=recipe,
                clew=__version__,
                python=platform.python_version(),
                machine=platform.machine(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Failure):
            error.keep(self.folder)
        if isinstance(error, (Exception, KeyboardInterrupt)):
            with suppress(OSError):  # of a full disk, which is what the error says
                self._set_info(state="failed" if isinstance(error, Exception) else "stopped", why=str(error)[:300])
        self._end_trackers()
        if error is not None and is_out_of_memory(error):
            with memory_for("loading models, or between steps", advice="take smaller models, or device: cpu"):
                raise error

    def _end_trackers(self) -> None:
        """The console last. One that raises must not hide what stopped the run: the others are told."""
        while self.trackers:
            *self.trackers, last = self.trackers
            try:
                last.end()
            except Exception as error:  # noqa: BLE001 (of somebody else's server or library)
                with suppress(OSError):
                    self.note(f"tracker {type(last).__name__} could not end: {type(error).__name__}: {error}")

    def _claim(self, asked: BaseModel) -> None:
        resolved, config = self.folder / "config.yaml", asked.model_dump(mode="json")
        if not self.is_finished and not any((self.folder / name).exists() for name in WORK):
            write_durably(resolved, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        before = yaml.safe_load(resolved.read_text(encoding="utf-8")) if resolved.exists() else {}
        with suppress(ValidationError):  # an option that came later had its default then
            before = type(asked).model_validate(before).model_dump(mode="json")
        found = differences(before, config)
        changed = [difference for difference in found if not HOW.search(difference.partition(":")[0])]
        if changed:
            raise RunExists(
                f"{self.folder} holds a run of another configuration ({'; '.join(changed[:5])}); choose another "
                "`out`, or delete that folder"
            )
        if found and not self.is_finished:
            self.note(f"{self.folder.name}: goes on with {'; '.join(found)}")
            write_durably(resolved, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    @property
    def is_finished(self) -> bool:
        return self._info().get("state") == "finished"

    def steps(self, total: int, state: State, *, save_every: int, keep: int | None) -> Iterator[Step]:
        """The steps still to be done, from the newest checkpoint on; saves every `save_every` and at the end.

        `keep` newest checkpoints and the best one stay, None keeps all. Ctrl-C finishes the step, saves, and raises
        KeyboardInterrupt.
        """
        first = self._restore(state)
        if isinstance(state, Large) and first < total:
            self._check_space(state, total - first, save_every, keep)
        self._truncate(first)
        for tracker in self.trackers:
            tracker.begin(self.folder.name, total, first)
        if first < total:
            now = time.perf_counter()
            self.note(
                f"{self.folder.name}: first step {now - self._began:.1f} s after the run began, "
                f"{now - IMPORTED:.1f} s after clew was imported"
            )
        with self._ctrl_c():
            for number in range(first, total):
                wall, cpu = time.perf_counter(), time.process_time()
                step = Step(self, number, is_saved=(number + 1) % save_every == 0 or number + 1 == total)
                yield step
                self.ledger["wall_seconds"] += time.perf_counter() - wall  # type: ignore[assignment]
                self.ledger["cpu_seconds"] += time.process_time() - cpu  # type: ignore[assignment]
                self._log(step)
                if step.is_saved or self._interrupted:
                    self._checkpoint(number + 1, state, keep)
                if self._interrupted:
                    self.note(f"{self.folder.name}: saved after step {number + 1}")
                    raise KeyboardInterrupt

    def journal(self, name: str, compute: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Records that cannot be repeated: read back if an earlier life wrote them, else computed and fsynced.

        The answer always went through JSON, so that both lives see the same numbers.
        """
        file = self.folder / "journal" / f"{name}.jsonl"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            write_durably(file, "".join(json.dumps(record) + "\n" for record in compute()))
        return [json.loads(line) for line in read_lines(file)]

    def note(self, message: str) -> None:
        """Tell whoever watches, and keep it in the run."""
        self.append("notes.jsonl", [{"time": time.time(), "note": message}])
        for tracker in self.trackers:
            tracker.note(message)

    def account(self, *spent: Mapping[str, float]) -> None:
        """Totals so far, of one or more spenders, into the ledger."""
        for name in {name for one in spent for name in one}:
            self.ledger[name] = sum(one.get(name, 0) for one in spent)  # type: ignore[assignment]

    def append(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    def write(self, name: str, content: Any) -> None:
        """A JSON file of the run."""
        write_durably(self.folder / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Mark the run as done, its model on disk: a pipeline skips it from now on. The journal has served."""
        for path in (*self.model_folder.rglob("*"), self.model_folder, self.folder):
            if path.exists():
                fsync(path)
        shutil.rmtree(self.folder / "journal", ignore_errors=True)
        self._set_info(state="finished", ledger=dict(self.ledger))
        for line in ending(self.folder):
            for tracker in self.trackers:
                tracker.note(line)

    def _log(self, step: Step) -> None:
        self.append("metrics.jsonl", [{"step": step.number, **step.metrics}])
        for tracker in self.trackers:
            tracker.log(step.number, step.metrics)

    def _checkpoint(self, step: int, state: State, keep: int | None) -> None:
        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        # Metric rows that the checkpoint's step count vouches for must be on disk before it is.
        for name in ("metrics.jsonl", "samples.jsonl"):
            if (self.folder / name).exists():
                fsync(self.folder / name)
        target = folder / f"checkpoint-{step:0{STEP_DIGITS}}"
        building = folder / f"{target.name}.partial"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        state.save(building)
        (building / "run.json").write_text(json.dumps({"step": step, "ledger": dict(self.ledger)}))
        seal(building)
        shutil.rmtree(target, ignore_errors=True)
        building.rename(target)
        fsync(folder)
        best = best_checkpoint(self.folder)
        for old in checkpoints(self.folder)[:-keep] if keep else []:
            if old != best:
                shutil.rmtree(old)
        for entry in sorted((self.folder / "journal").glob("step-*.jsonl")):
            if int(entry.stem.removeprefix("step-")) < step:
                entry.unlink()

    def best_checkpoint(self) -> Path:
        """The checkpoint that did best on held-out rows."""
        best = best_checkpoint(self.folder)
        assert best is not None, "the recipe tracks a held-out metric before every checkpoint"
        damage = broken(best)
        if damage is not None:
            raise Failure(f"{best} did best on held-out rows and is damaged ({damage}); delete it to take another")
        return best

    def _check_space(self, state: Large, steps: int, save_every: int, keep: int | None) -> None:
        """A new checkpoint is whole before the oldest one goes, and the best stays beside the newest `keep`."""
        coming = -(-steps // save_every)
        if keep is not None:
            coming = min(coming, max(1, keep + 2 - len(checkpoints(self.folder))))
        checkpoint_bytes, model_bytes = state.num_bytes()
        check_space(self.folder, checkpoints=coming, checkpoint_bytes=checkpoint_bytes, model_bytes=model_bytes)

    def _restore(self, state: State) -> int:
        """Load the newest whole checkpoint; the number of the step to do next."""
        for folder in reversed(checkpoints(self.folder)):
            damage = broken(folder)
            if damage is None:
                state.load(folder)
                info = json.loads((folder / "run.json").read_text())
                self.ledger = Counter(info["ledger"])
                return int(info["step"])
            self.note(f"{folder.name} is damaged ({damage}); going back to an older one")
            shutil.rmtree(folder)
        if (self.folder / "metrics.jsonl").exists() or any((self.folder / "journal").glob("step-*")):
            self.note(f"{self.folder.name}: no checkpoint yet: from the beginning")
        return 0

    def _truncate(self, first: int) -> None:
        """Forget metric rows and samples of steps that will be done again."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            file = self.folder / name
            if file.exists():
                kept = [line for line in read_lines(file) if _step_of(line) < first]
                write_durably(file, "".join(line + "\n" for line in kept))

    def _info(self) -> dict[str, Any]:
        file = self.folder / "run.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def _set_info(self, **values: Any) -> None:
        self.write("run.json", {**self._info(), **values})

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """The first Ctrl-C waits for the step to end; a second one does not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ, as `key: old -> new`."""
    found: list[str] = []
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            a, b = ({str(i): entry for i, entry in enumerate(x)} for x in (a, b))
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return found


BEST = {"heldout/accuracy": 1, "heldout/auc": 1, "heldout/correlation": 1, "heldout/nll": -1, "heldout/kl": -1}
"""Held-out metrics that tell checkpoints apart; -1 where less is better."""


def best_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that did best on held-out rows, the earliest of equals; None where nothing was measured."""
    found: list[tuple[float, int]] = []
    saved = {int(f.name.removeprefix("checkpoint-")): f for f in checkpoints(folder)}
    for row in read_rows(folder / "metrics.jsonl"):
        measured = [(sign * row[name], -row["step"]) for name, sign in BEST.items() if name in row]
        found += [(value, step) for value, step in measured if 1 - step in saved and math.isfinite(value)]
    return saved[1 - max(found)[1]] if found else None


def checkpoints(folder: Path) -> list[Path]:
    """Of a run, oldest first."""
    found = (folder / "checkpoints").glob("checkpoint-*")
    return sorted(f for f in found if f.name.removeprefix("checkpoint-").isdigit())


def _step_of(line: str) -> int:
    """Step of a metrics row; a row torn by a crash belongs to no step that counts."""
    with suppress(ValueError):
        return int(json.loads(line)["step"])
    return 1 << 62
