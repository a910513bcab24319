"""Preference-model pretraining, binarised (arXiv 2112.00861): good or bad, not better or worse."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from clew.data.check import as_row
from clew.data.example import Example
from clew.data.sources import Source, load_examples
from clew.types import Text

GOOD, BAD = "GOOD: ", "BAD: "


def binarised(example: Example, *, good: str = GOOD, bad: str = BAD) -> list[Example]:
    """Every two answers A before B as two items: of A that it is good rather than bad, of B that it is bad rather than
    good. Both rows of an item differ in that mark alone, so that nothing else can tell them apart.
    """
    found: list[Example] = []
    for i, j in combinations(range(len(example.ranks)), 2):
        if example.ranks[i] < example.ranks[j]:
            for place, marks in ((i, (good, bad)), (j, (bad, good))):
                answers = tuple(_marked(example.answers[place], mark) for mark in marks)
                cut = (0, 1) if place in example.cut else ()
                found.append(replace(example, answers=answers, ranks=(0, 1), cut=cut))
    return found


def rows(
    *, path: str, good: str = GOOD, bad: str = BAD, columns: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """The binarised rows of a file, for `prepare`. Raises ValueError when it has neither pairs nor rankings."""
    num = 0
    for example in load_examples(Source(path=path, columns=dict(columns or {}))):
        for item in binarised(example, good=good, bad=bad):
            num += 1
            yield as_row(item)
    if not num:
        raise ValueError(f"{path} has no answers of which one ranks better; binarising needs pairs or rankings")


def _marked(answer: Text, mark: str) -> Text:
    """With the mark at its beginning, behind white space that joins it to the prompt."""
    if not isinstance(answer, str):
        return (replace(answer[0], content=f"{mark}{answer[0].content}"), *answer[1:])
    words = answer.lstrip()
    return f"{answer[: len(answer) - len(words)]}{mark}{words}"
