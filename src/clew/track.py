"""Observers of a run. `metrics.jsonl` in the run directory is the source of truth; these copy it elsewhere."""

import time
from collections.abc import Mapping

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
    "completions/mean_length",
)
"""What the progress line shows, in this order, as far as a recipe reports it."""
PLAIN_EVERY_S = 10.0


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
