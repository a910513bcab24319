"""The dashboard's numbers, from what was gathered: progress, agreement, raters, bias, coverage, disagreement."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from clew.feedback import agreement as measures
from clew.feedback.aggregate import outcomes
from clew.feedback.coverage import group_shares
from clew.feedback.crowd import Vote, Votes, comparison_votes, rating_votes
from clew.feedback.known import agrees
from clew.feedback.records import Comparison, Feedback, Thumb
from clew.feedback.reliability import report
from clew.feedback.significance import Share, wilson
from clew.feedback.slots import in_task_order
from clew.feedback.trust import reliabilities
from clew.types import as_string
from clew.web.gathered import Entry, Gathered
from clew.web.render import plain_html

Json = dict[str, Any]
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FEW = 10
"""Answers below which a rater is not judged."""
E_ALARM = 20.0
CONVINCING = 1e-3
"""False discovery rate of a lean to a side that is worth a flag."""
BAND = 0.03
"""Half-width of a reference's band: what two such measurements differ by."""


def progress(gathered: Gathered, *, now: int) -> Json:
    tasks = [e for e in gathered.entries.values() if e.purpose == "work"]
    done = sum(e.answered >= e.need for e in tasks)
    missing = sum(max(e.need - e.answered, 0) for e in tasks if e.state == "open")
    work = [s for s in gathered.said if s.purpose == "work"]
    today = sum(s.at > now - DAY_MS for s in work)
    times = [s.record.seconds for s in work if s.record.seconds is not None]
    return {
        "items": len(tasks),
        "done": done,
        "votes": len(work),
        "open_leases": gathered.num_live,
        "held": sum(e.state == "held" for e in tasks),
        "eta_ms": round(missing / today * DAY_MS) if today else None,
        "median_seconds": median(times) if times else None,
        "per_hour": _per_hour([s.at for s in work], now),
        "cost": _cost(gathered, times, len(work)),
        "alarms": _alarms(gathered),
    }


def stats(gathered: Gathered) -> Json:
    """What was said, and what decided it besides quality: place and length."""
    chosen = [r for r in gathered.work if isinstance(r.answer, Comparison)]
    decided = [r for r in chosen if r.answer.verdict in ("first", "second")]  # pyright: ignore[reportAttributeAccessIssue]
    margins = Counter(int(r.answer.margin) for r in decided)  # pyright: ignore[reportAttributeAccessIssue]
    longer = [(r, took) for r in decided if (took := _took_longer(gathered, r)) is not None]
    by_margin = [
        {"margin": m, **_share([took for r, took in longer if r.answer.margin == m])}  # pyright: ignore[reportAttributeAccessIssue]
        for m in sorted(margins)
    ]
    return {
        "verdicts": Counter(r.answer.verdict for r in chosen),  # pyright: ignore[reportAttributeAccessIssue]
        "position": _share([r.answer.verdict == "first" for r in decided]),  # pyright: ignore[reportAttributeAccessIssue]
        "length": {**_share([took for _, took in longer]), "by_margin": by_margin},
        "margins": [margins[m] for m in range(4)],
    }


def agreement(gathered: Gathered) -> Json:
    """Of everybody with everybody, beside what others have measured; alpha with its interval over items."""
    votes = Votes.of(_votes(gathered))
    counts = votes.counts()
    several = counts[counts.sum(1) >= 2]
    bounded = measures.bootstrap(several, measures.alpha, repeats=200) if len(several) > 1 else None
    right = [ok for r in gathered.gold if (ok := _is_right(gathered, r)) is not None]
    per_item = several.sum(1)
    return {
        "raw": _known(measures.raw_agreement(counts)) if len(several) else None,
        "alpha": _known(bounded.value) if bounded else None,
        "low": _known(bounded.low) if bounded else None,
        "high": _known(bounded.high) if bounded else None,
        "pairs": int((per_item * (per_item - 1) / 2).sum()),
        "items": len(several),
        "gold": _share(right) if right else None,
        "bands": [
            {"name": r.name, "low": r.agreement - BAND, "high": r.agreement + BAND, "source": r.source}
            for r in measures.REFERENCES
        ],
    }


