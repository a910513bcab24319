"""Tasks in people's hands: chosen, held for a while, given back. All in the caller's transaction."""

import json
import secrets
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from clew.feedback import events
from clew.feedback.assign import Rates, Standing, Want, wants
from clew.feedback.people import Person
from clew.feedback.projects import Project
from clew.feedback.records import Task
from clew.feedback.schema import KNOWN, LIVE, OPEN, WAITING, entries, leases, tasks
from clew.feedback.seats import sweep
from clew.feedback.slots import free_turn, slot_order

MOST_LIVE = 5
"""Leases a person may hold at once in a project."""
DAY_MS = 24 * 60 * 60 * 1000


def give(connection: Connection, person: Person, project: Project, num: int, *, now: int) -> list[str]:
    """Ids of the leases a person works on next: those they hold, oldest first, then new ones."""
    overdue = sweep(connection, now=now)
    held = list(connection.scalars(HELD, {"person": person.id, "project": project.id, "now": now}))
    found = held[:num]
    new = _new(connection, person, project, min(num, MOST_LIVE) - len(held), now)
    if overdue:
        events.append(connection, "expired", {"leases": overdue}, actor="clew", now=now)
    if new:
        body = {"project": project.id, "leases": new}
        events.append(connection, "leased", body, actor=person.id, now=now)
    return found + new


def _new(connection: Connection, person: Person, project: Project, num: int, now: int) -> list[str]:
    if project.state != "open" or person.state != "active":
        return []
    standing = _standing(connection, person, project)
    rates = Rates(*(getattr(project.config, n) for n in ("training", "screening", "gold_rate", "repeat_rate")))
    new: list[str] = []
    for _ in range(num):
        for want in wants(standing, rates, key=project.key, person=person.id):
            lease = FINDERS[want](_Ask(connection, person, project, standing, now))
            if lease is not None:
                new.append(lease)
                standing = standing.after(want)
                break
        else:
            break
    return new


def _standing(connection: Connection, person: Person, project: Project) -> Standing:
    """What expired was not done: it will be given again."""
    rows = connection.execute(STANDING, {"person": person.id, "project": project.id}).all()
    counts = {purpose: num for purpose, num, _ in rows}
    last = max(rows, key=lambda row: row[2], default=None)
    most = 0 if last is None else int(last[2]) + 1
    return Standing(counts.get("training", 0), counts.get("screening", 0), most, None if last is None else last[0])


class _Ask(NamedTuple):
    """Who is to be given a task, of what, and when."""

    connection: Connection
    person: Person
    project: Project
    standing: Standing
    now: int


def _work(ask: _Ask) -> str | None:
    """The next task that needs answers: where the person declared a group, first of those it has not answered."""
    if ask.project.config.diverse and ask.person.group:
        found = _take(ask, "work", is_diverse=True)
        if found is not None:
            return found
    return _take(ask, "work")


def _take(ask: _Ask, want: Want, *, is_diverse: bool = False) -> str | None:
    """Lease the first such task that the person has not had; one they let expire they may have again, as it was."""
    query = _waiting(want, ask.project.config.by, is_diverse)
    about = {"person": ask.person.id, "project": ask.project.id, "rater_group": ask.person.group}
    entry = ask.connection.execute(query, about).first()
    if entry is None:
        return None
    if want == "work":
        ask.connection.execute(TAKE_SEAT, {"entry": entry.id})
    if entry.old is not None:
        again = {"state": "live", "expires": ask.now + ask.project.config.lease_ms}
        ask.connection.execute(leases.update().where(leases.c.id == entry.old).values(again))
        return str(entry.old)
    turn = _free_turn(ask, entry.id) if entry.started or want != "work" else 0
    slots = json.dumps(slot_order(ask.project.key, entry.task, turn, len(Task.model_validate_json(entry.body).items)))
    return _insert(ask, want, {"entry": entry.id, "task": entry.task, "turn": turn, "slots": slots, "repeat": 0})


