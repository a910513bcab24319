"""The desk: tasks to people and their answers back. What servers call; every time is passed in, in UTC milliseconds.

The contract, for the web layer:

- `Desk(store)` has `people` (tokens, sessions, states; `people.py`) and `projects` (`projects.py`).
- `lease(person, project, num)` gives `Leased` tasks: those the person holds already first, then new ones; at most five
  of a project at once. An empty list: nothing to do now (204). Prompt and items are as shown, in their slots.
- `answer(person, lease, Submission(answer=…))` gives a `Receipt`; places in the answer are slots. The same again gives
  the same receipt with `is_new` False (200); another body raises `Conflict` (409). A late answer that was still wanted
  is kept, `is_late` True (410); one that was not raises `Expired` (410).
- `skip`, `heartbeat`, `undo`, `turn` likewise. `KeyError`: not this person's, or not there (404). `ValueError`: does
  not fit its task (422). `NoSpace`: the disk is full, nothing was kept (507).
- Each call is one transaction; what it returned is on disk. Calls may come from any thread.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from clew.feedback import events
from clew.feedback.answers import Expired, Fits, Receipt, Submission, reopen, skip, take
from clew.feedback.conversations import Offer, offer, said_so_far
from clew.feedback.holding import Holding, holding
from clew.feedback.leases import give
from clew.feedback.people import People, held
from clew.feedback.projects import Projects, find_project
from clew.feedback.records import Answer, Feedback, Item, Task, TaskKind
from clew.feedback.schema import feedback, leases, projects, replies, tasks
from clew.feedback.seats import sweep
from clew.feedback.store import Store, shown_items
from clew.types import Text


@dataclass(frozen=True, slots=True)
class Leased:
    """A task in a person's hands, as shown."""

    lease: str
    project: str
    kind: TaskKind
    expires: int
    mode: Literal["work", "training"]
    prompt: Text
    items: tuple[Item, ...]
    """In their slots. The person must see neither their ids nor their sources."""
    answer: Answer | None = None
    """What the person said before, where the task was reopened."""
    turns: tuple[Offer, ...] = ()
    """Of a conversation under way."""


@dataclass(frozen=True, slots=True)
class Given:
    """An answer of a person, for their own history."""

    answer: str
    project: str
    kind: TaskKind
    at: int
    undo_until: int
    prompt: Text
    said: Answer


