"""Seats of a task: how many answers it still needs, and what becomes of those who hold one and do not answer."""

import sqlalchemy as sa
from sqlalchemy import Connection

from clew.feedback.assign import LABELS, Seats, label, settled
from clew.feedback.projects import Project, find_project
from clew.feedback.records import Answer, Feedback, Task, answer_kind
from clew.feedback.schema import LIVE, entries, feedback, leases, tasks
from clew.feedback.slots import in_task_order
from clew.feedback.store import latest

SWEEP = 200
"""Leases that one call gives back at most."""


def sweep(connection: Connection, *, now: int) -> list[str]:
    """Give back what is overdue; ids of those leases. The caller appends the event, after all rows are locked."""
    rows = connection.execute(OVERDUE, {"now": now}).all()
    for row in sorted(rows, key=lambda row: row.entry):  # everybody locks entries in this order
        end(connection, row.id, "expired")
        if row.purpose == "work" and row.revision == 0:
            give_back(connection, find_project(connection, row.project), row.entry)
    return [row.id for row in rows]


def end(connection: Connection, lease: str, state: str, *, reason: str = "") -> None:
    """The lease ends without an answer."""
    connection.execute(leases.update().where(leases.c.id == lease).values(state=state, reason=reason))


def give_back(connection: Connection, project: Project, entry: str) -> None:
    """A seat is open again; or is not needed any more, where the project stops adaptively."""
    connection.execute(entries.update().where(entries.c.id == entry).values(open=entries.c.open + 1))
    settle(connection, project, entry)


def settle(connection: Connection, project: Project, entry: str) -> None:
    """How many answers the task needs now, where the project stops adaptively."""
    config = project.config
    num_labels = LABELS.get(answer_kind(config.kind))
    if not config.adaptive or num_labels is None:
        return
    row = connection.execute(sa.select(entries).where(entries.c.id == entry).with_for_update()).one()
    before = Seats(row.need, row.max_need, row.answered, row.need - row.answered - row.open)
    labels = [said for vote in votes(connection, row.task) if (said := label(vote)) is not None]
    after = settled(before, labels, accuracy=config.accuracy, sure=config.sure, num_labels=num_labels)
    connection.execute(entries.update().where(entries.c.id == entry).values(need=after.need, open=after.open))


def votes(connection: Connection, task: str) -> list[Answer]:
    """Answers to a task in its own order, of each person the newest; without planned repeats."""
    body = connection.execute(sa.select(tasks.c.body).where(tasks.c.id == task)).scalar_one()
    items = Task.model_validate_json(body).items
    query = sa.select(feedback.c.body).where(feedback.c.task == task, feedback.c.purpose == "work")
    records = [Feedback.model_validate_json(said) for said in connection.scalars(query.order_by(feedback.c.seq))]
    first_time = [record for record in records if not record.repeat]
    return [in_task_order(r.answer, [items.index(i) for i in r.items]) for r in latest(first_time)]


OVERDUE = (
    sa.select(leases)
    .where(LIVE, leases.c.expires <= sa.bindparam("now"))
    .order_by(leases.c.expires, leases.c.id)
    .limit(SWEEP)
    .with_for_update(skip_locked=True)
)
