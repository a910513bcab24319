"""Where feedback is kept: append-only, on SQLite by default. What was acknowledged is on disk."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from clew.feedback import events, schema
from clew.feedback.database import Database, open_file, open_url
from clew.feedback.migrations import migrate
from clew.feedback.records import AnswerKind, Feedback, Item, ItemId, Rater, Task, TaskKind

Purpose = Literal["work", "gold", "screening", "training"]
"""Why a person was asked: for the answer, or, the answer being known, to learn about the person or to teach them."""


class Reading(Protocol):
    """What rows are made from: a store, or what it was at some event."""

    def items(self) -> dict[ItemId, Item]: ...
    def tasks(self, kind: TaskKind | None = None) -> list[Task]: ...
    def feedback(self, kind: AnswerKind | None = None) -> list[Feedback]: ...


class Conflict(ValueError):
    """A record with this id is in the store and says something else."""


class Store:
    """Items, tasks and feedback. Adding is idempotent: the same record twice is one; nothing is ever changed.

    Example: `Store.open(Path("labels.sqlite")).add_feedback([feedback])`
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        migrate(database)

    @classmethod
    def open(cls, place: Path | str, *, serve: bool = False) -> "Store":
        """A SQLite file, made if it is not there, or a PostgreSQL database by its URL.

        With `serve` a file has one server: BlockingIOError for a second, ValueError for a damaged file.
        """
        if isinstance(place, str) and "://" in place:
            return cls(open_url(place))
        store = cls(open_file(Path(place), serve=serve))
        if serve:
            store._check()
        return store

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction: all of it, on disk when the block ends, or nothing. Raises NoSpace on a full disk."""
        return self._database.write()

    def read(self) -> AbstractContextManager[Connection]:
        return self._database.read()

    def backup(self, to: Path) -> None:
        """A whole copy of a SQLite store, while others write."""
        self._database.backup(to)

    def close(self) -> None:
        self._database.close()

    def add_items(self, new: Sequence[Item]) -> list[ItemId]:
        with self.write() as connection:
            return put_items(connection, new)

    def add_tasks(self, new: Sequence[Task]) -> None:
        with self.write() as connection:
            put_tasks(connection, new)

    def add_feedback(self, new: Sequence[Feedback]) -> None:
        """All of them or, where one fails, none. Raises Conflict, or ValueError for an unknown task."""
        with self.write() as connection:
            put_feedback(connection, new, actor="clew", now=time.time_ns() // 1_000_000)

    def items(self) -> dict[ItemId, Item]:
        with self.read() as connection:
            rows = connection.execute(sa.select(schema.items.c.id, schema.items.c.body))
            return {key: Item.model_validate_json(body) for key, body in rows}

    def tasks(self, kind: TaskKind | None = None) -> list[Task]:
        """In the order in which they were added."""
        query = sa.select(schema.tasks.c.body).order_by(schema.tasks.c.seq)
        if kind is not None:
            query = query.where(schema.tasks.c.kind == kind)
        with self.read() as connection:
            return [Task.model_validate_json(body) for (body,) in connection.execute(query)]

    def feedback(
        self,
        kind: AnswerKind | None = None,
        *,
        history: bool = False,
        purposes: Sequence[Purpose] = ("work",),
        repeats: bool = False,
        excluded: bool = False,
    ) -> list[Feedback]:
        """In the order in which it arrived; of revised answers only the latest, unless `history`.

        Left out unless asked for: answers to questions whose answer is known, planned repeats, and those of people
        whom the operator has excluded.
        """
        table = schema.feedback
        query = sa.select(table.c.body).where(table.c.purpose.in_(purposes)).order_by(table.c.seq)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        if not excluded:
            out = sa.select(schema.people.c.id).where(schema.people.c.state == "excluded")
            query = query.where(table.c.rater.not_in(out))
        with self.read() as connection:
            found = [Feedback.model_validate_json(body) for (body,) in connection.execute(query)]
        records = [r for r in found if repeats or not r.repeat]
        return records if history else latest(records)

    def raters(self) -> list[Rater]:
        found = {record.rater.id: record.rater for record in self.feedback()}
        return [found[key] for key in sorted(found)]

    def events(self, *, after: int = 0, types: Sequence[str] = (), limit: int | None = None) -> list[events.Event]:
        with self.read() as connection:
            return events.read(connection, after=after, types=types, limit=limit)

    def damage(self) -> list[str]:
        """What does not fit the chain of events, in words; empty when everything is as it was written."""
        with self.read() as connection:
            broken = events.broken_at(connection)
            found = [] if broken is None else [f"the chain of events is broken at event {broken}"]
            return found + _unsealed(connection)

    def _check(self) -> None:
        with self.read() as connection:
            said = connection.execute(sa.text("PRAGMA quick_check")).scalar()
        if said != "ok":
            raise ValueError(f"the store is damaged ({said}); put its newest backup in its place")


def latest(records: Sequence[Feedback]) -> list[Feedback]:
    """Of each answer its newest revision."""
    newest: dict[tuple[str, str, int], Feedback] = {}
    for record in records:
        key = (record.task_id, record.rater.id, record.repeat)
        if key not in newest or record.revision > newest[key].revision:
            newest[key] = record
    return [r for r in records if newest[r.task_id, r.rater.id, r.repeat] is r]


def put_items(connection: Connection, new: Sequence[Item]) -> list[ItemId]:
    rows = {item.id: {"body": item.model_dump_json()} for item in new}
    _add(connection, schema.items, rows, lambda key, old: True)
    return [item.id for item in new]


def put_tasks(connection: Connection, new: Sequence[Task]) -> None:
    by_id = {task.id: task for task in new}
    rows = {key: {"kind": task.kind, "body": task.model_dump_json()} for key, task in by_id.items()}
    _add(connection, schema.tasks, rows, lambda key, old: Task.model_validate_json(old) == by_id[key])


def put_feedback(
    connection: Connection,
    new: Sequence[Feedback],
    *,
    actor: str,
    now: int,
    event: str = "feedback",
    purpose: Purpose = "work",
    late: bool = False,
    said: Mapping[str, Any] | None = None,
) -> None:
    """Records and the event that seals them; `said` is what else the event tells. Nothing where all are there."""
    bodies = {record.id: record.model_dump_json() for record in new}
    for record in new:  # two in one call that differ
        if not _same_answer(record, bodies[record.id]):
            raise _conflict(schema.feedback, record.id)
    by_id = {record.id: record for record in new}
    fresh = _absent(connection, schema.feedback, list(bodies), lambda key, old: _same_answer(by_id[key], old))
    if not fresh:
        return
    sealed = [[key, digest(bodies[key])] for key in fresh]
    number = events.append(connection, event, {"records": sealed, **(said or {})}, actor=actor, now=now)
    rows = [
        {
            "id": key,
            "task": by_id[key].task_id,
            "rater": by_id[key].rater.id,
            "kind": by_id[key].answer.kind,
            "revision": by_id[key].revision,
            "body": bodies[key],
            "purpose": purpose,
            "late": int(late),
            "at": now,
            "event": number,
        }
        for key in fresh
    ]
    try:
        connection.execute(schema.feedback.insert(), rows)
    except IntegrityError as error:
        raise ValueError(f"feedback names a task that is not in the store: {error.orig}") from error


def shown_items(connection: Connection, ids: Sequence[Sequence[ItemId]]) -> list[list[Item]]:
    """The items of several tasks, read at once."""
    wanted = sorted({key for some in ids for key in some})
    rows = connection.execute(_bodies(schema.items), {"ids": wanted})
    found: dict[ItemId, Item] = {row.id: Item.model_validate_json(row.body) for row in rows}
    return [[found[key] for key in some] for some in ids]


@cache
def _bodies(table: sa.Table) -> sa.Select[str, str]:
    """Built once: putting a statement together takes longer than running it."""
    return sa.select(table.c.id, table.c.body).where(table.c.id.in_(sa.bindparam("ids", expanding=True)))


def digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


Same = Callable[[str, str], bool]
"""Whether the record with this id says what the stored body says."""


def _add(connection: Connection, table: sa.Table, rows: Mapping[str, Mapping[str, object]], same: Same) -> None:
    fresh = _absent(connection, table, list(rows), same)
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    if fresh:  # another server may be adding the same at this moment
        connection.execute(insert(table).on_conflict_do_nothing(), [{"id": key, **rows[key]} for key in fresh])


def _absent(connection: Connection, table: sa.Table, keys: Sequence[str], same: Same) -> list[str]:
    """Ids that are not in the table yet. Raises Conflict where one is and says something else."""
    there: set[str] = set()
    query = _bodies(table)
    for start in range(0, len(keys), 500):
        for key, old in connection.execute(query, {"ids": keys[start : start + 500]}):
            if not same(key, old):
                raise _conflict(table, key)
            there.add(key)
    return [key for key in keys if key not in there]


def _conflict(table: sa.Table, key: str) -> Conflict:
    return Conflict(f"{table.name} {key} is in the store and says something else; send a new revision")


def _same_answer(new: Feedback, old: str) -> bool:
    """Sent again is the same when rater and answer are; the clock may have moved."""
    before = Feedback.model_validate_json(old)
    return (before.rater, before.answer, before.items) == (new.rater, new.answer, new.items)


def _unsealed(connection: Connection) -> list[str]:
    """Feedback whose body is not what its event has sealed, and sealed feedback that is gone.

    What an older schema kept has no event; it is whole as far as its triggers go.
    """
    sealed = {key: seal for e in events.read(connection, types=SEALING) for key, seal in e.body["records"]}
    table = schema.feedback
    rows = connection.execute(sa.select(table.c.id, table.c.body).where(table.c.event > 0))
    found = {key: digest(body) for key, body in rows}
    wrong = [f"feedback {key} is not what was written" for key in found if found[key] != sealed.get(key)]
    return wrong + [f"feedback {key} is gone" for key in sealed if key not in found]


SEALING = ("feedback", "answer", "late", "revision")
"""Events that come with feedback."""
