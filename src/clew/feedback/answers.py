"""An answer to a lease becomes feedback, an event and a count, all in the caller's transaction."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy import Connection

from clew.feedback import events
from clew.feedback.conversations import comparisons, said_so_far, with_replies
from clew.feedback.fit import check_fits
from clew.feedback.holding import Holding
from clew.feedback.known import agrees
from clew.feedback.people import put_state
from clew.feedback.projects import Project, ProjectConfig
from clew.feedback.records import Answer, Conversation, Feedback, Rater, Record, Share
from clew.feedback.schema import entries, feedback, leases
from clew.feedback.seats import end, give_back, settle
from clew.feedback.slots import in_task_order
from clew.feedback.store import Conflict, put_feedback, put_items, put_tasks, shown_items

SKIPPERS = 3
"""Different people who skip a task until it is held for the operator."""


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


Fits = Callable[[ProjectConfig, Submission], None]
"""Raises ValueError where an answer is not one of those that the project's form offers."""


def take(
    connection: Connection, held: Holding, submission: Submission, *, fits: Fits | None = None, now: int
) -> Receipt:
    """Keep the answer to a lease. Raises Conflict, Expired, or ValueError for an answer that does not fit."""
    if held.answer is not None and held.answered is not None:
        if held.sha256 != submission.sha256:
            raise Conflict("this lease has another answer already; undo it to give a new one")
        return _receipt(connection, held, held.answer, submission, held.answered)._replace(is_new=False)
    if held.state == "skipped":
        raise Conflict("this lease was skipped; lease a task anew")
    late = not held.is_live(now)
    has_seat = held.state == "live"  # nobody has given it to others yet
    seats = held.seats
    if late and held.takes_seat and (held.entry_state != "open" or seats.answered >= seats.need):
        raise Expired("the lease has run out and others have answered; lease a task anew")
    record = _record(connection, held, submission, now)
    if fits is not None:
        fits(held.project.config, submission)
    _keep(connection, held, record, late=late, now=now)
    done = {"lease": held.lease, "at": now, "by": record.id, "sha256": submission.sha256}
    connection.execute(ANSWERED, done)
    if held.takes_seat and (has_seat or seats.open > 0):
        seat = {"entry": held.entry, "num": seats.answered + 1, "left": seats.open - (not has_seat)}
        connection.execute(SEATED, seat)
    if held.purpose == "work":
        settle(connection, held.project, held.entry)
    if held.purpose == "screening":
        screen(connection, held.project, held.person, now=now)
    return _receipt(connection, held, record.id, submission, now)._replace(is_late=late)


def skip(connection: Connection, held: Holding, *, reason: str, now: int) -> None:
    """Never again for this person; the third who skips holds the task for the operator. Again is the same."""
    if held.state == "skipped":
        return
    if not held.is_live(now):
        raise Expired("the lease has run out or has its answer; lease a task anew")
    end(connection, held.lease, "skipped", reason=reason)
    if held.takes_seat:
        give_back(connection, held.project, held.entry)
    is_held = False
    if not held.revision and not held.repeat:
        entry = entries.update().where(entries.c.id == held.entry)
        connection.execute(entry.values(skips=entries.c.skips + 1))
        enough = entry.where(entries.c.skips >= SKIPPERS, entries.c.state == "open")
        is_held = connection.execute(enough.values(state="held")).rowcount > 0
    body = {"lease": held.lease, "entry": held.entry, "reason": reason, "held": is_held}
    events.append(connection, "skipped", body, actor=held.person, now=now)
    if held.purpose == "screening":
        screen(connection, held.project, held.person, now=now)


