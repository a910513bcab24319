"""Where feedback is kept: append-only, on SQLite by default. What was acknowledged is on disk."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry

from clew.feedback.records import AnswerKind, Feedback, Item, ItemId, Rater, Task

SCHEMA_VERSION = 1

metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("key", sa.String, primary_key=True), sa.Column("value", sa.String))
items = sa.Table(
    "item", metadata, sa.Column("id", sa.String, primary_key=True), sa.Column("body", sa.Text, nullable=False)
)
tasks = sa.Table(
    "task",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, unique=True, nullable=False),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("body", sa.Text, nullable=False),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, unique=True, nullable=False),
    sa.Column("task", sa.String, sa.ForeignKey("task.id"), nullable=False, index=True),
    sa.Column("rater", sa.String, nullable=False, index=True),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
APPEND_ONLY = (items, tasks, feedback)


class Conflict(ValueError):
    """A record with this id is in the store and says something else."""


class Store:
    """Items, tasks and feedback. Adding is idempotent: the same record twice is one; nothing is ever changed.

    Example: `Store.open(Path("labels.sqlite")).add_feedback([feedback])`
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with engine.begin() as connection:
            metadata.create_all(connection)
            _guard(connection)
            found = connection.execute(sa.select(meta.c.value).where(meta.c.key == "schema")).scalar()
            if found is None:
                connection.execute(meta.insert().values(key="schema", value=str(SCHEMA_VERSION)))
            elif int(found) != SCHEMA_VERSION:
                raise ValueError(
                    f"the store has schema {found} and this clew knows {SCHEMA_VERSION}; use the version that wrote it"
                )

    @classmethod
    def open(cls, file: Path) -> "Store":
        """A SQLite store; made if it is not there. WAL, and every commit reaches the disk (synchronous=FULL)."""
        file.parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(f"sqlite:///{file}")

        @event.listens_for(engine, "connect")
        def configure(connection: sa.engine.interfaces.DBAPIConnection, entry: ConnectionPoolEntry) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        return cls(engine)

    def close(self) -> None:
        self._engine.dispose()

    def add_items(self, new: Sequence[Item]) -> list[ItemId]:
        with self._engine.begin() as connection:
            for item in new:
                _add(connection, items, item.id, {"body": item.model_dump_json()}, lambda old: True)
        return [item.id for item in new]

    def add_tasks(self, new: Sequence[Task]) -> None:
        with self._engine.begin() as connection:
            for task in new:
                values = {"kind": task.kind, "body": task.model_dump_json()}
                _add(connection, tasks, task.id, values, partial(_same_task, task))

    def add_feedback(self, new: Sequence[Feedback]) -> None:
        """All of them or, where one fails, none. Raises Conflict, or ValueError for an unknown task."""
        try:
            with self._engine.begin() as connection:
                for record in new:
                    values = {
                        "task": record.task_id,
                        "rater": record.rater.id,
                        "kind": record.answer.kind,
                        "revision": record.revision,
                        "body": record.model_dump_json(),
                    }
                    _add(connection, feedback, record.id, values, partial(_same_answer, record))
        except IntegrityError as error:
            raise ValueError(f"feedback names a task that is not in the store: {error.orig}") from error

    def items(self) -> dict[ItemId, Item]:
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(items.c.id, items.c.body))
            return {key: Item.model_validate_json(body) for key, body in rows}

    def tasks(self, kind: AnswerKind | None = None) -> list[Task]:
        """In the order in which they were added."""
        query = sa.select(tasks.c.body).order_by(tasks.c.seq)
        if kind is not None:
            query = query.where(tasks.c.kind == kind)
        with self._engine.connect() as connection:
            return [Task.model_validate_json(body) for (body,) in connection.execute(query)]

    def feedback(self, kind: AnswerKind | None = None, *, history: bool = False) -> list[Feedback]:
        """In the order in which it arrived; of revised answers only the latest, unless `history`."""
        query = sa.select(feedback.c.body).order_by(feedback.c.seq)
        if kind is not None:
            query = query.where(feedback.c.kind == kind)
        with self._engine.connect() as connection:
            records = [Feedback.model_validate_json(body) for (body,) in connection.execute(query)]
        if history:
            return records
        newest: dict[tuple[str, str], Feedback] = {}
        for record in records:
            key = (record.task_id, record.rater.id)
            if key not in newest or record.revision > newest[key].revision:
                newest[key] = record
        return [r for r in records if newest[r.task_id, r.rater.id] is r]

    def raters(self) -> list[Rater]:
        found = {record.rater.id: record.rater for record in self.feedback()}
        return [found[key] for key in sorted(found)]


def _add(
    connection: Connection, table: sa.Table, key: str, values: Mapping[str, object], same: Callable[[str], bool]
) -> None:
    old = connection.execute(sa.select(table.c.body).where(table.c.id == key)).scalar()
    if old is None:
        connection.execute(table.insert().values(id=key, **values))
    elif not same(old):
        raise Conflict(f"{table.name} {key} is in the store and says something else; send a new revision")


def _same_task(new: Task, old: str) -> bool:
    return Task.model_validate_json(old) == new


def _same_answer(new: Feedback, old: str) -> bool:
    """Sent again is the same when rater and answer are; the clock may have moved."""
    before = Feedback.model_validate_json(old)
    return (before.rater, before.answer, before.items) == (new.rater, new.answer, new.items)


def _guard(connection: Connection) -> None:
    """Triggers that refuse UPDATE and DELETE, so that append-only is the database's word, not ours."""
    for table in APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            connection.execute(
                sa.DDL(
                    f"CREATE TRIGGER IF NOT EXISTS {table.name}_no_{verb.lower()} BEFORE {verb} ON {table.name} "
                    f"BEGIN SELECT RAISE(ABORT, '{table.name} is append-only'); END"
                )
            )
