"""From a store of an older schema to this one, a numbered step at a time, in one transaction, with a backup before.

A step changes tables that its predecessor had; tables that are new are made afterwards as `schema` has them.
"""

import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.schema import CreateColumn

from clew.feedback import events
from clew.feedback.database import Database
from clew.feedback.schema import APPEND_ONLY, chain, feedback, meta, metadata

SCHEMA_VERSION = 2


def migrate(database: Database) -> None:
    """Bring the store to this schema; make it where there is none. Raises ValueError for a schema of the future."""
    with database.read() as connection:
        found = _version(connection)
    if found == SCHEMA_VERSION:
        return
    if found is not None and found > SCHEMA_VERSION:
        raise ValueError(
            f"the store has schema {found} and this clew knows {SCHEMA_VERSION}: a newer version wrote it, and going "
            "back is not possible; use that version, or the backup it made before it changed the store"
        )
    if found is not None and database.file is not None:
        database.backup(database.file.with_name(f"{database.file.name}.schema-{found}.backup"))
    with database.write() as connection:
        _one_at_a_time(connection)
        found = _version(connection)  # another process may have been here since
        if found == SCHEMA_VERSION:
            return
        for number in range((found or SCHEMA_VERSION) + 1, SCHEMA_VERSION + 1):
            MIGRATIONS[number](connection)
        metadata.create_all(connection)
        _guard(connection)
        if connection.execute(sa.select(chain.c.seq)).first() is None:
            connection.execute(chain.insert().values(id=1, seq=0, hash=events.GENESIS))
        _remember(connection, found)


def _version(connection: Connection) -> int | None:
    if not sa.inspect(connection).has_table("meta"):
        return None
    found = connection.execute(sa.select(meta.c.value).where(meta.c.key == "schema")).scalar()
    return None if found is None else int(found)


def _remember(connection: Connection, old: int | None) -> None:
    if old is None:
        connection.execute(meta.insert().values(key="schema", value=str(SCHEMA_VERSION)))
        return
    connection.execute(meta.update().where(meta.c.key == "schema").values(value=str(SCHEMA_VERSION)))
    body = {"from": old, "to": SCHEMA_VERSION}
    events.append(connection, "migrated", body, actor="clew", now=time.time_ns() // 1_000_000)


def _one_at_a_time(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # SQLite's writers are alone anyway
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(20250501)"))


def _to_2(connection: Connection) -> None:
    """Feedback says what it was asked for, whether it came late, when, and in which event."""
    for column in (feedback.c.purpose, feedback.c.late, feedback.c.at, feedback.c.event):
        _add_column(connection, column)
    connection.execute(sa.text("CREATE INDEX ix_feedback_event ON feedback (event)"))


def _add_column(connection: Connection, column: sa.Column[object]) -> None:
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    connection.execute(sa.DDL(f"ALTER TABLE {column.table.name} ADD COLUMN {definition}"))


def _guard(connection: Connection) -> None:
    """Triggers that refuse UPDATE and DELETE, so that append-only is the database's word, not ours."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.DDL(REFUSE))
    for table in (t.name for t in APPEND_ONLY):
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.DDL(
                    f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION clew_append_only()"
                )
            )
            continue
        for verb in ("UPDATE", "DELETE"):
            connection.execute(
                sa.DDL(
                    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
            )


REFUSE = """CREATE OR REPLACE FUNCTION clew_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$"""
MIGRATIONS: dict[int, Callable[[Connection], None]] = {2: _to_2}