def reopen(connection: Connection, held: Holding, *, now: int) -> str:
    """The lease of a new revision of one's own newest answer. Raises Conflict, or Expired when it is too late."""
    config = held.project.config
    if held.purpose == "training":
        raise Conflict("the explanation has been shown; answers in training stay as they are")
    if held.answered is None or now > held.answered + config.undo_ms:
        raise Expired(f"answers can be undone for {config.undo_ms // 60000} minutes; this one is older")
    revision = held.revision + 1
    key = f"{held.lease.split('.')[0]}.{revision}"
    there = connection.execute(sa.select(leases.c.feedback).where(leases.c.id == key)).first()
    if there is not None and there.feedback is not None:
        raise Conflict("this answer has a newer revision; undo that one")
    fresh = {"state": "live", "issued": now, "expires": now + config.lease_ms}
    if there is None:
        same = [leases.c[name] for name in COPIED]
        values = [sa.literal(value) for value in (key, revision, *fresh.values())]
        old = sa.select(*same, *values).where(leases.c.id == held.lease)
        connection.execute(leases.insert().from_select([*COPIED, "id", "revision", *fresh], old))
    else:
        connection.execute(leases.update().where(leases.c.id == key).values(fresh))
    events.append(connection, "reopened", {"answer": held.answer, "lease": key}, actor=held.person, now=now)
    return key


COPIED = ("project", "entry", "task", "person", "rater_group", "purpose", "number", "turn", "slots", "repeat")
"""What the lease of a revision has in common with that of the first answer."""


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
    right = sum(
        _is_right(row.gold, answer, json.loads(row.slots)) is True for row, answer in zip(done, given, strict=True)
    )
    if right < project.config.screening_pass * len(done):
        reason = f"screening of {project.name}: {right} of {len(done)} right"
        put_state(connection, person, "paused", reason=reason, actor="clew", now=now)


def _record(connection: Connection, held: Holding, submission: Submission, now: int) -> Feedback:
    answer = submission.answer
    check_fits(answer, held.task, lambda: shown_items(connection, [held.shown])[0])
    if isinstance(answer, Conversation):
        answer = with_replies(answer, said_so_far(connection, held.lease))
    return Feedback(
        task_id=held.task.id,
        items=held.shown,
        rater=Rater(id=held.person, kind="model" if held.role == "judge" else "person"),
        answer=answer,
        revision=held.revision,
        repeat=held.repeat,
        made_at=datetime.fromtimestamp(now / 1000, UTC),
        seconds=None if submission.client_ms is None else max(submission.client_ms, 0) / 1000,
        confidence=submission.confidence,
        note=submission.note,
        assisted=submission.assisted,
    )


def _keep(connection: Connection, held: Holding, record: Feedback, *, late: bool, now: int) -> None:
    """The answer, and of a conversation the comparisons that it is, under one event."""
    event = "late" if late else "revision" if held.revision else "answer"
    purpose = "work" if held.purpose == "repeat" else held.purpose
    said = {"lease": held.lease, "entry": held.entry, "project": held.project.id}
    records = [record]
    if isinstance(record.answer, Conversation):
        found = comparisons(held.task, record)
        put_items(connection, [item for turn in found for item in turn.items])
        put_tasks(connection, [turn.task for turn in found])
        records += [turn.feedback for turn in found]
    put_feedback(connection, records, actor=held.person, now=now, event=event, purpose=purpose, late=late, said=said)


def _receipt(connection: Connection, held: Holding, answer: str, submission: Submission, at: int) -> Receipt:
    receipt = Receipt(answer, at + held.project.config.undo_ms)
    if held.purpose != "training":
        return receipt
    known = connection.execute(sa.select(entries.c.gold, entries.c.explanation).where(entries.c.id == held.entry)).one()
    is_right = _is_right(known.gold, submission.answer, held.slots)
    return receipt._replace(undo_until=at, lesson=Lesson(is_right, known.explanation))


def _is_right(known: str, given: Answer | None, slots: Sequence[int]) -> bool | None:
    return None if given is None else agrees(ANSWER.validate_json(known), in_task_order(given, slots))


ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
# Built once: putting a statement together takes longer than running it.
ANSWERED = (
    leases.update()
    .where(leases.c.id == sa.bindparam("lease"))
    .values(
        state="answered",
        answered=sa.bindparam("at"),
        feedback=sa.bindparam("by"),
        body_sha256=sa.bindparam("sha256"),
    )
)
SEATED = (
    entries.update()
    .where(entries.c.id == sa.bindparam("entry"))
    .values(answered=sa.bindparam("num"), open=sa.bindparam("left"))
)
