"""A lease with all that it is about, locked for the transaction: person, task, project, and the task's seats."""

import json
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from clew.feedback.assign import Seats, Want
from clew.feedback.people import Role
from clew.feedback.projects import Project, project_of
from clew.feedback.records import Task
from clew.feedback.schema import entries, leases, people, projects, tasks

LeaseState = Literal["live", "answered", "skipped", "expired"]


class Holding(NamedTuple):
    lease: str
    person: str
    role: Role
    project: Project
    entry: str
    entry_state: str
    seats: Seats
    task: Task
    slots: tuple[int, ...]
    """Which of the task's items stands in each slot."""
    purpose: Want
    repeat: int
    revision: int
    state: LeaseState
    expires: int
    answered: int | None
    """When."""
    answer: str | None
    """Id of the feedback."""
    sha256: str | None
    """Of what was submitted."""

    @property
    def shown(self) -> tuple[str, ...]:
        """Ids of the items in their slots."""
        return tuple(self.task.items[place] for place in self.slots)

    @property
    def takes_seat(self) -> bool:
        """Whether it is one of the answers that the task needs; repeats, revisions and known questions are extra."""
        return self.purpose == "work" and self.revision == 0

    def is_live(self, now: int) -> bool:
        return self.state == "live" and now < self.expires


def holding(connection: Connection, *, person: str, lease: str | None = None, answer: str | None = None) -> Holding:
    """A person's lease by its id or that of its answer. Raises KeyError where it is not theirs."""
    what, key = (leases.c.id, lease) if answer is None else (leases.c.feedback, answer)
    row = connection.execute(BY_LEASE if answer is None else BY_ANSWER, {"person": person, "key": key}).first()
    if row is None:
        raise KeyError(f"you have no {what.name} {key!r}")
    seats = Seats(row.need, row.max_need, row.entry_answered, row.need - row.entry_answered - row.open)
    return Holding(
        lease=row.id,
        person=row.person,
        role=row.role,
        project=project_of(row.project, row.name, row.project_state, row.key, row.config, row.created),
        entry=row.entry,
        entry_state=row.entry_state,
        seats=seats,
        task=Task.model_validate_json(row.body),
        slots=tuple(json.loads(row.slots)),
        purpose=row.purpose,
        repeat=row.repeat,
        revision=row.revision,
        state=row.state,
        expires=row.expires,
        answered=row.answered,
        answer=row.feedback,
        sha256=row.body_sha256,
    )


# Rows are locked in the order in which the tables stand here: everybody locks person, lease, entry, then events.
ALL = (
    sa.select(
        leases,
        people.c.role,
        projects.c.name,
        projects.c.state.label("project_state"),
        projects.c.key,
        projects.c.config,
        projects.c.created,
        entries.c.state.label("entry_state"),
        entries.c.need,
        entries.c.max_need,
        entries.c.open,
        entries.c.answered.label("entry_answered"),
        tasks.c.body,
    )
    .select_from(people)
    .join(leases, leases.c.person == people.c.id)
    .join(entries, entries.c.id == leases.c.entry)
    .join(tasks, tasks.c.id == leases.c.task)
    .join(projects, projects.c.id == leases.c.project)
    .where(people.c.id == sa.bindparam("person"))
    .with_for_update(of=[people, leases, entries])
)
BY_LEASE = ALL.where(leases.c.id == sa.bindparam("key"))
BY_ANSWER = ALL.where(leases.c.feedback == sa.bindparam("key"))
