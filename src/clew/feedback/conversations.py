"""Conversations with two replies a turn: kept turn by turn while they last, and read as comparisons afterwards."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from clew.feedback.records import Comparison, Conversation, Exchange, Feedback, Item, Record, Task
from clew.feedback.schema import turns
from clew.types import Message, Text


class Offer(Record):
    """What the person said and the two replies they were offered; `choice` is None for the turn under way."""

    user: str
    replies: tuple[str, str]
    choice: int | None = None


class Judged(NamedTuple):
    """One turn as a comparison."""

    items: tuple[Item, Item]
    task: Task
    feedback: Feedback


def said_so_far(connection: Connection, lease: str) -> list[Offer]:
    rows = connection.scalars(
        sa.select(turns.c.body).where(turns.c.lease == lease.split(".")[0]).order_by(turns.c.number)
    )
    return [Offer.model_validate_json(body) for body in rows]


def offer(connection: Connection, lease: str, user: str, replies: tuple[str, str], choice: int | None) -> int:
    """Keep a turn; `choice` is the reply of the turn before that the person goes on from. The number of the turn."""
    before = said_so_far(connection, lease)
    if before:
        if choice not in (0, 1):
            raise ValueError(f"choose reply 0 or 1 before the next turn; got {choice}")
        chosen = before[-1].model_copy(update={"choice": choice})
        last = (turns.c.lease == lease) & (turns.c.number == len(before) - 1)
        connection.execute(turns.update().where(last).values(body=chosen.model_dump_json()))
    said = Offer(user=user, replies=replies)
    connection.execute(turns.insert().values(lease=lease, number=len(before), body=said.model_dump_json()))
    return len(before)


def messages(prompt: Text, said: Sequence[Exchange]) -> tuple[Message, ...]:
    """The conversation along the chosen replies."""
    begin = prompt if not isinstance(prompt, str) else (Message("system", prompt),) if prompt else ()
    pairs = [(Message("user", e.user), Message("assistant", e.replies[e.choice])) for e in said]
    return (*begin, *(message for pair in pairs for message in pair))


def with_replies(answer: Conversation, said: Sequence[Offer]) -> Conversation:
    """The answer with what was offered. Raises ValueError where it is another conversation than the one held."""
    if [e.user for e in answer.exchanges] != [turn.user for turn in said]:
        raise ValueError(f"the answer has {len(answer.exchanges)} turns that are not the {len(said)} turns held here")
    for number, (exchange, turn) in enumerate(zip(answer.exchanges, said, strict=True)):
        if turn.choice not in (None, exchange.choice):
            raise ValueError(f"turn {number} went on from reply {turn.choice}; got {exchange.choice}")
    filled = [e.model_copy(update={"replies": turn.replies}) for e, turn in zip(answer.exchanges, said, strict=True)]
    return answer.model_copy(update={"exchanges": tuple(filled)})


def comparisons(task: Task, record: Feedback) -> list[Judged]:
    """A comparison for each turn, under what was said before it; turns that offered the same twice say nothing."""
    answer = record.answer
    assert isinstance(answer, Conversation)
    found: list[Judged] = []
    for number, exchange in enumerate(answer.exchanges):
        prompt = (*messages(task.prompt, answer.exchanges[:number]), Message("user", exchange.user))
        first, second = (Item(prompt=prompt, completion=reply) for reply in exchange.replies)
        if first.id == second.id:
            continue
        asked = Task(kind="comparison", prompt=prompt, items=(first.id, second.id))
        verdict = Comparison(verdict="second" if exchange.choice else "first", margin=exchange.margin)
        said = {"task_id": asked.id, "items": asked.items, "answer": verdict}
        found.append(Judged((first, second), asked, record.model_copy(update=said)))
    return found
