"""The one feedback record, whoever gave it, with every kind of answer; and the tasks that ask for it."""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clew.types import Text, as_string

ItemId = str
Verdict = Literal["first", "second", "tie", "both_bad", "unsure"]
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(Record):
    """A completion of a prompt: what raters judge. Its id is its content, so equal answers are one item."""

    prompt: Text
    completion: str
    source: str = ""
    """Which model or person wrote it; raters never see it."""
    cut: bool = False
    """Ended by the limit of its length, not by its writer: training must not take its last word for an end."""
    steps: tuple[str, ...] = ()
    """The completion in the steps that raters label, where it is a solution in steps."""
    media: Annotated[str, Field(pattern=r"^([0-9a-f]{64}\.(mp4|webm|png|jpg|gif))?$")] = ""
    """A clip or picture, named by the sha256 of its content; the completion then says what it is, or nothing."""

    @property
    def id(self) -> ItemId:
        content = [as_string(self.prompt), self.completion, *self.steps] + [self.media] * bool(self.media)
        return hashlib.sha256("\x1f".join(content).encode()).hexdigest()[:20]


class Rater(Record):
    """Who judged. Example: `Rater(id="anna", kind="person")`"""

    id: str
    kind: Literal["person", "model", "program"]


class Demonstration(Record):
    """The ideal answer, written by the rater."""

    kind: Literal["demonstration"] = "demonstration"
    text: str


