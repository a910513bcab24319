"""The tables of the store. Records are append-only; what the desk does with them (leases, counts, states) is not.

Times are UTC milliseconds. Bodies are JSON of the records in `records.py`, ids of leases and entries are random.
"""

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

metadata = sa.MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", String))

items = Table("item", metadata, Column("id", String, primary_key=True), Column("body", Text, nullable=False))

tasks = Table(
    "task",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, unique=True, nullable=False),
    Column("kind", String, nullable=False, index=True),
    Column("body", Text, nullable=False),
)

feedback = Table(
    "feedback",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String, unique=True, nullable=False),
    Column("task", String, ForeignKey("task.id"), nullable=False, index=True),
    Column("rater", String, nullable=False, index=True),
    Column("kind", String, nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("purpose", String, nullable=False, server_default="work"),
    Column("late", Integer, nullable=False, server_default="0"),
    Column("at", BigInteger, nullable=False, server_default="0"),
    Column("event", BigInteger, nullable=False, server_default="0", index=True),
)

events = Table(
    "event",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", String, nullable=False),
    Column("type", String, nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("prev_hash", String, nullable=False),
    Column("hash", String, nullable=False),
)

chain = Table(
    "chain",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String, nullable=False),
)
"""One row, the head of the chain of events: whoever appends holds it until the commit."""

projects = Table(
    "project",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("key", String, nullable=False),
    Column("config", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
)

people = Table(
    "person",
    metadata,
    Column("id", String, primary_key=True),
    Column("pseudonym", String, nullable=False, unique=True),
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),
    Column("rater_group", String, nullable=False),
    Column("token_sha256", String, unique=True),
    Column("state", String, nullable=False),
    Column("created", BigInteger, nullable=False),
)

sessions = Table(
    "session",
    metadata,
    Column("id_sha256", String, primary_key=True),
    Column("person", String, ForeignKey("person.id"), nullable=False, index=True),
    Column("expires", BigInteger, nullable=False),
)

entries = Table(
    "entry",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", String, ForeignKey("project.id"), nullable=False),
    Column("task", String, ForeignKey("task.id"), nullable=False),
    Column("purpose", String, nullable=False),
    Column("need", Integer, nullable=False),
    Column("max_need", Integer, nullable=False),
    Column("open", Integer, nullable=False),
    Column("answered", Integer, nullable=False),
    Column("skips", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("priority", Float, nullable=False),
    Column("started", Integer, nullable=False),
    Column("place", BigInteger, nullable=False),
    Column("gold", Text),
    Column("explanation", Text, nullable=False, server_default=""),
    UniqueConstraint("project", "task"),
)
"""A task in a project: of `need` answers, `answered` are there, some are under lease, `open` nobody works on."""

leases = Table(
    "lease",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("entry", String, ForeignKey("entry.id"), nullable=False),
    Column("task", String, nullable=False),
    Column("person", String, ForeignKey("person.id"), nullable=False),
    Column("rater_group", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("slots", String, nullable=False),
    Column("repeat", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("issued", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("answered", BigInteger),
    Column("feedback", String),
    Column("body_sha256", String),
    Column("reason", String),
    UniqueConstraint("person", "task", "repeat", "revision"),
)
"""A task in the hands of a person: `number` counts a person's leases in a project, `turn` a task's slot orders."""

turns = Table(
    "turn",
    metadata,
    Column("lease", String, ForeignKey("lease.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)
"""Turns of conversations under way: what the person said and the replies that were offered."""

replies = Table(
    "reply",
    metadata,
    Column("key", String, primary_key=True),
    Column("person", String, primary_key=True),
    Column("route", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
"""What was replied to requests with an Idempotency-Key."""

exports = Table(
    "export",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("seq_upto", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("options", Text, nullable=False),
    Column("folder", String, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# Written out, not bound: only then do databases see that the partial indices serve.
LIVE = leases.c.state == sa.literal_column("'live'")
OPEN = entries.c.state == sa.literal_column("'open'")
WAITING = OPEN & (entries.c.open > sa.literal_column("0")) & (entries.c.purpose == sa.literal_column("'work'"))
KNOWN = entries.c.purpose != sa.literal_column("'work'")

Index(
    "entry_waiting",
    entries.c.project,
    entries.c.priority.desc(),
    entries.c.started.desc(),
    entries.c.place,
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)
Index(
    "entry_waiting_at_random",
    entries.c.project,
    entries.c.started.desc(),
    entries.c.place,
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)
Index(
    "entry_gold",
    entries.c.project,
    entries.c.purpose,
    entries.c.place,
    sqlite_where=KNOWN,
    postgresql_where=KNOWN,
)
Index("lease_of_entry", leases.c.entry, leases.c.state)
Index("lease_of_person", leases.c.person, leases.c.project, leases.c.purpose, leases.c.number)
Index("lease_live", leases.c.expires, sqlite_where=LIVE, postgresql_where=LIVE)
Index("lease_mine", leases.c.person, leases.c.number, sqlite_where=LIVE, postgresql_where=LIVE)
Index("lease_history", leases.c.person, leases.c.answered)
Index("lease_answer", leases.c.feedback)

APPEND_ONLY = (items, tasks, feedback, events)
