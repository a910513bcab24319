"""Rows from JSONL (plain or gzip), JSON, parquet or the hub, in the formats people have, as one kind of record.

Formats are those of TRL (standard strings and conversational message lists), HH transcripts, and rankings of K.
"""

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from clew.config import Config
from clew.types import Message, Role, Text, as_string

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One record, whatever its format: a prompt with no answer, one answer, or several in order of rank.

    Example: a pair is `Example("3f2a", "How was the soup?", (" Lovely.", " Awful."), (0, 1))`
    """

    id: str
    """Of the prompt: rows with equal prompts share it, and go to the same side of every split."""
    prompt: Text
    answers: tuple[Text, ...] = ()
    ranks: tuple[int, ...] = ()
    label: float | None = None
    """Thumb or rating of a single answer; None when it has none."""
    margin: float = 0.0
    """How much better the first answer is said to be."""
    agreement: float = 1.0
    """Probability that the stated order is right."""
    weight: float = 1.0
    cut: tuple[int, ...] = ()
    """Answers that were cut by length: they have no end, so no stop token."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """The other columns."""


class Source(Config):
    """Where examples come from, and which of them."""

    path: str
    """A .jsonl, .jsonl.gz, .json or .parquet file, a folder of them, or a hub name (`owner/name[:split]`)."""
    part: Literal["all", "train", "heldout"] = "all"
    """Side of the split by prompt; the two sides never share a prompt."""
    heldout: float = 0.1
    """Share of prompts on the held-out side."""
    fold: int | None = None
    """Which of `folds` disjoint groups of prompts; all when absent."""
    folds: int = 2
    limit: int | None = None
    """Use the first so many."""


def load_examples(source: Source) -> list[Example]:
    """All examples of a source, in file order. Raises ValueError naming the row and the column that are wrong."""
    examples = [parse_row(row, f"{source.path} row {i}") for i, row in enumerate(read_rows(source.path), 1)]
    if not examples:
        raise ValueError(f"{source.path} has no rows")
    chosen = [e for e in examples if _selected(e.id, source)][: source.limit]
    if not chosen:
        raise ValueError(
            f"{source.path}: none of its {len(examples)} rows is in part {source.part!r}, fold {source.fold}; "
            "raise `heldout`, or give more data"
        )
    weight = sum(e.weight for e in chosen) / len(chosen)
    if weight == 0:
        raise ValueError(f"{source.path}: every row has weight 0")
    return chosen if weight == 1 else [replace(e, weight=e.weight / weight) for e in chosen]


def without_repeats(examples: Sequence[Example]) -> list[Example]:
    """Each prompt once: the first example of it."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.id, example)
    return list(first.values())


def _selected(prompt_id: str, source: Source) -> bool:
    place = int(hashlib.sha256(b"split" + prompt_id.encode()).hexdigest()[:8], 16) / 2**32
    if source.part != "all" and (place < source.heldout) != (source.part == "heldout"):
        return False
    group = int(hashlib.sha256(b"fold" + prompt_id.encode()).hexdigest()[:8], 16) % source.folds
    return source.fold is None or group == source.fold


def read_rows(path: str) -> Iterator[Row]:
    """Rows of a file, of every data file in a folder, or of a hub dataset."""
    file = Path(path)
    if file.is_dir():
        files = sorted(f for f in file.iterdir() if f.name.endswith(tuple(READERS)))
        if not files:
            raise ValueError(f"{path}: no data file there; expected {', '.join(READERS)}")
        for each in files:
            yield from read_rows(str(each))
        return
    suffix = next((s for s in READERS if path.endswith(s)), None)
    if suffix and file.exists():
        try:
            yield from READERS[suffix](file)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is no {suffix} file, or a damaged one: {error}") from error
    elif file.exists():
        raise ValueError(f"{path}: unknown kind of file; expected one of {', '.join(READERS)}")
    elif suffix or path.startswith((".", "/", "~")) or (file.suffix and "/" not in path):
        raise FileNotFoundError(f"{path} does not exist")
    else:
        yield from _hub(path)


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


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow; pip install 'clew[data]'") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
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
    yield from cast("Iterator[Row]", load_dataset(repository, split=split or "train"))


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
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


