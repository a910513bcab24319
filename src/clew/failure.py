"""How a run fails: with what it was doing, what to change, and a file of evidence where that helps. No torch."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


class Failure(Exception):
    """Stops a run. `evidence` is text by file name; the run keeps it in its directory and the message names it."""

    def __init__(self, message: str, evidence: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.evidence = dict(evidence or {})
        self.kept: list[Path] = []

    def keep(self, folder: Path) -> None:
        """Write the evidence; where even that fails (a full disk), the message alone has to do."""
        for name, text in self.evidence.items():
            with suppress(OSError):
                (folder / name).write_text(text, encoding="utf-8")
                self.kept.append(folder / name)

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. See {', '.join(map(str, self.kept))}" if self.kept else message


class OutOfMemory(Failure):
    """Of a GPU or of the machine."""


class NoSpace(Failure):
    """The disk is too small for what the run will write."""


OUT_OF_MEMORY = re.compile(
    r"(CUDA|HIP|XPU|MPS backend) out of memory"
    r"|(CUDA|HIP)( driver)? error: (out of memory|\w+_STATUS_ALLOC_FAILED)"
    r"|\[enforce fail at .*DefaultCPUAllocator: (can't allocate|not enough) memory"
)
"""How PyTorch's own errors begin, which mostly have no type of their own; a reward may quote a server that says so."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Of this process: Python or PyTorch said so itself."""
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or OUT_OF_MEMORY.match(str(error)) is not None
    return isinstance(error, MemoryError)


@contextmanager
def memory_for(doing: str, *, advice: str) -> Iterator[None]:
    """Say what needed the memory, and which settings need less. Raises OutOfMemory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory while {doing}{_wanted(str(error))}; {advice}. Then the same command goes on from the last "
            "checkpoint"
        ) from error


def _wanted(says: str) -> str:
    """How much more it should have been: 20.00 MiB on CUDA, bytes on the CPU."""
    found = re.search(r"tried to allocate ([\d.]+) (\w+)", says, re.IGNORECASE)
    if found is None:
        return ""
    size = f"{int(found[1]) / 1e9:,.1f} GB" if found[2] == "bytes" else f"{found[1]} {found[2]}"
    return f" ({size} more were wanted)"


def check_space(folder: Path, *, checkpoints: int, checkpoint_bytes: int, model_bytes: int) -> None:
    """Before the first step: the folder's disk holds the checkpoints still to come and the model. Raises NoSpace."""
    needed, free = checkpoints * checkpoint_bytes + model_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise NoSpace(
            f"{folder} will take {_size(needed)} ({checkpoints} checkpoints of {_size(checkpoint_bytes)} and a model "
            f"of {_size(model_bytes)}), and {_size(free)} are free there; free some space, lower `keep`, or choose "
            "another `out`"
        )


def _size(num: int) -> str:
    return f"{num / 1e9:,.1f} GB" if num >= 1e9 else f"{num / 1e6:,.1f} MB"
