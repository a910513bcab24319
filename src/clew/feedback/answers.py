"""An answer to a lease becomes feedback, an event and a count, all in the caller's transaction."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy import Connection

from clew.feedback import events
from clew.feedback.conversations import comparisons, said_so_far, with_replies
from clew.feedback.fit import check_fits
from clew.feedback.known import agrees
from clew.feedback.people import put_state
from clew.feedback.projects import Project, find_project
from clew.feedback.records import Answer, Conversation, Feedback, Item, Rater, Record, Share, Task
from clew.feedback.schema import entries, feedback, items, leases, tasks
from clew.feedback.seats import give_back, settle, takes_seat
from clew.feedback.slots import in_task_order
from clew.feedback.store import Conflict, put_feedback, put_items, put_tasks

SKIPPERS = 3
"""Different people who skip a task until it is held for the operator."""
RaterKind = Literal["person", "model"]


class Expired(ValueError):
    """The lease ran out, and nothing of it was kept."""


class Submission(Record):
    """What comes with an answer. Sent again it is the same when all but the time is."""

    answer: Answer
    client_ms: int | None = None
    """Time the person took by their own clock: advisory."""
    note: str = ""
    confidence: Share | None = None
    assisted: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"client_ms"}).encode()).hexdigest()


class Lesson(NamedTuple):
    """Of a training question: whether the answer was right (None where nobody can say) and why."""

    is_right: bool | None
    explanation: str


class Receipt(NamedTuple):
    """Example: `Receipt("5f0c…", 1700000600000)`"""

    answer: str
    """Id of the feedback."""
    undo_until: int
    is_new: bool = True
    is_late: bool = False
    """The lease had run out; the answer was kept because the task still needed it."""
    lesson: Lesson | None = None


def take(connection: Connection, lease: Any, rater: RaterKind, submission: Submission, *, now: int) -> Receipt:
    """Keep the answer to a locked lease. Raises Conflict, Expired, or ValueError for an answer that does not fit."""
    project = find_project(connection, lease.project)
    if lease.feedback is not None:
        if lease.body_sha256 != submission.sha256:
            raise Conflict("this lease has another answer already; undo it to give a new one")
        old = _receipt(connection, project, lease, lease.feedback, lease.answered, submission)
        return old._replace(is_new=False)
    if lease.state == "skipped":
        raise Conflict("this lease was skipped; lease a task anew")
    if lease.state == "live" and lease.expires <= now:
        give_back(connection, lease, "expired")
        lease = connection.execute(sa.select(leases).where(leases.c.id == lease.id)).one()
    entry = connection.execute(sa.select(entries).where(entries.c.id == lease.entry).with_for_update()).one()
    late = lease.state == "expired"
    if late and takes_seat(lease) and (entry.state != "open" or entry.answered >= entry.need):
        raise Expired("the lease has run out and others have answered; lease a task anew")
    record = _record(connection, lease, rater, submission, now)
    _keep(connection, lease, record, late=late, now=now)
    done = {"state": "answered", "answered": now, "feedback": record.id, "body_sha256": submission.sha256}
    connection.execute(leases.update().where(leases.c.id == lease.id).values(done))
    if takes_seat(lease) and (not late or entry.open > 0):
        seat = {"answered": entries.c.answered + 1, "open": entries.c.open - int(late)}
        connection.execute(entries.update().where(entries.c.id == entry.id).values(seat))
    if lease.purpose == "work":
        settle(connection, lease.project, lease.entry)
    if lease.purpose == "screening":
        screen(connection, project, lease.person, now=now)
    return _receipt(connection, project, lease, record.id, now, submission)._replace(is_late=late)


def skip(connection: Connection, lease: Any, *, reason: str, now: int) -> None:
    """Never again for this person; the third who skips holds the task for the operator. Again is the same."""
    if lease.state == "skipped":
        return
    if lease.state != "live" or lease.expires <= now:
        raise Expired("the lease has run out or has its answer; lease a task anew")
    give_back(connection, lease, "skipped", reason=reason)
    body = {"lease": lease.id, "entry": lease.entry, "reason": reason}
    events.append(connection, "skipped", body, actor=lease.person, now=now)
    if lease.revision or lease.repeat:
        return
    connection.execute(entries.update().where(entries.c.id == lease.entry).values(skips=entries.c.skips + 1))
    held = entries.update().where(entries.c.id == lease.entry, entries.c.skips >= SKIPPERS, entries.c.state == "open")
    if connection.execute(held.values(state="held")).rowcount:
        events.append(connection, "held", {"entry": lease.entry, "task": lease.task}, actor="clew", now=now)
    if lease.purpose == "screening":
        screen(connection, find_project(connection, lease.project), lease.person, now=now)


def reopen(connection: Connection, answer: str, person: str, *, now: int) -> str:
    """The lease of a new revision of one's own newest answer. Raises KeyError, Conflict, or Expired when too late."""
    old = connection.execute(
        sa.select(leases).where(leases.c.feedback == answer, leases.c.person == person).with_for_update()
    ).first()
    if old is None:
        raise KeyError(f"you gave no answer {answer!r}")
    config = find_project(connection, old.project).config
    if old.purpose == "training":
        raise Conflict("the explanation has been shown; answers in training stay as they are")
    if now > old.answered + config.undo_ms:
        raise Expired(f"answers can be undone for {config.undo_ms // 60000} minutes; this one is older")
    same = (leases.c.person == person) & (leases.c.task == old.task) & (leases.c.repeat == old.repeat)
    next_one = connection.execute(sa.select(leases).where(same, leases.c.revision == old.revision + 1)).first()
    if next_one is not None and next_one.feedback is not None:
        raise Conflict("this answer has a newer revision; undo that one")
    fresh = {"state": "live", "issued": now, "expires": now + config.lease_ms}
    key = f"{old.id.split('.')[0]}.{old.revision + 1}"
    if next_one is None:
        blank = {"id": key, "revision": old.revision + 1, "answered": None, "feedback": None, "body_sha256": None}
        connection.execute(leases.insert().values({**old._mapping, **blank, **fresh}))
    else:
        connection.execute(leases.update().where(leases.c.id == key).values(fresh))
    events.append(connection, "reopened", {"answer": answer, "lease": key}, actor=person, now=now)
    return key


