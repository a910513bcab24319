"""Rows of data as tasks for people: pairs, rankings, single answers, prompts, solutions in steps, clips."""

import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import TypeAdapter, ValidationError

from clew.data.example import Example
from clew.data.formats import parse_row
from clew.feedback.known import agrees
from clew.feedback.projects import Gold
from clew.feedback.records import NUM_ITEMS, Answer, Item, Task, TaskKind
from clew.types import Text
from clew.web.media import keep


class Asked(NamedTuple):
    """A task with what it shows, and the answer where that is known."""

    task: Task
    items: tuple[Item, ...]
    gold: Gold | None = None
    is_training: bool = False


class Unfit(ValueError):
    """A row that cannot be asked about."""


def tasks_of_row(row: dict[str, Any], kind: TaskKind, where: str, *, media: Path | None = None) -> list[Asked]:
    """What a row asks, in any format that clew reads, with `gold`, `explanation` and `training` beside it.

    `clips` are paths of two files, kept in the folder `media`; without one they are refused. Raises ValueError.
    """
    found = [asked for example in parse_row(row, where) for asked in tasks_of(example, kind, where, media=media)]
    for asked in found:
        if named := leaks(asked.items):
            raise Unfit(f"{where}: an answer names {', '.join(named)}, which tells raters who wrote it; take it out")
    return found


def tasks_of(example: Example, kind: TaskKind, where: str, *, media: Path | None = None) -> list[Asked]:
    """Raises Unfit for an example that has not what the kind asks about."""
    gold = _gold(example, where)
    found: list[Asked] = []
    for items in _shown(example, kind, where, media):
        if len({item.id for item in items}) < len(items):
            raise Unfit(f"{where}: two answers are the same; there is nothing to compare")
        task = Task(kind=kind, prompt=example.prompt, items=tuple(item.id for item in items))
        found.append(Asked(task, items, gold, bool(example.info.get("training"))))
    return found


def kind_of(example: Example) -> TaskKind:
    """What is asked when nobody says it."""
    if "clips" in example.info:
        return "clips"
    if "steps" in example.info:
        return "steps"
    return {0: "demonstration", 1: "rating", 2: "comparison"}.get(len(example.answers), "ranking")  # pyright: ignore[reportReturnType]


def check_kind(kind: str) -> TaskKind:
    """Raises ValueError for what nobody can be asked."""
    kinds = [k for part in get_args(TaskKind) for k in (get_args(part) or (part,)) if k != "critique"]
    if kind not in kinds:
        raise ValueError(f"no kind {kind!r}; there are {', '.join(kinds)}")
    return kind  # pyright: ignore[reportReturnType]


def leaks(items: Iterable[Item]) -> list[str]:
    """Names of models and their makers in answers: who reads them no longer judges blindly."""
    return sorted({match.lower() for item in items for match in NAMES.findall(item.completion)})


def _shown(example: Example, kind: TaskKind, where: str, media: Path | None) -> list[tuple[Item, ...]]:
    least, most = NUM_ITEMS.get(kind, (1, 1))
    if most == 0:
        return [()]
    if kind == "clips":
        return [_clips(example, where, media)]
    steps = tuple(str(step) for step in example.info.get("steps", ()))
    if kind == "steps" and not steps:
        raise Unfit(f"{where}: no steps to label; expected a prompt and a list of steps in `completions`")
    items = [Item(prompt=example.prompt, completion=_string(answer), steps=steps) for answer in example.answers]
    if len(items) < least:
        raise Unfit(f"{where}: a {kind} needs {least} answers or more; got {len(items)}")
    if kind == "comparison":
        return list(combinations(items, 2))
    return [(item,) for item in items] if most == 1 else [tuple(items)]


def _clips(example: Example, where: str, media: Path | None) -> tuple[Item, ...]:
    paths = example.info.get("clips")
    if media is None:
        raise Unfit(f"{where}: clips come from files beside the server: clew desk --tasks FILE")
    if not isinstance(paths, list) or len(paths) != 2:
        raise Unfit(f"{where}: column 'clips' needs the paths of two files; got {paths!r:.80}")
    folder = Path(where.rpartition(" row ")[0]).parent
    return tuple(Item(prompt=example.prompt, completion="", media=keep(folder / str(path), media)) for path in paths)


def _gold(example: Example, where: str) -> Gold | None:
    known = example.info.get("gold")
    if known is None:
        return None
    try:
        answer = ANSWER.validate_python(known)
    except ValidationError as error:
        raise Unfit(f"{where}: column 'gold' is no answer: {error.errors()[0]['msg']}") from error
    if agrees(answer, answer) is None:
        raise Unfit(f"{where}: a {answer.kind} has no known answer to compare with")
    return Gold(answer, str(example.info.get("explanation", "")))


def _string(text: Text) -> str:
    return text if isinstance(text, str) else "\n\n".join(message.content for message in text)


def by_use(asked: Sequence[Asked]) -> dict[bool, list[Asked]]:
    """Those for training, and the others."""
    return {wanted: found for wanted in (False, True) if (found := [a for a in asked if a.is_training == wanted])}


ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
NAMES = re.compile(
    r"\b(?:chat-?gpt|gpt-?[2345]\w*|openai|claude|anthropic|gemini|google deepmind|llama[ -]?[1234]?|vicuna|alpaca|"
    r"mistral|mixtral|qwen|deepseek|koala-?13b|dolly|bard|palm-?2)\b",
    re.IGNORECASE,
)
