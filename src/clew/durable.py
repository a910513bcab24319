"""Files that a crash leaves whole or not at all."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_durably(file: Path, text: str) -> None:
    """Write a whole file or nothing: to a neighbour, fsync, rename, fsync the folder."""
    building = file.with_name(file.name + ".partial")
    with building.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    building.replace(file)
    fsync(file.parent)


def read_lines(file: Path) -> list[str]:
    """Lines of a JSONL file: ended by a newline alone, since texts may hold other line separators."""
    return [line for line in file.read_text(encoding="utf-8").split("\n") if line]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file that may not be there; a last one that a crash has torn is left out."""
    lines = read_lines(file) if file.exists() else []
    rows = [json.loads(line) for line in lines[:-1]]
    with suppress(json.JSONDecodeError):
        rows += [json.loads(line) for line in lines[-1:]]
    return rows


def seal(folder: Path) -> None:
    """Write a manifest of sha256 over every file of a folder, everything fsynced."""
    hashes = {f.relative_to(folder).as_posix(): _sha256(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    for name in hashes:
        fsync(folder / name)
    write_durably(folder / "manifest.json", json.dumps(hashes, indent=1))


def broken(folder: Path) -> str | None:
    """What is wrong with a sealed folder; None when it is whole."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text())
        for name, expected in hashes.items():
            if _sha256(folder / name) != expected:
                return f"{name} does not match its hash"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