class Comparison(Record):
    """Which of two items is better. Tie, both bad and unsure are three different things."""

    kind: Literal["comparison"] = "comparison"
    verdict: Verdict
    first_wins: Share | None = None
    """Soft label of AI judges: probability that the first is better. None: the verdict is all there is."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """Strength of preference, of people 0 to 3 (Llama 2's degrees, arXiv 2307.09288, sec. 3.2.1): negligibly better,
    slightly, better, significantly; 0 where none was asked for."""
    flaws: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """What is wrong with the first and with the second, by the names of the project's flaws."""

    @property
    def probability(self) -> float | None:
        """That the first is better; None for both_bad and unsure, which say nothing about that."""
        if self.first_wins is not None:
            return self.first_wins
        return {"first": 1.0, "second": 0.0, "tie": 0.5}.get(self.verdict)


class Ranking(Record):
    """Items best first, as places in the task; a group of several is a tie."""

    kind: Literal["ranking"] = "ranking"
    groups: tuple[tuple[int, ...], ...]
    not_rankable: tuple[int, ...] = ()


class Rating(Record):
    """Numbers on named scales, of one item."""

    kind: Literal["rating"] = "rating"
    scales: dict[str, float]


class Thumb(Record):
    kind: Literal["thumb"] = "thumb"
    up: bool
    reasons: tuple[str, ...] = ()


class StepLabels(Record):
    """Each step right (+1), neutral (0) or wrong (-1); labels end where the rater stopped."""

    kind: Literal["steps"] = "steps"
    labels: tuple[Literal[-1, 0, 1], ...]
    first_error: Annotated[int, Field(ge=0)] | None = None
    finish_reason: Literal["solution", "found_error", "give_up", "bad_problem"] | None = None
    """Why labelling ended, as in PRM800K; None where nobody asked."""
    own_step: str = ""
    """The step the rater would have written in place of the first wrong one."""


class Span(Record):
    """A stretch of an item's text: Unicode code points start:end, with the text itself as a check."""

    start: Annotated[int, Field(ge=0)]
    end: int
    text: str
    category: str

    @model_validator(mode="after")
    def _fits(self) -> "Span":
        if self.end - self.start != len(self.text):
            raise ValueError(
                f"span {self.start}:{self.end} does not have the {len(self.text)} characters of {self.text!r}"
            )
        return self


class Spans(Record):
    kind: Literal["spans"] = "spans"
    spans: tuple[Span, ...]


class Flaws(Record):
    """Yes-or-no questions about one item: is it false, harmful, off topic …"""

    kind: Literal["flaws"] = "flaws"
    flaws: dict[str, bool]


class Critique(Record):
    kind: Literal["critique"] = "critique"
    text: str
    score: float | None = None


class Revision(Record):
    """The item edited into a better one: a contrastive pair."""

    kind: Literal["revision"] = "revision"
    text: str


class Exchange(Record):
    """One turn of a conversation: what the rater said, and which of two replies it went on from.

    Example: `Exchange(user="Hello", choice=1, margin=2.0)`
    """

    user: str
    choice: Literal[0, 1]
    margin: Annotated[float, Field(ge=0)] = 0.0
    replies: tuple[str, ...] = ()
    """As shown; the desk fills them in from what it offered."""


class Conversation(Record):
    """A conversation with a model that offered two replies a turn: a comparison each."""

    kind: Literal["conversation"] = "conversation"
    exchanges: Annotated[tuple[Exchange, ...], Field(min_length=1)]


Answer = Annotated[
    Demonstration
    | Comparison
    | Ranking
    | Rating
    | Thumb
    | StepLabels
    | Spans
    | Flaws
    | Critique
    | Revision
    | Conversation,
    Field(discriminator="kind"),
]
AnswerKind = Literal[
    "demonstration",
    "comparison",
    "ranking",
    "rating",
    "thumb",
    "steps",
    "spans",
    "flaws",
    "critique",
    "revision",
    "conversation",
]
TaskKind = AnswerKind | Literal["prompt", "clips"]
"""What people are asked: to write a prompt is answered by a demonstration, two clips by a comparison."""
NUM_ITEMS: dict[TaskKind, tuple[int, int | None]] = {
    "demonstration": (0, 0),
    "prompt": (0, 0),
    "conversation": (0, 0),
    "comparison": (2, 2),
    "clips": (2, 2),
    "ranking": (2, None),
}
"""Items a task of this kind shows, least and most; every other kind is about one."""


def answer_kind(kind: TaskKind) -> AnswerKind:
    """What answers a task of this kind."""
    return "demonstration" if kind == "prompt" else "comparison" if kind == "clips" else kind


class Task(Record):
    """One question to raters. The items stand in the order in which they are shown."""

    kind: TaskKind
    prompt: Text
    items: tuple[ItemId, ...] = ()

    @property
    def id(self) -> str:
        return hashlib.sha256("\x1f".join((self.kind, as_string(self.prompt), *self.items)).encode()).hexdigest()[:20]

    @model_validator(mode="after")
    def _counts(self) -> "Task":
        least, most = NUM_ITEMS.get(self.kind, (1, 1))
        if len(self.items) < least or (most is not None and len(self.items) > most):
            raise ValueError(f"a {self.kind} task needs {least} to {most or 'many'} items; got {len(self.items)}")
        return self


class Feedback(Record):
    """One answer of one rater to one task, whoever the rater is.

    Example: `Feedback(task_id=task.id, items=task.items, rater=Rater(id="anna", kind="person"),
    answer=Comparison(verdict="first"))`
    """

    task_id: str
    items: tuple[ItemId, ...]
    """As shown, first item first: what the answer's places refer to."""
    rater: Rater
    answer: Answer
    revision: Annotated[int, Field(ge=0)] = 0
    """An undo or edit is a new record with the next number; the latest counts."""
    repeat: Annotated[int, Field(ge=0)] = 0
    """1 where the same person was asked again on purpose, to see whether they agree with themselves."""
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    seconds: Annotated[float, Field(ge=0)] | None = None
    """Time the rater took; None when nobody measured."""
    confidence: Share | None = None
    """Stated by the rater; None when not asked."""
    note: str = ""
    assisted: bool = False
    """A model's suggestion was shown to the rater."""

    @property
    def id(self) -> str:
        """One rater answers a task once in a revision: sending it again is the same record."""
        asked = f"{self.task_id}\x1f{self.rater.id}\x1f{self.revision}" + f"\x1f{self.repeat}" * bool(self.repeat)
        return hashlib.sha256(asked.encode()).hexdigest()[:20]

    @model_validator(mode="after")
    def _places_exist(self) -> "Feedback":
        if isinstance(self.answer, Ranking):
            places = [p for group in self.answer.groups for p in group] + list(self.answer.not_rankable)
            if sorted(places) != list(range(len(self.items))):
                raise ValueError(f"a ranking must place each of {len(self.items)} items once; got {self.answer.groups}")
        return self
