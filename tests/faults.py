"""Files that fail: the operations of a run on files, counted, and one of them going wrong."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest

matplotlib.get_configdir(), matplotlib.get_cachedir()  # made when first asked for: not by the run that is counted

KINDS = ("fail", "kill", "kill after")
"""An operation fails as on a full disk, a write falling short; or nothing has an effect from it on, or after it."""


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


def operations(train: Callable[[], object]) -> int:
    """How many operations an undisturbed run makes."""
    counter = Faults("fail", -1)
    with pytest.MonkeyPatch.context() as patch:
        counter.install(patch)
        train()
    return counter.count


def disturbed(train: Callable[[], object], kind: str, at: int) -> None:
    """Run while operation `at` goes wrong."""
    faults = Faults(kind, at)
    with pytest.MonkeyPatch.context() as patch, pytest.raises((Killed, OSError)):
        faults.install(patch)
        train()
