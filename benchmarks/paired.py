"""Programs step by step in one sitting: A B A B ..., each in a process and environment of its own.

A side prints a line of JSON when it is ready, takes a step for every line it is sent, and answers with a line of JSON:
its seconds, CPU seconds, loss, tokens. At the end of its input it says its peak memory (pace.py).
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TOLERATED = 0.85
"""Share of a stored ratio that a new one must reach."""


class Side:
    """A running program that waits for its turns."""

    def __init__(self, name: str, python: Path | str, script: str, options: Mapping[str, Any], *, threads: int) -> None:
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        command = [str(python), str(HERE / script), json.dumps(dict(options))]
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.ready = {**self._answer(), "seconds_until_ready": round(time.perf_counter() - started, 2)}
        self.steps: list[dict[str, float]] = []

    def step(self) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self.steps.append(self._answer())
        return self.steps[-1]

    def end(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.close()
        said = self._answer()
        self._process.wait()
        return said

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended with {self._process.wait()}; its error stands above")


def race(sides: Sequence[Side], *, rounds: int, warm_up: int = 1) -> dict[str, Any]:
    """What every side says of its steps after the warm-up, taken in turns, and of its memory.

    Losses are of all steps: the first one shows whether both sides begin alike.
    """
    for number in range(warm_up + rounds):
        for side in sides if number % 2 else sides[::-1]:
            took = side.step()
            print(
                f"{number:3} {side.name:16} {took['seconds']:8.2f} s  loss {took.get('loss', 0):.6f}", file=sys.stderr
            )
    memory = {side.name: side.end() for side in sides}
    return {side.name: {**side.ready, **memory[side.name], **_columns(side.steps, warm_up)} for side in sides}


def _columns(steps: Sequence[Mapping[str, float]], warm_up: int) -> dict[str, Any]:
    """Each number of the steps as a list; of times, tokens and the like without the warm-up."""
    names = [name for name in steps[-1] if name != "loss"]
    found = {name: [float(f"{s[name]:.5g}") for s in steps[warm_up:]] for name in names}
    medians = {f"median_{name}": statistics.median(values) for name, values in found.items()}
    return found | medians | ({"losses": [s["loss"] for s in steps]} if "loss" in steps[0] else {})


def compared(found: Mapping[str, Any], ours: str = "clew") -> dict[str, Any]:
    """Ours against each other side: ratios of speed pair by pair, of peak memory, and how far the losses are apart."""
    mine = found[ours]
    return {name: _against(mine, other) for name, other in found.items() if name != ours}


def _against(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    ours, theirs = costs(mine), costs(other)
    result = {
        "times_faster": round(statistics.median(theirs) / statistics.median(ours), 3),
        "times_faster_by_pair": [round(b / a, 3) for a, b in zip(ours, theirs, strict=True)],
        "share_of_memory": round(mine["peak_mib"] / other["peak_mib"], 3),
    }
    if "learn_seconds" in mine and "learn_seconds" in other:
        result["times_faster_learning"] = round(other["median_learn_seconds"] / mine["median_learn_seconds"], 3)
    if "losses" in mine and "losses" in other:
        apart = [abs(a - b) for a, b in zip(mine["losses"], other["losses"], strict=True)]
        result["largest_loss_difference"] = float(f"{max(apart):.3g}")
    return result


def costs(side: Mapping[str, Any]) -> list[float]:
    """Seconds a token where a side counts those it sampled, else seconds a step."""
    if "new_tokens" in side:
        return [seconds / tokens for seconds, tokens in zip(side["seconds"], side["new_tokens"], strict=True)]
    return list(side["seconds"])


def fallen(stored: Mapping[str, Any], anew: Mapping[str, Any], name: str) -> list[str]:
    """A warning for each ratio in the results `anew` that is below 85 % of the stored one."""
    warnings = []
    for other, before in stored["compared"].items():
        now = anew["compared"].get(other)
        if now is None:
            warnings.append(f"{name}: {other} did not run")
        elif now["times_faster"] < TOLERATED * before["times_faster"]:
            ratios = f"{now['times_faster']:.2f} times faster than {other}, {before['times_faster']:.2f} when stored"
            warnings.append(f"{name}: {ratios}")
    return warnings


def write(out: Path, command: str, about: Mapping[str, Any]) -> None:
    """A file of results: what was run, on what, and what was found."""
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"command": command, **machine, **about}, indent=1) + "\n")