class Desk:
    """Example: `desk = Desk(Store.open("desk.sqlite", serve=True)); desk.lease(anna.id, project.id, 3, now=now)`"""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.people = People(store)
        self.projects = Projects(store)

    def lease(self, person: str, project: str, num: int = 1, *, known: Collection[str] = (), now: int) -> list[Leased]:
        """Up to `num` tasks; none for people who are not active, or where the project is not open.

        Leases that are `known` count as given, and are not told again.
        """
        with self.store.write() as connection:
            who = held(connection, person)
            found = give(connection, who, find_project(connection, project), num, now=now)
            return _leased(connection, [lease for lease in found if lease not in known])

    def answer(self, person: str, lease: str, submission: Submission, *, fits: Fits | None = None, now: int) -> Receipt:
        with self.store.write() as connection:
            mine = holding(connection, person=person, lease=lease)
            return take(connection, mine, submission, fits=fits, now=now)

    def skip(self, person: str, lease: str, *, reason: str = "", now: int) -> None:
        with self.store.write() as connection:
            skip(connection, holding(connection, person=person, lease=lease), reason=reason, now=now)

    def heartbeat(self, person: str, lease: str, *, now: int) -> int:
        """Hold the task for longer; until when. Raises Expired."""
        with self.store.write() as connection:
            found = _live(connection, person, lease, now)
            expires = now + found.project.config.lease_ms
            connection.execute(leases.update().where(leases.c.id == lease).values(expires=expires))
            return expires

    def undo(self, person: str, answer: str, *, now: int) -> Leased:
        """The task again, with the answer that was given: it counts until another one comes."""
        with self.store.write() as connection:
            found = reopen(connection, holding(connection, person=person, answer=answer), now=now)
            return _leased(connection, [found])[0]

    def turn(
        self, person: str, lease: str, user: str, replies: tuple[str, str], *, choice: int | None, now: int
    ) -> int:
        """Keep what a person said in a conversation and what was offered; `choice` is of the turn before."""
        with self.store.write() as connection:
            if _live(connection, person, lease, now).revision:
                raise ValueError("a conversation that was reopened has no further turns; change its choices")
            return offer(connection, lease, user, replies, choice)

    def leased(self, person: str, lease: str) -> Leased:
        """Look at a lease of this person again. Raises KeyError."""
        with self.store.read() as connection:
            mine = sa.select(leases.c.id).where(leases.c.id == lease, leases.c.person == person)
            if connection.execute(mine).first() is None:
                raise KeyError(f"you have no lease {lease!r}")
            return _leased(connection, [lease])[0]

    def expire(self, *, now: int) -> int:
        """Give back what is overdue, up to some hundreds; how many. Leasing does this as well."""
        with self.store.write() as connection:
            found = sweep(connection, now=now)
            if found:
                events.append(connection, "expired", {"leases": found}, actor="clew", now=now)
            return len(found)

    def history(self, person: str, *, before: int | None = None, limit: int = 50) -> list[Given]:
        """Newest answers first; `before` is the time of the last one that was seen."""
        query = (
            sa.select(leases.c.project, leases.c.answered, tasks.c.body.label("task"), projects.c.config, feedback.c.id)
            .add_columns(feedback.c.body)
            .join(tasks, tasks.c.id == leases.c.task)
            .join(projects, projects.c.id == leases.c.project)
            .join(feedback, feedback.c.id == leases.c.feedback)
            .where(leases.c.person == person)
            .order_by(leases.c.answered.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(leases.c.answered < before)
        with self.store.read() as connection:
            return [_given(row) for row in connection.execute(query)]

    def count(self, person: str, project: str, *, since: int = 0) -> int:
        """Tasks a person has answered in a project since then, of every purpose."""
        mine = (leases.c.person == person) & (leases.c.project == project) & (leases.c.answered >= since)
        with self.store.read() as connection:
            query = sa.select(sa.func.count()).where(mine, leases.c.revision == 0)
            return connection.execute(query).scalar_one()

    def replied(self, key: str, person: str, route: str) -> tuple[int, str] | None:
        """Status and body of the reply to a request with this Idempotency-Key. Raises ValueError for another route."""
        query = sa.select(replies).where(replies.c.key == key, replies.c.person == person)
        with self.store.read() as connection:
            row = connection.execute(query).first()
        if row is not None and row.route != route:
            raise ValueError(f"this Idempotency-Key was used for {row.route}; use a new one")
        return None if row is None else (row.status, row.body)

    def remember(self, key: str, person: str, route: str, status: int, body: str, *, now: int) -> None:
        values = {"key": key, "person": person, "route": route, "status": status, "body": body, "at": now}
        with self.store.write() as connection:
            connection.execute(replies.insert().values(values))


def _live(connection: Connection, person: str, lease: str, now: int) -> Holding:
    found = holding(connection, person=person, lease=lease)
    if not found.is_live(now):
        raise Expired("the lease has run out or has its answer; lease a task anew")
    return found


def _leased(connection: Connection, wanted: Sequence[str]) -> list[Leased]:
    """Leases as shown, in the order of their ids."""
    rows = {row.id: row for row in connection.execute(SHOWN, {"ids": list(wanted)})}
    asked = {key: Task.model_validate_json(row.body) for key, row in rows.items()}
    slots: list[list[int]] = [json.loads(rows[key].slots) for key in wanted]
    places = [[asked[key].items[place] for place in order] for key, order in zip(wanted, slots, strict=True)]
    return [
        Leased(
            lease=key,
            project=rows[key].project,
            kind=asked[key].kind,
            expires=rows[key].expires,
            mode="training" if rows[key].purpose == "training" else "work",
            prompt=asked[key].prompt,
            items=tuple(found),
            answer=_before(connection, rows[key]),
            turns=tuple(said_so_far(connection, key)) if asked[key].kind == "conversation" else (),
        )
        for key, found in zip(wanted, shown_items(connection, places), strict=True)
    ]


def _before(connection: Connection, lease: Any) -> Answer | None:
    """The answer of the revision before."""
    if not lease.revision:
        return None
    same = (feedback.c.task == lease.task) & (feedback.c.rater == lease.person)
    older = sa.select(feedback.c.body).where(same, feedback.c.revision == lease.revision - 1)
    records = [Feedback.model_validate_json(body) for body in connection.scalars(older)]
    return next(record.answer for record in records if record.repeat == lease.repeat)


def _given(row: Any) -> Given:
    task, said = Task.model_validate_json(row.task), Feedback.model_validate_json(row.body)
    undo_ms = json.loads(row.config)["undo_ms"]
    return Given(row.id, row.project, task.kind, row.answered, row.answered + undo_ms, task.prompt, said.answer)


SHOWN = (
    sa.select(leases, tasks.c.body)
    .join(tasks, tasks.c.id == leases.c.task)
    .where(leases.c.id.in_(sa.bindparam("ids", expanding=True)))
)
