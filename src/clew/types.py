"""The words of clew: prompts, rollouts, scores, and the protocols that connect them. Standard library only."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Role = Literal["system", "developer", "user", "assistant", "tool"]
Stop = Literal["end", "length", "turns", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Example: `Message("user", "How was the soup?")`
    """

    role: Role
    content: str
    thinking: str = ""
    """What the assistant thought before it spoke."""
    tool_calls: str = ""
    """A JSON list of `{type: function, function: {name, arguments}}`, as chat templates read it."""
    name: str = ""
    tool_call_id: str = ""

    def as_row(self) -> dict[str, Any]:
        """As files have it, without what is empty."""
        others = {"thinking": self.thinking, "name": self.name, "tool_call_id": self.tool_call_id}
        row: dict[str, Any] = {"role": self.role, "content": self.content} | {k: v for k, v in others.items() if v}
        return row | ({"tool_calls": json.loads(self.tool_calls)} if self.tool_calls else {})


Text = str | tuple[Message, ...]
"""Plain text, or a conversation."""


def as_string(text: Text) -> str:
    """Text as it is; a conversation as JSON. Different ones differ."""
    if isinstance(text, str):
        return text
    return json.dumps([(m.role, m.content) if m == Message(m.role, m.content) else m.as_row() for m in text])


def as_column(text: Text) -> str | list[dict[str, Any]]:
    """As files have it: text, or a list of messages."""
    return text if isinstance(text, str) else [m.as_row() for m in text]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a policy is asked to continue: tokens for the engine, text for judges and people.

    Example: `Prompt("p7", (1, 403, 291), "Once upon", {"topic": "dogs"})`
    """

    id: str
    tokens: Sequence[int]
    text: str
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Dataset fields a reward may need: the answer, tests, a topic."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Where one message lies in a rollout: tokens[start:end]."""

    role: Role
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """One finished interaction, as token ids; text is decoded once, for judges and people, and never re-encoded.

    Example: `Rollout("p7", [1, 403, 291, 55, 2], [False, False, False, True, True], [0.0, 0.0, 0.0, -1.2, -0.1],
    "end", 12, "Once upon", " a time")`
    """

    prompt_id: str
    tokens: Sequence[int]  # [T] prompt, replies, tool output, …
    mask: Sequence[bool]  # [T] True where the policy wrote the token
    logps: Sequence[float]  # [T] log-probability when sampled; 0.0 where mask is False
    stop: Stop
    version: int
    """Of the weights that sampled it: the learner's step."""
    prompt: str
    text: str
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    turns: Sequence[Turn] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A reward for one rollout.

    Example: `Score(0.8, {"correct": 1.0, "length": -0.2})`
    """

    value: float | None
    """None: the judge abstains. An error is counted by the caller and never becomes a zero."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    at: Sequence[tuple[int, float]] = ()
    """(token index, reward) for process, turn and span rewards; empty when only the outcome was scored."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine samples. Temperature 0 is greedy; top_k and top_p are for labelling and evaluation."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    """Keep the k most probable tokens; None keeps all."""
    top_p: float = 1.0


Key = tuple[int, int]
"""Seed and step: which noise sampling draws."""
Finished = Callable[[int, Sequence[Rollout]], None]
"""Told a prompt's place and its rollouts, once all of them are there."""


class Engine(Protocol):
    """Turns prompts into rollouts."""

    version: int
    """Of the weights in use; written into every rollout."""

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, key: Key, finished: Finished | None = None
    ) -> list[Rollout]:
        """`n` rollouts a prompt, those of one prompt contiguous, in the order of `prompts`.

        `key` = (seed, step): the same key, prompt id, sample number and weights give the same rollout, whatever
        else is in the batch. `finished` is told of each prompt once all its rollouts are there.
        """
        ...


Reward = Callable[[Sequence[Rollout]], list[Score]]
"""Scores rollouts; those of one prompt are contiguous, so a reward may compare within the group."""
