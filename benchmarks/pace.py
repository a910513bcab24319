"""What a side of a race hears and says (paired.py). Standard library only: it runs in the peers' environments too."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever libraries print goes to the error stream


def options() -> dict[str, Any]:
    """What the driver asks of this side."""
    return json.loads(sys.argv[1])


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Lines of JSON."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def say(**values: Any) -> None:
    _out.write(json.dumps(values) + "\n")
    _out.flush()


def resident_mib() -> float:
    """Peak memory of this process so far, as Linux counts it; on a GPU, of its allocations there."""
    cuda = _cuda()
    if cuda is not None:
        return round(cuda.max_memory_allocated() / 2**20, 1)
    # Not getrusage: its maximum begins with what the driver had when it started this process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status["VmHWM"].split()[0]) / 1024, 1)


def forget_peak() -> None:
    """Count the peak memory of this process from here (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


class Turns:
    """`if not turns.mine(): return` before a step, `turns.done(loss=...)` after it; at last `turns.mine()` again."""

    def mine(self) -> bool:
        """Wait; False, after telling the peak memory, when there is no further step."""
        if not sys.stdin.readline():
            say(peak_mib=resident_mib())
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """What was done since `mine` is not counted."""
        _settle()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def elapsed(self) -> float:
        """Seconds of this turn so far."""
        _settle()
        return time.perf_counter() - self._wall

    def done(self, *, after: Callable[[], dict[str, float]] = dict, **numbers: float) -> None:
        """End the turn. `after` measures what is told with it and not counted."""
        seconds, cpu_seconds = self.elapsed(), time.process_time() - self._cpu
        say(seconds=seconds, cpu_seconds=cpu_seconds, **numbers, **after())


def _settle() -> None:
    cuda = _cuda()
    if cuda is not None:
        cuda.synchronize()


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