def raters(gathered: Gathered) -> list[Json]:
    """One row a person who answered, most answers first; the numbers of comparisons where there are enough."""
    compared = {r.rater: r for r in report([s.record for s in gathered.said], gathered.items)}
    reliability = _reliability(gathered)
    rows: list[Json] = []
    for person, own in _by_rater([s.record for s in gathered.said]).items():
        who, row = gathered.people.get(person), compared.get(person)
        right = [ok for r in gathered.gold if r.rater.id == person and (ok := _is_right(gathered, r)) is not None]
        times = [r.seconds for r in own if r.seconds is not None]
        rows.append(
            {
                "id": person,
                "pseudonym": who.pseudonym if who else person,
                "role": who.role if who else "annotator",
                "state": who.state if who else "active",
                "votes": len(own),
                "gold": _share(right) if right else None,
                "agreement": _value(row.agreement) if row else None,
                "left": {**_told(row.left), "p": row.left_false_discovery} if row and row.left.num else None,
                "tie": _value(row.ties) if row else None,
                "longer": _value(row.longer) if row else None,
                "seconds": median(times) if times else None,
                "e_value": _known(row.e_value) if row else None,
                "reliability": _known(reliability.get(person)),
                "flags": _flags(row, right),
            }
        )
    return sorted(rows, key=lambda r: -r["votes"])


def coverage(gathered: Gathered) -> Json:
    """How many answers items have, whose answers they are, and which items are thin."""
    tasks = [e for e in gathered.entries.values() if e.purpose == "work"]
    thin = sorted((e for e in tasks if e.answered < e.need), key=lambda e: e.answered - e.need)
    return {
        "prompts": {str(n): k for n, k in sorted(Counter(e.answered for e in tasks).items())},
        "groups": _groups(gathered),
        "thin": [{"label": _excerpt(e), "votes": e.answered, "need": e.need} for e in thin[:50]],
    }


def disagreement(gathered: Gathered, *, sort: str) -> list[Json]:
    """Items for a second look, the first 100 by what is asked for."""
    said: dict[str, list[Feedback]] = defaultdict(list)
    late: Counter[str] = Counter()
    for each in gathered.said:
        said[each.record.task_id].append(each.record)
        late[each.record.task_id] += each.is_late
    rows = [
        {
            "id": key,
            "text": _excerpt(entry),
            "votes": len(said[key]),
            "entropy": _entropy(gathered, said[key]),
            "skips": entry.skips,
            "flags": sum(r.note.startswith("flag ") for r in said[key]),
            "late": late[key],
            "state": entry.state,
        }
        for key, entry in gathered.entries.items()
        if entry.purpose == "work"
    ]
    by = SORTS[sort]
    return sorted(rows, key=lambda r: -r[by])[:100]


def answers_of(gathered: Gathered, task: str) -> list[Json]:
    """All that was said of a task, in its own order of items."""
    return [
        {
            "pseudonym": who.pseudonym if (who := gathered.people.get(s.record.rater.id)) else s.record.rater.id,
            "answer": _in_order(gathered, s.record).model_dump(mode="json"),
            "seconds": s.record.seconds,
            "note": s.record.note,
            "late": s.is_late,
            "at_ms": s.at,
        }
        for s in gathered.said
        if s.record.task_id == task
    ]


def _votes(gathered: Gathered) -> list[Vote]:
    """What agreement is about, by kind: the better one, the thumb, or the first scale."""
    records = gathered.work
    ratings = [r for r in records if r.answer.kind == "rating"]
    if ratings:
        scale = next(iter(ratings[0].answer.scales))  # pyright: ignore[reportAttributeAccessIssue]
        return rating_votes(records, scale=scale)
    thumbs = [Vote(r.items[0], r.rater.id, int(r.answer.up)) for r in records if isinstance(r.answer, Thumb)]
    return thumbs or comparison_votes(records, kept=("first", "second", "tie", "both_bad"))


def _reliability(gathered: Gathered) -> dict[str, float]:
    judged = outcomes(gathered.work)
    if len({o.rater for o in judged}) < 2:
        return {}
    trusted = {r.rater.id for r in gathered.work if r.rater.kind == "person"}
    try:
        return reliabilities(judged, trusted=trusted)
    except ValueError:  # nothing in common between those who are trusted and others: nobody can be judged
        return {}