@cache
def _waiting(want: Want, by: str, is_diverse: bool) -> sa.Executable:
    """The first task of a kind that the person has not had, with their lease of it where it has run out."""
    old = leases.alias()
    same = (old.c.person == sa.bindparam("person")) & (old.c.task == entries.c.task)
    query = (
        sa.select(entries.c.id, entries.c.task, entries.c.started, tasks.c.body, old.c.id.label("old"))
        .join(tasks, tasks.c.id == entries.c.task)
        .outerjoin(old, same & (old.c.repeat == 0) & (old.c.revision == 0))
        .where(entries.c.project == sa.bindparam("project"), old.c.id.is_(None) | (old.c.state == "expired"))
        .limit(1)
    )
    if want != "work":
        purpose = "training" if want == "training" else "gold"
        return query.where(OPEN, KNOWN, entries.c.purpose == purpose).order_by(entries.c.place)
    breadth_first = (entries.c.started.desc(), entries.c.place)
    query = query.where(WAITING).with_for_update(of=entries, skip_locked=True)
    query = query.order_by(*(breadth_first if by == "random" else (entries.c.priority.desc(), *breadth_first)))
    answered = (
        (leases.c.entry == entries.c.id) & leases.c.state.in_(("live", "answered")) & (leases.c.purpose == "work")
    )
    own = sa.exists().where(answered, leases.c.rater_group == sa.bindparam("rater_group"))
    return query.where(~own) if is_diverse else query


def _free_turn(ask: _Ask, entry: str) -> int:
    """So that over the people who answer it every item stands equally often in every place."""
    return free_turn(set(ask.connection.scalars(TURNS, {"entry": entry})))


def _repeat(ask: _Ask) -> str | None:
    """A task of several items that the person answered a day ago or more, its slots reversed."""
    again = leases.alias()
    of_person = (leases.c.person == ask.person.id) & (leases.c.project == ask.project.id)
    settled = (leases.c.purpose == "work") & (leases.c.state == "answered") & (leases.c.revision == 0)
    repeated = sa.exists().where(again.c.person == ask.person.id, again.c.task == leases.c.task, again.c.repeat == 1)
    is_due = (leases.c.answered <= ask.now - DAY_MS) & leases.c.slots.contains(",")
    query = sa.select(leases).where(of_person, settled, is_due, ~repeated).order_by(leases.c.number).limit(1)
    old = ask.connection.execute(query).first()
    if old is None:
        return None
    slots = json.dumps(json.loads(old.slots)[::-1])
    values = {"entry": old.entry, "task": old.task, "turn": old.turn, "slots": slots, "repeat": 1}
    return _insert(ask, "repeat", values)


def _insert(ask: _Ask, purpose: Want, values: dict[str, Any]) -> str:
    lease: dict[str, Any] = {
        "id": secrets.token_hex(12),
        "project": ask.project.id,
        "person": ask.person.id,
        "rater_group": ask.person.group,
        "purpose": purpose,
        "number": ask.standing.number,
        "revision": 0,
        "state": "live",
        "issued": ask.now,
        "expires": ask.now + ask.project.config.lease_ms,
    }
    ask.connection.execute(INSERT, lease | values)
    return lease["id"]


FINDERS: dict[Want, Callable[[_Ask], str | None]] = {
    "training": lambda ask: _take(ask, "training"),
    "screening": lambda ask: _take(ask, "screening"),
    "gold": lambda ask: _take(ask, "gold"),
    "repeat": _repeat,
    "work": _work,
}
INSERT = leases.insert()
TURNS = sa.select(leases.c.turn).where(
    leases.c.entry == sa.bindparam("entry"), leases.c.state.in_(("live", "answered")), leases.c.repeat == 0
)
TAKE_SEAT = entries.update().where(entries.c.id == sa.bindparam("entry")).values(started=1, open=entries.c.open - 1)
HELD = (
    sa.select(leases.c.id)
    .where(leases.c.person == sa.bindparam("person"), LIVE, leases.c.revision == 0)
    .where(leases.c.project == sa.bindparam("project"), leases.c.expires > sa.bindparam("now"))
    .order_by(leases.c.number)
)
STANDING = (
    sa.select(leases.c.purpose, sa.func.count(), sa.func.max(leases.c.number))
    .where(leases.c.person == sa.bindparam("person"), leases.c.project == sa.bindparam("project"))
    .where(leases.c.revision == 0, leases.c.state != "expired")
    .group_by(leases.c.purpose)
)
