"""What a file holds, what a method would see of it, and what is wrong with it: `clew data check`."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any

from clew.config import ConfigError
from clew.data.example import Example, NotText, Row, is_glued, joined
from clew.data.formats import FORMATS, Format, format_of, parse_row
from clew.data.sources import read_rows
from clew.types import Text, as_column, as_string

SHOWN = 5


@dataclass
class Survey:
    """A file, read to its end whatever is wrong with single rows."""

    rows: int = 0
    formats: Counter[str] = field(default_factory=Counter[str])
    about: dict[str, str] = field(default_factory=dict[str, str])
    """What each format found is and how it is read."""
    examples: list[Example] = field(default_factory=list[Example])
    numbers: list[int] = field(default_factory=list[int])
    """The row that each example comes from."""
    silent: list[int] = field(default_factory=list[int])
    """Rows that hold no example: exports that nobody has answered, trees without rankings."""
    lacking: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Rows that an empty column made less than the others -> which."""
    refused: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Rows that could not be read, and what is wrong with each."""


def survey(path: str, columns: Mapping[str, str] | None = None, *, join: str = "") -> Survey:
    """Every row of a file, with `join` before answers that are glued to their prompt.

    Raises ValueError or FileNotFoundError when it cannot be read as a file of rows.
    """
    _check_names(columns or {})
    found = Survey()
    for number, row in enumerate(read_rows(path, columns), 1):
        found.rows += 1
        form = format_of(row)
        found.formats[form.name if form else "unknown"] += 1
        found.about |= {form.name: form.about} if form else {}
        try:
            examples = parse_row(row, f"row {number}")
        except NotText as error:
            found.refused.append((number, f"known, and not for training: {error}".replace(f"row {number}: ", "")))
        except ValueError as error:
            found.refused.append((number, str(error).removeprefix(f"row {number}: ")))
        else:
            found.examples += [joined(e, join) for e in examples]
            found.numbers += [number] * len(examples)
            found.silent += [] if examples else [number]
            if form and (lacks := _lacks(row, form, examples)):
                found.lacking.setdefault(f"rows with no {lacks}, read as {form.name}", []).append(number)
    if not found.rows:
        raise ValueError(f"{path} has no rows")
    return found


def _lacks(row: Row, form: Format, examples: Sequence[Example]) -> str:
    """Answers that are null where the row has their columns, so that it is read as less than its columns say."""
    meant = format_of(dict.fromkeys(row, True))
    answers = [] if meant is None else [c for c in meant.columns if c in ANSWERS]
    empty = [c for c in answers if row.get(c) is None]
    is_less = len(empty) < len(answers) or not any(e.answers for e in examples)
    return " and ".join(empty) if meant is not form and is_less else ""


ANSWERS = ("chosen", "rejected", "completion", "completions", "output", "answer", "messages")


def _check_names(columns: Mapping[str, str]) -> None:
    known = sorted({c for f in FORMATS for c in (*f.columns, *f.optional) if c[0] != "*"} | {"weight", "cut", "tools"})
    for ours, theirs in columns.items():
        if ours not in known:
            near = get_close_matches(ours, known, n=1)
            meant = f"did you mean {near[0]}={theirs}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"{ours}={theirs}: clew knows no column {ours!r}; {meant}")


def problems(examples: Sequence[Example]) -> dict[str, list[int]]:
    """What a reader would want to know before training -> the places of the examples, where there are any."""
    found: dict[str, list[int]] = {}
    seen: set[str] = set()
    sides: dict[str, set[str]] = {}
    for example in examples:
        sides.setdefault(example.id, set()).add(str(example.info.get("split")))
    conflicting = contradictions(examples)
    for place, example in enumerate(examples):
        whole = [as_string(a) for a in example.answers]
        content = _content(example)
        odd = {
            "rows that repeat an earlier one": content in seen,
            "pairs or rankings with identical answers": len(set(whole)) < len(whole),
            "rows with an empty answer": any(not _said(a) for a in example.answers),
            TIES: len(whole) > 1 and len(set(example.ranks)) == 1,
            'rows whose answer runs into the prompt (--join " ")': is_glued(example),
            "pairs or rankings that conflict with another row": place in conflicting,
            "rows whose prompt is in another split too": len(sides[example.id]) > 1,
        }
        seen.add(content)
        for name in (name for name, is_odd in odd.items() if is_odd):
            found.setdefault(name, []).append(place)
    return found


TIES = "pairs or rankings that are all ties"


def rows_named(numbers: Iterable[int]) -> str:
    """The first of some rows, by their numbers."""
    named = sorted(set(numbers))
    return f"row {', '.join(map(str, named[:SHOWN]))}{', …' if len(named) > SHOWN else ''}"


def contradictions(examples: Sequence[Example]) -> set[int]:
    """Places of examples that order two answers to a prompt the other way round than another example does."""
    orders: dict[tuple[str, str, str], list[int]] = {}
    for place, e in enumerate(examples):
        for i, j in combinations(range(len(e.ranks)), 2):
            if e.ranks[i] < e.ranks[j]:
                orders.setdefault((e.id, as_string(e.answers[i]), as_string(e.answers[j])), []).append(place)
    return {p for (prompt, a, b), places in orders.items() if a != b and (prompt, b, a) in orders for p in places}


def leaks(train: Iterable[Example], heldout: Iterable[Example]) -> int:
    """Prompts of the held-out side that the training side has as well."""
    return len({e.id for e in heldout} & {e.id for e in train})


def _content(example: Example) -> str:
    return json.dumps([as_string(example.prompt), *(as_string(a) for a in example.answers), example.label])


def _said(answer: Text) -> bool:
    return bool(answer.strip()) if isinstance(answer, str) else any(m.content.strip() or m.tool_calls for m in answer)


def _is_ordered(example: Example) -> bool:
    return len(set(example.ranks)) > 1


USES: dict[str, tuple[str, Callable[[Example], bool]]] = {
    "pretrain": ("plain text", lambda e: not e.prompt and any(isinstance(a, str) for a in e.answers)),
    "sft": ("an answer; of several the best", lambda e: len(e.answers) == 1 or _is_ordered(e)),
    "reward": ("answers in an order, or one with a label", lambda e: _is_ordered(e) or e.label is not None),
    "dpo": ("two answers, one better", _is_ordered),
    "kto": ("an answer labelled true or false, or a pair", lambda e: _is_ordered(e) or e.label in (0, 1)),
    "rl": ("a prompt", lambda e: bool(e.prompt)),
}
"""What each method needs of an example, in words and as a test; `fitting` looks at the whole file as well."""


def usable(examples: Sequence[Example]) -> dict[str, int]:
    """How many examples each method can use."""
    return {method: len(fitting(examples, method)) for method in USES}


def fitting(examples: Sequence[Example], method: str) -> list[int]:
    """Places of the examples of a file that a method can use."""
    fits = USES[method][1]
    if method == "kto" and not labels_are_thumbs(examples):
        fits = _is_ordered
    return [place for place, example in enumerate(examples) if fits(example)]


def labels_are_thumbs(examples: Iterable[Example]) -> bool:
    """Whether labels say good or bad. All of a file decide: a scale has ratings of 1 and 0 too."""
    return all(e.label in (None, 0, 1) for e in examples)


def as_row(example: Example) -> dict[str, Any]:
    """An example in clew's own columns, which are TRL's where TRL has any."""
    row: dict[str, Any] = {}
    if example.prompt or len(example.answers) > 1:  # a pair without one would begin with a prompt in common
        row["prompt"] = as_column(example.prompt) or ""
    answers = [as_column(a) for a in example.answers]
    if len(answers) == 2 and example.ranks == (0, 1):
        row |= {"chosen": answers[0], "rejected": answers[1]}
        row |= {"margin": example.margin} if example.margin else {}
        row |= {"agreement": example.agreement} if example.agreement != 1 else {}
    elif len(answers) > 1:
        row |= {"completions": answers, "ranks": list(example.ranks)}
    elif answers and example.prompt:
        row |= {"completion": answers[0]}
    elif answers:
        row |= {"text" if isinstance(answers[0], str) else "messages": answers[0]}
    row |= {"label": example.label} if example.label is not None else {}
    row |= {"weight": example.weight} if example.weight != 1 else {}
    row |= {"cut": list(example.cut)} if example.cut else {}
    return row | {k: v for k, v in example.info.items() if k not in row}


def convert(examples: Iterable[Example], target: Path) -> int:
    """Write examples as JSONL in clew's own columns; how many."""
    lines = [json.dumps(as_row(e), ensure_ascii=False) for e in examples]
    target.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(lines)
