"""What happened, in order, each event sealed with the hash of the one before: nothing can be changed unseen."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from clew.feedback.schema import chain, events

GENESIS = "0" * 64


class Event(NamedTuple):
    """Example: `Event(1, 1700000000000, "anna", "answer", {"lease": "…"}, GENESIS, "5f0c…")`"""

    seq: int
    at: int
    """UTC milliseconds."""
    actor: str
    type: str
    body: Mapping[str, Any]
    prev_hash: str
    hash: str


def append(connection: Connection, type: str, body: Mapping[str, Any], *, actor: str, now: int) -> int:
    """The number of the new event. Holds the head of the chain until the transaction ends."""
    head = connection.execute(LOCK_HEAD).one()
    text = json.dumps(body, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    seq = head.seq + 1
    digest = _hash(seq, now, actor, type, text, head.hash)
    connection.execute(MOVE_HEAD, {"new_seq": seq, "new_hash": digest})
    row = {"seq": seq, "at": now, "actor": actor, "type": type, "body": text, "prev_hash": head.hash, "hash": digest}
    connection.execute(INSERT, row)
    return seq


def read(
    connection: Connection,
    *,
    after: int = 0,
    upto: int | None = None,
    types: Sequence[str] = (),
    limit: int | None = None,
) -> list[Event]:
    """Events after a number, in order."""
    query = sa.select(events).where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    if upto is not None:
        query = query.where(events.c.seq <= upto)
    if types:
        query = query.where(events.c.type.in_(types))
    return [
        Event(r.seq, r.at, r.actor, r.type, json.loads(r.body), r.prev_hash, r.hash) for r in connection.execute(query)
    ]


def last(connection: Connection) -> int:
    """The number of the newest event; 0 when there is none."""
    return connection.execute(sa.select(chain.c.seq)).scalar_one()


def broken_at(connection: Connection) -> int | None:
    """The first event whose seal does not fit what is there; None when the chain is whole up to its head."""
    expected, digest = 1, GENESIS
    for row in connection.execute(sa.select(events).order_by(events.c.seq)):
        sealed = _hash(row.seq, row.at, row.actor, row.type, row.body, digest)
        if (row.seq, row.prev_hash, row.hash) != (expected, digest, sealed):
            return expected
        expected, digest = expected + 1, row.hash
    head = connection.execute(sa.select(chain.c.seq, chain.c.hash)).one()
    return None if (head.seq, head.hash) == (expected - 1, digest) else expected


def _hash(seq: int, at: int, actor: str, type: str, body: str, prev_hash: str) -> str:
    sealed = json.dumps([seq, at, actor, type, body, prev_hash], separators=(",", ":"))
    return hashlib.sha256(sealed.encode()).hexdigest()


# Built once: putting a statement together takes longer than running it.
LOCK_HEAD = sa.select(chain.c.seq, chain.c.hash).with_for_update()
MOVE_HEAD = chain.update().values(seq=sa.bindparam("new_seq"), hash=sa.bindparam("new_hash"))
INSERT = events.insert()
