"""Rows from JSONL (plain or gzip), JSON, parquet or the hub, as examples; splits by prompt; the order of training."""

import csv
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from pydantic import Field, ValidationInfo, model_validator

from clew.config import Config, must_be_there
from clew.data import dataset_info
from clew.data.example import joined
from clew.data.formats import Example, Row, parse_row


class Source(Config):
    """Where examples come from, and which of them."""

    path: str
    """A .jsonl, .jsonl.gz, .json, .parquet, .csv, .tsv or .txt file, a folder of them, or a hub name
    (`owner/name[:split]`)."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Name that clew knows -> name in the file: `{prompt: question, chosen: better, rejected: worse}`."""
    join: str = ""
    """Put before answers whose first word would run into the prompt, such as " "; prompts stay as they are."""
    part: Literal["all", "train", "heldout"] = "all"
    """Side of the split by prompt; the two sides never share a prompt."""
    heldout: float = Field(default=0.1, ge=0, le=1)
    """Share of prompts on the held-out side."""
    fold: int | None = Field(default=None, ge=0)
    """Which of `folds` disjoint groups of prompts; all when absent."""
    folds: int = Field(default=2, ge=1)
    limit: int | None = Field(default=None, ge=1)
    """Use the first so many."""

    @model_validator(mode="after")
    def _can_be_read(self, info: ValidationInfo) -> Self:
        if must_be_there(info, self.path) and not _is_hub(self.path):
            _check_first_row(self)
        return self


def load_examples(source: Source) -> list[Example]:
    """All examples of a source, in file order. Raises ValueError naming the row and the column that are wrong."""
    numbered = enumerate(read_rows(source.path, source.columns), 1)
    examples = [e for i, row in numbered for e in parse_row(row, f"{source.path} row {i}")]
    if not examples:
        raise ValueError(f"{source.path} has no rows")
    chosen = [e for e in examples if _selected(e.id, source)][: source.limit]
    if not chosen:
        raise ValueError(
            f"{source.path}: none of its {len(examples)} rows is in part {source.part!r}, fold {source.fold}; "
            "raise `heldout`, or give more data"
        )
    chosen = [joined(e, source.join) for e in chosen] if source.join else chosen
    weight = sum(e.weight for e in chosen) / len(chosen)
    if weight == 0:
        raise ValueError(f"{source.path}: every row has weight 0")
    return chosen if weight == 1 else [replace(e, weight=e.weight / weight) for e in chosen]


def _check_first_row(source: Source) -> None:
    """The file is there and begins as a file of examples does. Raises ValueError."""
    try:
        row = next(read_rows(source.path, source.columns), None)
    except FileNotFoundError as error:
        raise ValueError(f"{error} (paths are relative to the current folder, {Path.cwd()})") from error
    except (OSError, ImportError) as error:
        raise ValueError(str(error)) from error
    if row is None:
        raise ValueError(f"{source.path} has no rows")
    parse_row(row, f"{source.path} row 1")


def without_repeats(examples: Sequence[Example]) -> list[Example]:
    """Each prompt once: the first example of it."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.id, example)
    return list(first.values())


def split_place(prompt_id: str) -> float:
    """Where in [0, 1) a prompt lies, by its hash: the lowest are held out."""
    return int(hashlib.sha256(b"split" + prompt_id.encode()).hexdigest()[:8], 16) / 2**32


def _selected(prompt_id: str, source: Source) -> bool:
    if source.part != "all" and (split_place(prompt_id) < source.heldout) != (source.part == "heldout"):
        return False
    group = int(hashlib.sha256(b"fold" + prompt_id.encode()).hexdigest()[:8], 16) % source.folds
    return source.fold is None or group == source.fold


def read_rows(path: str, columns: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Rows of a file, of every data file in a folder, or of a hub dataset, with `columns` renamed.

    Where LLaMA-Factory's `dataset_info.json` lies beside the file and names it, its columns are meant as it says.
    """
    rename = dataset_info.renaming(Path(path))
    for number, row in enumerate(_rows(path), 1):
        row = row if rename is None else rename(row)
        if columns:
            missing = [theirs for theirs in columns.values() if theirs not in row]
            if missing:
                raise ValueError(f"{path} row {number}: no column {missing[0]!r} (columns: {', '.join(row)})")
            rest = {k: v for k, v in row.items() if k not in columns.values()}
            row = {**rest, **{ours: row[theirs] for ours, theirs in columns.items()}}
        yield row


