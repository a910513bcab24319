"""What the store said up to an event, as files: the events themselves, and what training reads, under a manifest.

Nobody is named unless asked for: people are pseudonyms made with a salt of the export's own, so that two exports cannot
be joined; times and the seals of the chain are left out, since they tell who was at work.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy import Connection

from clew.durable import seal, write_durably
from clew.feedback import events
from clew.feedback.export import EXPORTS, write_rows
from clew.feedback.records import AnswerKind, Feedback, Item, ItemId, Rater, Record, Share, Task, TaskKind
from clew.feedback.schema import exports, feedback, people
from clew.feedback.store import SEALING, Store, latest

FEW_RATERS = 5
"""With fewer, a reader who knows who took part may guess who is who."""
CONTACT = re.compile(r"[\w.+-]+@[\w-]+\.\w+|\+?\d[\d ()/-]{7,}\d")
"""E-mail addresses and telephone numbers in what people wrote."""


class ExportOptions(Record):
    """Example: `ExportOptions(formats=("pairs", "rankings"))`"""

    formats: tuple[str, ...] = ("pairs",)
    """Names in `export.EXPORTS`."""
    include_identities: bool = False
    """Ids of people, times and seals as they are. For the owner alone."""
    max_share: Share = 0.25
    """Of the answers that one person may have; with n people it is at least 1 / n."""
    upto: int | None = Field(default=None, ge=0)
    """The last event that counts; None for all there are."""


class Snapshot(NamedTuple):
    """Example: `Snapshot("5f0c…", Path("exports/5f0c…"), 812, "9c1e…")`"""

    id: str
    folder: Path
    seq: int
    sha256: str
    """Of the manifest, which has those of all files."""


class View:
    """The store as it was: read like a store, by whatever makes rows of one."""

    def __init__(self, items: Mapping[ItemId, Item], tasks: Sequence[Task], records: Sequence[Feedback]) -> None:
        self._items, self._tasks, self._records = items, tasks, records

    def items(self) -> dict[ItemId, Item]:
        return dict(self._items)

    def tasks(self, kind: TaskKind | None = None) -> list[Task]:
        return [task for task in self._tasks if kind in (None, task.kind)]

    def feedback(self, kind: AnswerKind | None = None) -> list[Feedback]:
        return [record for record in self._records if kind in (None, record.answer.kind)]

    def raters(self) -> list[Rater]:
        found = {record.rater.id: record.rater for record in self._records}
        return [found[key] for key in sorted(found)]


def write_snapshot(
    store: Store,
    folder: Path,
    options: ExportOptions,
    *,
    project: str | None = None,
    salt: str | None = None,
    actor: str,
    now: int,
) -> Snapshot:
    """Files in a new folder, recorded in the store. The same events, options and salt give the same files.

    Of one project or, with None, of all there is. Raises ValueError for an unknown format, FileExistsError.
    """
    unknown = [name for name in options.formats if name not in EXPORTS]
    if unknown:
        raise ValueError(f"no export is called {unknown[0]!r}; expected {', '.join(EXPORTS)}")
    salt = salt or secrets.token_hex(32)
    with store.read() as connection:
        seq = min(options.upto if options.upto is not None else 1 << 60, events.last(connection))
        happened = [e for e in events.read(connection, upto=seq) if _is_about(e, project)]
        records = _records(connection, happened, is_whole=project is None)
        known = {*connection.scalars(sa.select(people.c.id)), *_persons(records.values())}
    names = {key: key if options.include_identities else pseudonym(salt, key) for key in known}
    out = excluded(happened)
    usable = [r for r in latest([r for r in records.values() if not r.repeat]) if r.rater.id not in out]
    kept = capped(usable, options.max_share, salt=salt)
    folder.mkdir(parents=True)
    write_rows(folder / "events.jsonl", (_line(e, records, names, options) for e in happened))
    view = View(store.items(), store.tasks(), [_renamed(r, names) for r in kept])
    counts = {name: write_rows(folder / f"{name}.jsonl", EXPORTS[name](view)) for name in options.formats}
    about = {
        "project": project,
        "events": seq,
        "options": options.model_dump(mode="json"),
        "rows": counts,
        "answers": {"all": len(records), "excluded": len(records) - len(usable), "over_share": len(usable) - len(kept)},
        "warnings": _warnings(kept, options),
    }
    write_durably(folder / "export.json", json.dumps(about, indent=1, sort_keys=True))
    seal(folder)
    snapshot = Snapshot(secrets.token_hex(8), folder, seq, _sha256(folder / "manifest.json"))
    _remember(store, snapshot, project, {**options.model_dump(mode="json"), "salt": salt}, actor=actor, now=now)
    return snapshot


def pseudonym(salt: str, person: str) -> str:
    return "r-" + hmac.digest(salt.encode(), person.encode(), "sha256").hex()[:12]


def excluded(happened: Iterable[events.Event]) -> set[str]:
    """Who was excluded at the end of these events."""
    states = {e.body["person"]: e.body["state"] for e in happened if e.type == "person.state"}
    return {person for person, state in states.items() if state == "excluded"}


def capped(records: Sequence[Feedback], max_share: float, *, salt: str) -> list[Feedback]:
    """So many of each person's answers, drawn by the salt, that nobody has more than the share of what remains."""
    counts = Counter(r.rater.id for r in records)
    limit = most_each(list(counts.values()), max_share)
    drawn: dict[str, list[str]] = {rater: [] for rater in counts}
    for record in records:
        drawn[record.rater.id].append(record.id)
    kept = {key for keys in drawn.values() for key in sorted(keys, key=lambda k: pseudonym(salt, k))[:limit]}
    return [record for record in records if record.id in kept]


