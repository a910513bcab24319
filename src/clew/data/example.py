"""One record of data, whatever its format: a prompt with no answer, one answer, or several in order of rank."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clew.types import Text, as_string

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


class NotText(ValueError):
    """The row is of a known format that text methods cannot use."""


def prompt_id(prompt: Text) -> str:
    return hashlib.sha256(as_string(prompt).encode()).hexdigest()[:16]


def ranked(prompt: Text, answers: Sequence[Text], ranks: Sequence[int], cut: Sequence[int] = ()) -> Example:
    """Answers in order of rank; `cut` are places in the order given."""
    order = sorted(range(len(answers)), key=lambda i: ranks[i])
    return Example(
        "",
        prompt,
        tuple(answers[i] for i in order),
        tuple(ranks[i] for i in order),
        cut=tuple(place for place, i in enumerate(order) if i in cut),
    )


def is_glued(example: Example) -> bool:
    """Whether an answer's first word runs into the prompt."""
    return any(_runs_into(example.prompt, answer) for answer in example.answers)


def joined(example: Example, join: str) -> Example:
    """With `join` at the beginning of the answers that run into the prompt."""
    answers = tuple(f"{join}{a}" if _runs_into(example.prompt, a) else a for a in example.answers)
    return replace(example, answers=answers)


def _runs_into(prompt: Text, answer: Text) -> bool:
    """Plain texts without white space between them, but for scripts that put none between words."""
    if not isinstance(prompt, str) or not isinstance(answer, str) or not prompt or prompt[-1].isspace():
        return False
    return FIRST_WORD.match(answer) is not None and UNSPACED.search(prompt[-1] + answer[:2]) is None


FIRST_WORD = re.compile(r"[\"(\[\u201c\u2018\u00ab]?\w")
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
"""Thai, Lao, Burmese, Khmer, Chinese and Japanese."""


def best_alone(example: Example) -> Example:
    """What there is to imitate: of several answers the best."""
    if len(example.answers) < 2:
        return example
    return replace(example, answers=example.answers[:1], ranks=(), cut=(0,) if 0 in example.cut else ())


def in_steps(prompt: Text, steps: Sequence[str], labels: Sequence[float]) -> Example:
    """Steps with labels, which may end at the first error; process reward models read them from `info`."""
    return Example("", prompt, ("\n".join(steps),), info={"steps": list(steps), "step_labels": list(labels)})
