"""Which dialogues are well-formed, by heuristics that look at the text alone: `clew data filter`.

Scraped and sampled dialogues run on into the next speaker's turn, stop in the middle, repeat themselves, or are no
dialogues. `HEURISTICS` at the foot is the table. Repetition as in arXiv 2112.11446 (table A1); refusals of the kind
that ALMoST leaves out by keyword (arXiv 2305.13735, sec. 2.1).
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from clew.data.example import Example
from clew.types import Message, Role, Text

Dialogue = tuple[Message, ...]
NOTHING: Dialogue = ()

SPEAKERS = "Human Assistant User Bot AI System Interviewer Interviewee Host Guest Moderator Customer Agent Q A".split()
LEAKED = re.compile(rf"(?:^|\n)[ \t>*#]*(?:{'|'.join(SPEAKERS)})[ \t*]{{0,3}}:(?!=)", re.IGNORECASE)
RUNS_ON = re.compile(r"\n\s*(?:Human|Assistant):")
NEVER = re.compile(r"(?!)")
LABEL = re.compile(r"^[ \t*]*([A-Z][\w.'’-]*(?: [A-Z][\w.'’-]*){0,3})[ \t*]{0,3}:[ \t*]*", re.MULTILINE)
BOILERPLATE = re.compile(
    r"as an ai (?:language )?model|all rights reserved|subscribe to our|click here|cookie policy|terms of service|"
    r"lorem ipsum|enable javascript|this transcript (?:was|has been)|\[(?:inaudible|crosstalk|music|applause)\]",
    re.IGNORECASE,
)
LINK = re.compile(r"https?://\S+|www\.\S+")


@dataclass(frozen=True)
class Bounds:
    """Words in a turn of the assistant."""

    least: int = 1
    most: int = 2000


@dataclass
class Filtered:
    kept: list[Example] = field(default_factory=list[Example])
    dropped: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Heuristic -> places of the examples that it dropped; each is dropped by the first that finds fault."""
    seen: dict[str, str] = field(default_factory=dict[str, str])
    """Heuristic -> what it saw in the first dialogue that it dropped."""


def filtered(examples: Sequence[Example], *, bounds: Bounds, skip: Sequence[str] = ()) -> Filtered:
    """The examples of which every answer makes a well-formed dialogue with its prompt.

    Plain texts are read as transcripts; those of two speakers who take turns are kept as conversations. Raises
    ValueError for a name in `skip` that is no heuristic.
    """
    unknown = [name for name in skip if name not in HEURISTICS]
    if unknown:
        raise ValueError(f"no heuristic {unknown[0]!r} to skip (heuristics: {', '.join(HEURISTICS)})")
    found = Filtered()
    for place, example in enumerate(examples):
        example = _as_conversation(example)
        dialogues = [_dialogue(example.prompt, answer) for answer in example.answers or [NOTHING]]
        name, fault = _first_fault(dialogues, bounds, skip)
        if name:
            found.dropped.setdefault(name, []).append(place)
            found.seen.setdefault(name, fault)
        else:
            found.kept.append(example)
    return found


def _first_fault(dialogues: Sequence[Dialogue], bounds: Bounds, skip: Sequence[str]) -> tuple[str, str]:
    """The heuristic that finds fault, and with what; empty when none does."""
    for name, (_, find) in HEURISTICS.items():
        for dialogue in dialogues if name not in skip else ():
            if (fault := find(dialogue, bounds)) is not None:
                return name, fault
    return "", ""


def _as_conversation(example: Example) -> Example:
    """A text that is a transcript of two speakers becomes their conversation, the first one the user."""
    whole = example.answers[0] if len(example.answers) == 1 and not example.prompt else None
    turns = transcript(whole) if isinstance(whole, str) else []
    if len({name for name, _ in turns}) != 2:
        return example
    roles: dict[str, Role] = {turns[0][0]: "user"}
    messages = tuple(Message(roles.get(name, "assistant"), said) for name, said in turns)
    return replace(example, answers=(messages,))


def transcript(text: str) -> list[tuple[str, str]]:
    """Who said what in a text of lines that begin with a name and a colon; empty when it begins otherwise."""
    marks = list(LABEL.finditer(text))
    if len(marks) < 2 or text[: marks[0].start()].strip():
        return []
    ends = [m.start() for m in marks[1:]] + [len(text)]
    return [(m[1], text[m.end() : end].strip()) for m, end in zip(marks, ends, strict=True)]


def _dialogue(prompt: Text, answer: Text) -> Dialogue:
    """Prompt and answer as turns. Plain text without a prompt is one turn, which is no dialogue."""
    before = (Message("user", prompt),) if isinstance(prompt, str) and prompt else tuple(prompt)
    after = (Message("assistant", answer),) if isinstance(answer, str) else tuple(answer)
    return (*before, *after)  # type: ignore[return-value]


def no_dialogue(dialogue: Dialogue, bounds: Bounds) -> str | None:
    if {"user", "assistant"} <= {m.role for m in dialogue} or many_speakers(dialogue, bounds):
        return None
    return _excerpt(dialogue[-1]) if dialogue else "nothing"


