"""All that was said in a project, which the dashboard's numbers are made of; read anew when something happened."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from pydantic import TypeAdapter

from clew.feedback import events
from clew.feedback.desk import Desk
from clew.feedback.people import Person
from clew.feedback.projects import Project, find_project
from clew.feedback.records import Answer, Feedback, Item, ItemId, Task
from clew.feedback.schema import entries, feedback, items, leases, tasks
from clew.feedback.store import latest


class Entry(NamedTuple):
    """A task of the project and how it stands."""

    task: Task
    purpose: str
    need: int
    answered: int
    skips: int
    state: str
    gold: Answer | None


class Said(NamedTuple):
    """An answer, its newest revision."""

    record: Feedback
    purpose: str
    at: int
    is_late: bool


@dataclass(frozen=True)
class Gathered:
    """Example: `gathered = Gatherer(desk).of(project_id); len(gathered.work)`"""

    project: Project
    entries: Mapping[str, Entry]
    """By id of the task."""
    items: Mapping[ItemId, Item]
    said: Sequence[Said]
    """Excluded people's left out."""
    people: Mapping[str, Person]
    num_live: int

    @property
    def work(self) -> list[Feedback]:
        """Real work, planned repeats left out."""
        return [s.record for s in self.said if s.purpose == "work" and not s.record.repeat]

    @property
    def gold(self) -> list[Feedback]:
        return [s.record for s in self.said if s.purpose in ("gold", "screening")]


class Gatherer:
    """Keeps what it read of a project until something happens."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._kept: dict[str, tuple[int, Gathered]] = {}
        self._lock = threading.Lock()

    def of(self, project: str) -> Gathered:
        """Raises KeyError for an unknown project."""
        with self._desk.store.read() as connection:
            seq = events.last(connection)
        with self._lock:
            kept = self._kept.get(project)
            if kept is None or kept[0] != seq:
                kept = self._kept[project] = (seq, _gather(self._desk, project))
            return kept[1]


def _gather(desk: Desk, project: str) -> Gathered:
    people = {person.id: person for person in desk.people.all()}
    out = {person.id for person in people.values() if person.state == "excluded"}
    with desk.store.read() as connection:
        found = find_project(connection, project)
        of_project = sa.select(entries.c.task).where(entries.c.project == project)
        bodies = sa.select(tasks.c.id, tasks.c.body).where(tasks.c.id.in_(of_project))
        by_id = {key: Task.model_validate_json(body) for key, body in connection.execute(bodies)}
        rows = connection.execute(sa.select(entries).where(entries.c.project == project).order_by(entries.c.place))
        listed = {
            r.task: Entry(by_id[r.task], r.purpose, r.need, r.answered, r.skips, r.state, _answer(r.gold)) for r in rows
        }
        answers = connection.execute(
            sa.select(feedback).where(feedback.c.task.in_(of_project)).order_by(feedback.c.seq)
        ).all()
        live = sa.select(sa.func.count()).where(leases.c.project == project, leases.c.state == "live")
        num_live = connection.execute(live).scalar_one()
        shown = _items(connection, {key for task in by_id.values() for key in task.items})
    records = {row.id: Feedback.model_validate_json(row.body) for row in answers if row.rater not in out}
    newest = {record.id for record in latest(list(records.values()))}
    said = [Said(records[r.id], r.purpose, r.at, bool(r.late)) for r in answers if r.id in newest]
    return Gathered(found, listed, shown, said, people, num_live)


def _items(connection: sa.Connection, wanted: set[ItemId]) -> dict[ItemId, Item]:
    keys, found = sorted(wanted), dict[ItemId, Item]()
    for start in range(0, len(keys), 500):
        some = sa.select(items.c.id, items.c.body).where(items.c.id.in_(keys[start : start + 500]))
        found |= {key: Item.model_validate_json(body) for key, body in connection.execute(some)}
    return found


def _answer(gold: str | None) -> Answer | None:
    return None if gold is None else ANSWER.validate_json(gold)


ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