def _groups(gathered: Gathered) -> list[Json]:
    groups = {r.rater.id: who.group for r in gathered.work if (who := gathered.people.get(r.rater.id))}
    counts = Counter(groups[r.rater.id] for r in gathered.work if r.rater.id in groups)
    if not any(counts) and not gathered.project.config.population:
        return []
    total = counts.total()
    declared = gathered.project.config.population
    weights: dict[str, float] = {}
    if declared and all(group in declared for group in counts) and abs(sum(declared.values()) - 1) < 1e-6:
        records = [r for r in gathered.work if r.rater.id in groups]
        weights = {row.group: row.weight for row in group_shares(records, groups, declared)}
    return [
        {
            "name": plain_html(group),
            "observed": counts[group] / total if total else None,
            "declared": declared.get(group),
            "votes": counts[group],
            "weight": weights.get(group),
        }
        for group in sorted({*counts, *declared})
    ]


def _flags(row: Any, right: Sequence[bool]) -> list[str]:
    found: list[str] = []
    if row is None or row.num_answers < FEW:
        return found
    if row.e_value >= E_ALARM:
        found.append("out of line")
    if row.left_false_discovery < CONVINCING:
        found.append("one side")
    if row.copies:
        found.append("copies")
    if len(right) >= FEW and wilson(sum(right), len(right)).high < measures.RAW_BANDS[0].below:
        found.append("gold")
    return found


def _alarms(gathered: Gathered) -> list[Json]:
    told = [
        {"level": "watch", "text": f"{row['pseudonym']}: {', '.join(row['flags'])}"}
        for row in raters(gathered)
        if row["flags"] and row["state"] == "active"
    ]
    found = agreement(gathered)
    if found["raw"] is not None and found["pairs"] >= FEW:
        band = measures.band(found["raw"], measures.RAW_BANDS)
        told += [{"level": band.state, "text": f"agreement: {band.meaning}"}] if band.state != "ok" else []
    return told


def _is_right(gathered: Gathered, record: Feedback) -> bool | None:
    known = gathered.entries[record.task_id].gold
    return None if known is None else agrees(known, _in_order(gathered, record))


def _in_order(gathered: Gathered, record: Feedback) -> Any:
    task = gathered.entries[record.task_id].task
    return in_task_order(record.answer, [task.items.index(item) for item in record.items])


def _entropy(gathered: Gathered, records: Sequence[Feedback]) -> float:
    """Of what was said of one item, in bits."""
    counts = Counter(_said(gathered, r) for r in records)
    total = counts.total()
    return -sum(n / total * math.log2(n / total) for n in counts.values()) + 0.0 if total else 0.0


def _said(gathered: Gathered, record: Feedback) -> str:
    answer = _in_order(gathered, record)
    return answer.verdict if isinstance(answer, Comparison) else answer.model_dump_json()


def _took_longer(gathered: Gathered, record: Feedback) -> bool | None:
    words = [len(gathered.items[item].completion.split()) for item in record.items]
    is_first = isinstance(record.answer, Comparison) and record.answer.verdict == "first"
    return None if words[0] == words[1] else is_first == (words[0] > words[1])


def _cost(gathered: Gathered, times: Sequence[float], num: int) -> Json | None:
    config = gathered.project.config
    if not config.hourly_cost or not times:
        return None
    total = sum(times) / 3600 * config.hourly_cost
    return {"total": total, "currency": config.currency, "per_label": total / num}


def _per_hour(times: Iterable[int], now: int) -> list[Json]:
    counts = Counter(at // HOUR_MS for at in times)
    if not counts:
        return []
    last = now // HOUR_MS
    return [{"at_ms": hour * HOUR_MS, "votes": counts[hour]} for hour in range(max(min(counts), last - 47), last + 1)]


def _by_rater(records: Iterable[Feedback]) -> dict[str, list[Feedback]]:
    found: dict[str, list[Feedback]] = defaultdict(list)
    for record in records:
        found[record.rater.id].append(record)
    return found


def _excerpt(entry: Entry) -> str:
    return as_string(entry.task.prompt)[:160]


def _share(cases: Sequence[bool]) -> Json:
    return _told(wilson(sum(cases), len(cases)))


def _told(share: Share) -> Json:
    none = {"share": None, "low": None, "high": None, "n": 0}
    return none if not share.num else {"share": share.value, "low": share.low, "high": share.high, "n": share.num}


def _value(share: Share) -> float | None:
    return share.value if share.num else None


def _known(value: float | None) -> float | None:
    """What JSON can say."""
    return value if value is not None and math.isfinite(value) else None


SORTS = {"disagreement": "entropy", "skipped": "skips", "flagged": "flags", "late": "late"}