def most_each(counts: Sequence[int], max_share: float) -> int:
    """The largest L for which min(n, L) is nowhere more than the share of their sum; with n people, of 1 / n at least.

    L - share * sum(min(n, L)) is convex and starts at 0, so that all up to its other zero are small enough.
    """
    if not counts:
        return 0
    allowed = max(max_share, 1 / len(counts)) + 1e-12
    low, high = 1, max(counts)
    while low < high:
        middle = (low + high + 1) // 2
        is_small = min(middle, max(counts)) <= allowed * sum(min(n, middle) for n in counts)
        low, high = (middle, high) if is_small else (low, middle - 1)
    return low


def _is_about(event: events.Event, project: str | None) -> bool:
    """Of the project, or of people and the store as a whole."""
    return project is None or event.body.get("project") in (None, project)


def _records(connection: Connection, happened: Iterable[events.Event], *, is_whole: bool) -> dict[str, Feedback]:
    """Answers to real tasks that these events sealed; and what an older schema kept, before there were events."""
    sealed = {key for e in happened if e.type in SEALING for key, _ in e.body["records"]}
    query = sa.select(feedback.c.id, feedback.c.body, feedback.c.event).where(feedback.c.purpose == "work")
    rows = connection.execute(query.order_by(feedback.c.seq))
    return {
        row.id: Feedback.model_validate_json(row.body)
        for row in rows
        if row.id in sealed or (is_whole and row.event == 0)
    }


def _persons(records: Iterable[Feedback]) -> set[str]:
    """Who is not of the desk, but came with imported votes."""
    return {r.rater.id for r in records if r.rater.kind == "person"}


def _line(
    event: events.Event, records: Mapping[str, Feedback], names: Mapping[str, str], options: ExportOptions
) -> dict[str, Any]:
    """An event with the answers it sealed."""
    found = [records[key] for key, _ in event.body.get("records", ()) if key in records]
    if options.include_identities:
        return {**event._asdict(), "feedback": [r.model_dump(mode="json") for r in found]}
    hidden = {"records", "reason"}
    body = {key: _rename(value, names) for key, value in event.body.items() if key not in hidden}
    said = [_renamed(r, names).model_dump(mode="json", exclude={"made_at", "seconds"}) for r in found]
    return {
        "seq": event.seq,
        "actor": names.get(event.actor, "clew"),
        "type": event.type,
        "body": body,
        "feedback": said,
    }


def _rename(value: Any, names: Mapping[str, str]) -> Any:
    return names.get(value, value) if isinstance(value, str) else value


def _renamed(record: Feedback, names: Mapping[str, str]) -> Feedback:
    """People by their names here; programs and models that are not of the desk keep their own."""
    rater = record.rater
    return record.model_copy(update={"rater": rater.model_copy(update={"id": names.get(rater.id, rater.id)})})


def _warnings(records: Sequence[Feedback], options: ExportOptions) -> list[str]:
    found: list[str] = []
    num = len({r.rater.id for r in records})
    if num < FEW_RATERS and not options.include_identities:
        found.append(f"{num} raters: who knows them may guess who is who")
    contacts = sum(bool(CONTACT.search(r.note)) for r in records)
    if contacts:
        found.append(f"{contacts} notes seem to hold an e-mail address or a telephone number")
    return found


def _remember(
    store: Store, snapshot: Snapshot, project: str | None, options: Mapping[str, Any], *, actor: str, now: int
) -> None:
    row = {"id": snapshot.id, "project": project or "", "seq_upto": snapshot.seq, "sha256": snapshot.sha256}
    told = {k: v for k, v in options.items() if k != "salt"}
    with store.write() as connection:
        values = {**row, "options": json.dumps(options), "folder": str(snapshot.folder), "at": now}
        connection.execute(exports.insert().values(values))
        events.append(connection, "exported", {**row, "options": told}, actor=actor, now=now)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