def _rows(path: str) -> Iterator[Row]:
    file = Path(path)
    if file.is_dir():
        files = sorted(f for f in file.iterdir() if f.name.endswith(tuple(READERS)) and f.name != dataset_info.NAME)
        if not files:
            raise ValueError(f"{path}: no data file there; expected {', '.join(READERS)}")
        for each in files:
            yield from read_rows(str(each))
        return
    suffix = next((s for s in READERS if path.endswith(s)), None)
    if suffix and file.exists():
        try:
            yield from READERS[suffix](file)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error, csv.Error) as error:
            raise ValueError(f"{path} is no {suffix} file, or a damaged one: {error}") from error
    elif file.exists():
        yield from _labelled_lines(file)
    elif _is_hub(path):
        yield from _hub(path)
    else:
        raise FileNotFoundError(f"{path} does not exist")


def _is_hub(path: str) -> bool:
    """Neither a file here nor written like one."""
    file = Path(path)
    is_written_like_one = path.startswith((".", "/", "~")) or (file.suffix and "/" not in path)
    return not (file.exists() or path.endswith(tuple(READERS)) or is_written_like_one)


def _jsonl(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _object(_parse(line, f"{path} line {number}"), f"{path} line {number}")


def _json(path: Path) -> Iterator[Row]:
    content = _parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of objects; got {type(content).__name__}")
    for i, row in enumerate(content):
        yield _object(row, f"{path} row {i}")


def _labelled_lines(path: Path) -> Iterator[Row]:
    """Lines of a number and a text, as SST has them; UTF-8, or else latin-1. Raises ValueError for other files."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    for number, line in enumerate(text.splitlines(), 1):
        label, _, sentence = line.partition(" ")
        if not re.fullmatch(r"-?\d{1,6}", label) or not sentence.strip():
            if number == 1:
                raise ValueError(f"{path}: unknown kind of file; expected one of {', '.join(READERS)}")
            raise ValueError(
                f"{path} line {number}: expected a number and a text, as in the lines before; got {line!r:.60}"
            )
        yield {"text": sentence, "label": int(label)}


def _txt(path: Path) -> Iterator[Row]:
    """Every line that is not empty is a text."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield {"text": line.rstrip("\n")}


def _csv(path: Path) -> Iterator[Row]:
    """A table whose first line names the columns; those that are numbers in every format are numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","), 1):
            if None in row or None in row.values():
                raise ValueError(
                    f"{path} row {number}: expected {len(row) - (None in row)} columns, as in the first line"
                )
            yield {k: _cell(v) if k in NUMBERS else v for k, v in row.items()}


def _cell(text: str) -> Any:
    words = {"": None, "true": True, "false": False}
    try:
        return words[text.lower()] if text.lower() in words else float(text)
    except ValueError:
        return text


NUMBERS = {"label", "rating", "margin", "agreement", "weight"}


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow; pip install 'clew[data]'") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from map(_unfilled, batch.to_pylist())
    except ArrowInvalid as error:
        raise ValueError(f"{path} is no parquet file, or a damaged one: {error}") from error


def _hub(name: str) -> Iterator[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            f"{name} is not a file here, so it would be a hub dataset, which needs: pip install 'clew[data]'"
        ) from error
    repository, _, split = name.partition(":")
    yield from map(_unfilled, cast("Iterator[Row]", load_dataset(repository, split=split or "train")))


def _unfilled(value: Any, *, is_tool: bool = False) -> Any:
    """Without the nulls in tools and their calls: in a table, each has the fields of all others."""
    if isinstance(value, dict):
        inner = {k: _unfilled(v, is_tool=is_tool or k in ("tools", "tool_calls")) for k, v in value.items()}
        return {k: v for k, v in inner.items() if v is not None} if is_tool else inner
    return [_unfilled(v, is_tool=is_tool) for v in value] if isinstance(value, list) else value


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".txt": _txt,
    ".csv": _csv,
    ".tsv": _csv,
}


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with named columns; got {type(row).__name__}")
    return row


def order(num: int, *, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch: a function of (seed, epoch), so a resumed run needs no cursor but its step."""
    return np.random.default_rng([seed, epoch]).permutation(num)


def step_indices(num: int, size: int, *, seed: int, step: int) -> list[int]:
    """Which `size` of `num` rows the step (from 0) sees: consecutive places of endless reshuffled epochs."""
    places = range(step * size, (step + 1) * size)
    epochs = {p // num for p in places}
    shuffled = {epoch: order(num, seed=seed, epoch=epoch) for epoch in epochs}
    return [int(shuffled[p // num][p % num]) for p in places]