def screen(connection: Connection, project: Project, person: str, *, now: int) -> None:
    """Once all of screening is done, pause whom it did not pass; the operator decides."""
    mine = (leases.c.person == person) & (leases.c.project == project.id) & (leases.c.purpose == "screening")
    done = connection.execute(
        sa.select(leases.c.state, leases.c.slots, entries.c.gold, feedback.c.body)
        .join(entries, entries.c.id == leases.c.entry)
        .outerjoin(feedback, feedback.c.id == leases.c.feedback)
        .where(mine, leases.c.revision == 0, leases.c.state.in_(("answered", "skipped")))
    ).all()
    if len(done) < project.config.screening:
        return
    given = [None if row.body is None else Feedback.model_validate_json(row.body).answer for row in done]
    right = sum(_is_right(row.gold, answer, row.slots) is True for row, answer in zip(done, given, strict=True))
    if right < project.config.screening_pass * len(done):
        reason = f"screening of {project.name}: {right} of {len(done)} right"
        put_state(connection, person, "paused", reason=reason, actor="clew", now=now)


def _record(connection: Connection, lease: Any, rater: RaterKind, submission: Submission, now: int) -> Feedback:
    task = Task.model_validate_json(
        connection.execute(sa.select(tasks.c.body).where(tasks.c.id == lease.task)).scalar_one()
    )
    shown = [task.items[place] for place in json.loads(lease.slots)]
    bodies = dict(connection.execute(sa.select(items.c.id, items.c.body).where(items.c.id.in_(shown))).tuples().all())
    check_fits(submission.answer, task, [Item.model_validate_json(bodies[key]) for key in shown])
    answer = submission.answer
    if isinstance(answer, Conversation):
        answer = with_replies(answer, said_so_far(connection, lease.id))
    return Feedback(
        task_id=task.id,
        items=tuple(shown),
        rater=Rater(id=lease.person, kind=rater),
        answer=answer,
        revision=lease.revision,
        repeat=lease.repeat,
        made_at=datetime.fromtimestamp(now / 1000, UTC),
        seconds=None if submission.client_ms is None else max(submission.client_ms, 0) / 1000,
        confidence=submission.confidence,
        note=submission.note,
        assisted=submission.assisted,
    )


def _keep(connection: Connection, lease: Any, record: Feedback, *, late: bool, now: int) -> None:
    event = "late" if late else "revision" if lease.revision else "answer"
    purpose = "work" if lease.purpose == "repeat" else lease.purpose
    said = {"lease": lease.id, "entry": lease.entry, "project": lease.project}
    records = [record]
    if isinstance(record.answer, Conversation):
        asked = Task.model_validate_json(
            connection.execute(sa.select(tasks.c.body).where(tasks.c.id == lease.task)).scalar_one()
        )
        found = comparisons(asked, record)
        put_items(connection, [item for turn in found for item in turn.items])
        put_tasks(connection, [turn.task for turn in found])
        records += [turn.feedback for turn in found]
    put_feedback(connection, records, actor=lease.person, now=now, event=event, purpose=purpose, late=late, said=said)


def _receipt(
    connection: Connection, project: Project, lease: Any, answer: str, at: int, submission: Submission
) -> Receipt:
    receipt = Receipt(answer, at + project.config.undo_ms)
    if lease.purpose != "training":
        return receipt
    known = connection.execute(
        sa.select(entries.c.gold, entries.c.explanation).where(entries.c.id == lease.entry)
    ).one()
    is_right = _is_right(known.gold, submission.answer, lease.slots)
    return receipt._replace(undo_until=at, lesson=Lesson(is_right, known.explanation))


def _is_right(known: str, given: Answer | None, slots: str) -> bool | None:
    return None if given is None else agrees(ANSWER.validate_json(known), in_task_order(given, json.loads(slots)))


ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
