"""Seats of a task: how many answers it still needs, and what becomes of those who hold one and do not answer."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from clew.feedback.assign import LABELS, Seats, label, settled
from clew.feedback.projects import find_project
from clew.feedback.records import Answer, Feedback, Task, answer_kind
from clew.feedback.schema import entries, feedback, leases, tasks
from clew.feedback.slots import in_task_order
from clew.feedback.store import latest

SWEEP = 200
"""Leases that one call gives back at most."""


def sweep(connection: Connection, *, now: int) -> list[str]:
    """Give back what is overdue; ids of those leases. The caller appends the event, after all rows are locked."""
    overdue = (leases.c.state == "live") & (leases.c.expires <= now)
    query = sa.select(leases).where(overdue).order_by(leases.c.expires, leases.c.id).limit(SWEEP)
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    for row in sorted(rows, key=lambda row: row.entry):  # everybody locks entries in this order
        give_back(connection, row, "expired")
    return [row.id for row in rows]


def give_back(connection: Connection, lease: Any, state: str, *, reason: str = "") -> None:
    """End a lease without an answer: its seat is open again."""
    connection.execute(leases.update().where(leases.c.id == lease.id).values(state=state, reason=reason))
    if takes_seat(lease):
        connection.execute(entries.update().where(entries.c.id == lease.entry).values(open=entries.c.open + 1))
        settle(connection, lease.project, lease.entry)


def takes_seat(lease: Any) -> bool:
    """Whether the lease is one of those that a task needs; repeats, revisions and known questions are extra."""
    return lease.purpose == "work" and lease.revision == 0


def settle(connection: Connection, project: str, entry: str) -> None:
    """How many answers the task needs now, where the project stops adaptively."""
    config = find_project(connection, project).config
    kind = answer_kind(config.kind)
    if not config.adaptive or kind not in LABELS:
        return
    row = connection.execute(sa.select(entries).where(entries.c.id == entry).with_for_update()).one()
    live = sa.select(sa.func.count()).where(
        leases.c.entry == entry, leases.c.state == "live", leases.c.purpose == "work", leases.c.revision == 0
    )
    before = Seats(row.need, row.max_need, row.answered, connection.execute(live).scalar_one())
    labels = [said for vote in votes(connection, row.task) if (said := label(vote)) is not None]
    after = settled(before, labels, accuracy=config.accuracy, sure=config.sure, num_labels=LABELS[kind])
    connection.execute(entries.update().where(entries.c.id == entry).values(need=after.need, open=after.open))


def votes(connection: Connection, task: str) -> list[Answer]:
    """Answers to a task in its own order, of each person the newest; without planned repeats."""
    body = connection.execute(sa.select(tasks.c.body).where(tasks.c.id == task)).scalar_one()
    items = Task.model_validate_json(body).items
    query = sa.select(feedback.c.body).where(feedback.c.task == task, feedback.c.purpose == "work")
    records = [Feedback.model_validate_json(said) for said in connection.scalars(query.order_by(feedback.c.seq))]
    first_time = [record for record in records if not record.repeat]
    return [in_task_order(r.answer, [items.index(i) for i in r.items]) for r in latest(first_time)]