def parse_row(row: Row, where: str) -> Example:
    """One row of any known format. `where` names it in errors."""
    for form in FORMATS:
        if all(row.get(column) is not None for column in form.columns):
            used = {*form.columns, *form.optional}
            example = form.parse(row, where)
            info = {k: v for k, v in row.items() if k not in used}
            weight = _number(row, "weight", where, 1.0, least=0.0)
            cut = tuple(row["cut"]) if isinstance(row.get("cut"), list) else ()
            return replace(example, id=_prompt_id(example), weight=weight, cut=cut, info=info)
    known = "; ".join(" + ".join(form.columns) for form in FORMATS)
    raise ValueError(f"{where}: columns {sorted(row)} are of no known format; expected one of: {known}")


def _prompt_id(example: Example) -> str:
    """Where there is no prompt apart, it is what the text or the conversation begins with."""
    if example.prompt or not example.answers:
        return prompt_id(example.prompt)
    whole = example.answers[0]
    return prompt_id(whole if isinstance(whole, str) else tuple(takewhile(lambda m: m.role != "assistant", whole)))


def prompt_id(prompt: Text) -> str:
    return hashlib.sha256(as_string(prompt).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Format:
    columns: tuple[str, ...]
    parse: Callable[[Row, str], Example]
    optional: tuple[str, ...] = ("weight", "cut")


def _ranking(row: Row, where: str) -> Example:
    answers = row["completions"]
    if not isinstance(answers, list) or len(answers) < 2:
        raise ValueError(f"{where}: column 'completions' needs a list of at least two answers; got {answers!r:.80}")
    if all(isinstance(a, dict) and "completion" in a for a in answers):  # NeMo: {rank, completion}
        ranks = [a.get("rank") for a in answers]
        answers = [a["completion"] for a in answers]
    else:
        ranks = row["ranks"] if row.get("ranks") is not None else list(range(len(answers)))
    if len(ranks) != len(answers) or not all(isinstance(r, int) for r in ranks):
        raise ValueError(
            f"{where}: column 'ranks' needs one integer for each of {len(answers)} completions; got {ranks}"
        )
    order = sorted(range(len(answers)), key=lambda i: ranks[i])
    prompt = row["prompt"] if row.get("prompt") is not None else row["context"]
    return Example(
        "",
        _text(prompt, "prompt", where),
        tuple(_text(answers[i], "completions", where) for i in order),
        tuple(ranks[i] for i in order),
    )


def _pair(row: Row, where: str) -> Example:
    chosen, rejected = (_text(row[c], c, where) for c in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError(f"{where}: 'chosen' and 'rejected' must both be text or both messages")
    prompt = "" if row.get("prompt") is None else _text(row["prompt"], "prompt", where)
    if row.get("prompt") is None or _repeats(prompt, chosen, rejected):
        prompt, chosen, rejected = _common_prompt(chosen, rejected, where)
    elif isinstance(prompt, str) and not isinstance(chosen, str):
        prompt = (Message("user", prompt),)
    return Example(
        "",
        prompt,
        (chosen, rejected),
        (0, 1),
        margin=_number(row, "margin", where, 0.0),
        agreement=_number(row, "agreement", where, 1.0, least=0.0, most=1.0),
    )


def _single(row: Row, where: str) -> Example:
    column = next((c for c in ("label", "rating") if row.get(c) is not None), None)
    return Example(
        "",
        _text(row["prompt"], "prompt", where),
        (_text(row["completion"], "completion", where),),
        label=None if column is None else _number(row, column, where, 0.0),
    )


def _stepwise(row: Row, where: str) -> Example:
    raise ValueError(f"{where}: stepwise labels ('completions' with 'labels') need a process reward model")


FORMATS = (
    Format(("prompt", "completions", "labels"), _stepwise),
    Format(("prompt", "completions"), _ranking, ("ranks", "weight", "cut")),
    Format(("context", "completions"), _ranking),
    Format(("prompt", "chosen", "rejected"), _pair, ("margin", "agreement", "weight", "cut")),
    Format(("chosen", "rejected"), _pair, ("prompt", "margin", "agreement", "weight", "cut")),
    Format(("prompt", "completion"), _single, ("label", "rating", "weight", "cut")),
    Format(("prompt",), lambda row, where: Example("", _text(row["prompt"], "prompt", where))),
    Format(("messages",), lambda row, where: Example("", (), (_text(row["messages"], "messages", where),))),
    Format(("text",), lambda row, where: Example("", "", (_text(row["text"], "text", where),))),
)
"""Tried in this order: the first whose columns are all there."""


def _text(value: Any, column: str, where: str) -> Text:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        return tuple(_message(m, column, where) for m in value)
    raise ValueError(f"{where}: column {column!r} needs text or a list of messages; got {value!r:.80}")


def _message(message: Mapping[str, Any], column: str, where: str) -> Message:
    role, content = message.get("role"), message.get("content")
    if role not in get_args(Role) or not isinstance(content, str):
        raise ValueError(
            f"{where}: column {column!r} has a message {dict(message)!r:.80}; expected role in {get_args(Role)} and "
            "content as text"
        )
    return Message(cast(Role, role), content)


def _number(
    row: Row, column: str, where: str, default: float, *, least: float = -np.inf, most: float = np.inf
) -> float:
    value = row[column] if row.get(column) is not None else default
    if isinstance(value, (int, float)) and np.isfinite(value) and least <= value <= most:
        return float(value)
    bounds = "" if least == -np.inf else f" of at least {least:g}" if most == np.inf else f" in [{least:g}, {most:g}]"
    raise ValueError(f"{where}: column {column!r} needs a finite number{bounds}; got {value!r:.80}")


def _repeats(prompt: Text, chosen: Text, rejected: Text) -> bool:
    """Whether the answers are whole conversations, the prompt in front: transcripts, or messages from a user's on."""
    if isinstance(chosen, str):
        whole = isinstance(prompt, str) and "\n\nAssistant:" in prompt
        return whole and chosen.startswith(str(prompt)) and rejected[: len(prompt)] == prompt
    return chosen[0].role != "assistant"


def _common_prompt(chosen: Text, rejected: Text, where: str) -> tuple[Text, Text, Text]:
    """Split two transcripts into what they share and how each goes on (HH, TRL's implicit prompt)."""
    if isinstance(chosen, str) and isinstance(rejected, str) and "\n\nAssistant:" in chosen:
        chosen, rejected = parse_transcript(chosen, where), parse_transcript(rejected, where)
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if isinstance(chosen, str):
        shared = max(chosen.rfind(" ", 0, shared), 0)
    else:  # an answer begins with the assistant, and is not empty where both are the same
        shared = min(shared, len(chosen) - 1, len(rejected) - 1)
        while shared and chosen[shared].role != "assistant":  # type: ignore[union-attr]
            shared -= 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def parse_transcript(text: str, where: str) -> tuple[Message, ...]:
    """HH's "\\n\\nHuman: …\\n\\nAssistant: …" as messages."""
    marks = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}
    messages: list[Message] = []
    rest = text if text.startswith("\n\n") else "\n\n" + text
    while rest:
        role = next((r for mark, r in marks.items() if rest.startswith(mark)), None)
        if role is None:
            raise ValueError(f"{where}: transcript does not begin with Human: or Assistant:, got {rest[:60]!r}")
        body = rest.split(":", 1)[1]
        ends = [i for mark in marks if (i := body.find(mark)) >= 0]
        end = min(ends, default=len(body))
        messages.append(Message(cast(Role, role), body[:end].strip()))
        rest = body[end:]
    return tuple(messages)


def describe(examples: Sequence[Example]) -> dict[str, int]:
    """What a reader of the data would want to know before training: counts of kinds and of odd rows."""
    counts: Counter[str] = Counter(rows=len(examples), prompts=len({e.id for e in examples}))
    for example in examples:
        counts["identical answers"] += len(set(example.answers)) < len(example.answers)
        counts["empty answers"] += any(not a for a in example.answers)
        counts["empty prompts"] += not example.prompt
    return dict(counts)


def order(num: int, *, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch: a function of (seed, epoch), so a resumed run needs no cursor but its step."""
    return np.random.default_rng([seed, epoch]).permutation(num)


def step_indices(num: int, size: int, *, seed: int, step: int) -> list[int]:
    """Which `size` of `num` rows the step (from 0) sees: consecutive places of endless reshuffled epochs."""
    places = range(step * size, (step + 1) * size)
    epochs = {p // num for p in places}
    shuffled = {epoch: order(num, seed=seed, epoch=epoch) for epoch in epochs}
    return [int(shuffled[p // num][p % num]) for p in places]