def many_speakers(dialogue: Dialogue, bounds: Bounds) -> str | None:
    names = list(dict.fromkeys(name for name, _ in transcript(dialogue[0].content))) if len(dialogue) == 1 else []
    return ", ".join(names) if len(names) > 2 else None


def empty_turn(dialogue: Dialogue, bounds: Bounds) -> str | None:
    return next((f"{m.role}:" for m in dialogue if not m.content.strip() and not m.tool_calls), None)


def out_of_turn(dialogue: Dialogue, bounds: Bounds) -> str | None:
    """Tools speak between calls of the assistant; everybody else takes turns, the user first."""
    heard = [m.role for i, m in enumerate(dialogue) if not (i and dialogue[i - 1].role == "tool")]
    spoken = [role for role in heard if role in ("user", "assistant")]
    if spoken[:1] != ["user"]:
        return f"{spoken[0]} first" if spoken else "nobody speaks"
    return next((f"{here} twice in a row" for before, here in pairwise(spoken) if before == here), None)


def no_answer(dialogue: Dialogue, bounds: Bounds) -> str | None:
    return None if dialogue and dialogue[-1].role == "assistant" else "".join(_excerpt(m) for m in dialogue[-1:])


def leaked_speaker(dialogue: Dialogue, bounds: Bounds) -> str | None:
    """In an answer any speaker's label; in a question, which may quote a dialogue, only a transcript's own."""
    for message in dialogue:
        found = {"assistant": LEAKED, "user": RUNS_ON}.get(message.role, NEVER).search(message.content)
        if found:
            return " ".join(message.content[max(found.start() - 40, 0) : found.end() + 40].split())
    return None


def length(dialogue: Dialogue, bounds: Bounds) -> str | None:
    counts = [len(text.split()) for text in _answers(dialogue)]
    return next((f"{n} words" for n in counts if not bounds.least <= n <= bounds.most), None)


def unfinished(dialogue: Dialogue, bounds: Bounds) -> str | None:
    """The last answer has more than eight words and ends with a letter or a comma. Lists and links end as they like."""
    text = "".join(_answers(dialogue)[-1:]).rstrip()
    last = text.rpartition("\n")[2]
    if text.count("```") % 2:
        return _end(text)
    is_free = re.match(r"\s*(?:[-*•|#]|\d+[.)])", last) or LINK.search(last)
    is_open = text[-1:].isalpha() or text[-1:] in tuple(",(–—")
    return _end(text) if len(text.split()) > 8 and is_open and not is_free else None


def repetition(dialogue: Dialogue, bounds: Bounds) -> str | None:
    """The commonest four words make up more than 16 % of an answer's characters, or 30 % of its lines are repeats."""
    return next((found for text in _answers(dialogue) if (found := _repeated(text))), None)


def _repeated(text: str) -> str | None:
    lines = Counter(line.strip() for line in text.splitlines() if len(line.strip()) > 3)
    if lines.total() > 3 and len(lines) < 0.7 * lines.total():
        return lines.most_common(1)[0][0][:80]
    words = text.lower().split()
    if len(words) < 20:
        return None
    common, times = Counter(" ".join(words[i : i + 4]) for i in range(len(words) - 3)).most_common(1)[0]
    return common if times > 2 and times * len(common) > 0.16 * len(text) else None


def echo(dialogue: Dialogue, bounds: Bounds) -> str | None:
    """A turn of more than three words that is there before, word for word."""
    said = [" ".join(m.content.lower().split()) for m in dialogue if m.role != "tool"]
    return next((_end(text) for i, text in enumerate(said) if len(text.split()) > 3 and text in said[:i]), None)


def boilerplate(dialogue: Dialogue, bounds: Bounds) -> str | None:
    """Phrases of web pages, recordings and canned refusals, or more link than text."""
    for text in _answers(dialogue):
        if found := BOILERPLATE.search(text):
            return found[0]
        if sum(len(link) for link in LINK.findall(text)) > len(text) / 2:
            return _end(text)
    return None


def _answers(dialogue: Dialogue) -> list[str]:
    """What the assistant says, without turns that only call tools."""
    return [m.content for m in dialogue if m.role == "assistant" and m.content.strip()]


def _excerpt(message: Message) -> str:
    return f"{message.role}: {_end(message.content)}"


def _end(text: str) -> str:
    return " ".join(text.split())[-80:]


HEURISTICS: dict[str, tuple[str, Callable[[Dialogue, Bounds], str | None]]] = {
    "no_dialogue": ("a text without two speakers", no_dialogue),
    "many_speakers": ("a transcript of more than two speakers", many_speakers),
    "empty_turn": ("a turn with nothing in it", empty_turn),
    "out_of_turn": ("a speaker twice in a row, or the assistant first", out_of_turn),
    "no_answer": ("the last turn is not the assistant's", no_answer),
    "leaked_speaker": ("a turn that runs on into another speaker's", leaked_speaker),
    "length": ("an answer with too few or too many words", length),
    "unfinished": ("an answer that stops in the middle of a sentence", unfinished),
    "repetition": ("an answer that repeats itself", repetition),
    "echo": ("a turn that repeats an earlier one", echo),
    "boilerplate": ("phrases of web pages, recordings and canned refusals, or mostly links", boilerplate),
}
"""Name -> what is wrong with a dialogue, in words, and the function that finds where it is."""
