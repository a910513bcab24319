"""Feedback that others collected, as clew's records: HH, arena votes, OASST trees, PRM800K, Argilla, Label Studio, …

Every format that training reads (`formats.py`) is read here too; where a file says who said what, each person's answer
is a record of its own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from clew.data.columns import as_text
from clew.data.example import Example, NotText, Row
from clew.data.formats import parse_row
from clew.feedback.records import (
    Answer,
    Comparison,
    Demonstration,
    Feedback,
    Item,
    Ranking,
    Rater,
    Rating,
    StepLabels,
    Task,
    TaskKind,
    Thumb,
    Verdict,
)
from clew.feedback.store import Store
from clew.types import Text, as_string

RaterKind = Literal["person", "model", "program"]
FINISHED = {"solution", "found_error", "give_up", "bad_problem"}


@dataclass(slots=True)
class Imported:
    """What rows say, as records; `left_out` counts the rows and answers that say nothing, by reason.

    Example: `found = imported(read_rows("hh.jsonl"), "hh"); found.into(store)`
    """

    items: dict[str, Item] = field(default_factory=dict[str, Item])
    tasks: dict[str, Task] = field(default_factory=dict[str, Task])
    feedback: dict[str, Feedback] = field(default_factory=dict[str, Feedback])
    left_out: Counter[str] = field(default_factory=Counter[str])

    def into(self, store: Store) -> None:
        store.add_items(list(self.items.values()))
        store.add_tasks(list(self.tasks.values()))
        store.add_feedback(list(self.feedback.values()))


def imported(rows: Iterable[Row], source: str, *, kind: RaterKind = "person") -> Imported:
    """Records of rows; raters that the file does not name are called `source`.

    Raises ValueError naming the row and the column that are wrong.
    """
    found = Imported()
    for number, row in enumerate(rows, 1):
        where = f"{source} row {number}"
        for name, own in by_person(row):
            rater = Rater(id=name or source, kind=kind)
            try:
                examples = [_vote(own, where)] if "winner" in own else parse_row(own, where)
            except NotText:
                found.left_out["texts are elsewhere"] += 1
                continue
            for example in examples:
                _add(found, replace(example, info={**example.info, "finish_reason": _finish_reason(own)}), rater)
    return found


def by_person(row: Row) -> Iterator[tuple[str | None, Row]]:
    """A row for each who answered, with nobody else's answers in it; None where the row does not say who."""
    if isinstance(row.get("responses"), Mapping):
        yield from _argilla(row)
    elif isinstance(row.get("annotations"), list):
        for annotation in row["annotations"]:
            who = annotation.get("completed_by")
            who = who.get("email", who.get("id")) if isinstance(who, Mapping) else who
            yield _name(who), {**row, "annotations": [annotation], "predictions": []}
    elif "annotator1" in row and "response1" in row:
        votes = {k: v for k, v in row.items() if k.startswith("annotator")}
        rest = {k: v for k, v in row.items() if k not in votes}
        yield from ((name, {**rest, "annotator1": verdict}) for name, verdict in votes.items())
    else:
        names = (row.get(c) for c in ("judge", "judge_user_id", "labeler", "annotator", "worker"))
        yield _name(next((n for n in names if isinstance(n, str | int)), None)), row


def _argilla(row: Row) -> Iterator[tuple[str | None, Row]]:
    given = {q: [r for r in rs if isinstance(r, Mapping)] for q, rs in row["responses"].items() if isinstance(rs, list)}
    people = dict.fromkeys(r.get("user_id") for rs in given.values() for r in rs)
    if not people:
        yield None, row
    for who in people:
        own = {q: [r for r in rs if r.get("user_id") == who and _is_sent(r)] for q, rs in given.items()}
        yield _name(who), {**row, "responses": own, "suggestions": {}}


def _finish_reason(row: Row) -> str | None:
    """Why labelling of steps ended, as PRM800K has it."""
    label = row.get("label")
    return label.get("finish_reason") if isinstance(label, Mapping) else None


def _is_sent(response: Mapping[str, Any]) -> bool:
    return response.get("status") in (None, "submitted")


def _name(who: object) -> str | None:
    return None if who is None else str(who)


def _vote(row: Row, where: str) -> Example:
    """An arena's battle. Without the answers, the models' names stand for them: enough to rank the models."""
    verdict = str(row["winner"]).lower()
    share = {"model_a": 1.0, "model_b": 0.0}.get(verdict, 0.5)
    names = (str(row.get("model_a")), str(row.get("model_b")))
    prompt: Text = f"question {row.get('question_id', '')} turn {row.get('turn', 1)}"
    answers: tuple[Text, ...] = names
    if row.get("conversation_a") is not None:
        sides = [as_text(row[c], c, where) for c in ("conversation_a", "conversation_b")]
        turns = [side if not isinstance(side, str) else () for side in sides]
        prompt, answers = turns[0][:-1], (turns[0][-1:], turns[1][-1:])
        if [m.content for m in turns[0][:-1] if m.role == "user"] != [
            m.content for m in turns[1][:-1] if m.role == "user"
        ]:
            raise NotText(f"{where}: the two conversations have different prompts")
    info = {"sources": names, "verdict": "both_bad" if "bad" in verdict else None}
    return Example("", prompt, answers, (0, 1) if share == 1 else (1, 0) if share == 0 else (0, 0), info=info)


def _add(found: Imported, example: Example, rater: Rater) -> None:
    said = _said(example)
    if said is None:
        found.left_out["no answer"] += 1
        return
    items, kind, answer = said
    if len({item.id for item in items}) < len(items):
        found.left_out["the same answer twice"] += 1
        return
    task = Task(kind=kind, prompt=example.prompt or "", items=tuple(item.id for item in items))
    record = Feedback(task_id=task.id, items=task.items, rater=rater, answer=answer)
    for repeat in range(1, 1000):  # the same person on the same task again
        if record.id not in found.feedback:
            break
        record = record.model_copy(update={"repeat": repeat})
    found.items |= {item.id: item for item in items}
    found.tasks[task.id] = task
    found.feedback[record.id] = record


def _said(example: Example) -> tuple[list[Item], TaskKind, Answer] | None:
    """Items in an order that does not tell which was better: files have lost what was shown first."""
    sources = example.info.get("sources", ("",) * len(example.answers))
    named = zip(example.answers, sources, strict=True)
    items = [Item(prompt=example.prompt or "", completion=_completion(a), source=s) for a, s in named]
    if example.info.get("step_labels"):
        return _steps(example)
    if len(items) == 1 and example.label is not None:
        return (
            (items, "thumb", Thumb(up=example.label == 1))
            if example.label in (0, 1)
            else (items, "rating", Rating(scales={"rating": example.label}))
        )
    if len(items) == 1:
        return [], "demonstration", Demonstration(text=items[0].completion)
    if not example.ranks:
        return None
    order = sorted(range(len(items)), key=lambda i: items[i].id)
    shown, ranks = [items[i] for i in order], [example.ranks[i] for i in order]
    if len(items) == 2:
        return shown, "comparison", _comparison(example, ranks)
    levels = sorted(set(ranks))
    groups = tuple(tuple(i for i, rank in enumerate(ranks) if rank == level) for level in levels)
    return shown, "ranking", Ranking(groups=groups)


def _comparison(example: Example, ranks: list[int]) -> Comparison:
    verdict: Verdict = "tie" if ranks[0] == ranks[1] else "first" if ranks[0] < ranks[1] else "second"
    verdict = cast("Verdict", example.info.get("verdict") or verdict)
    share = None if example.agreement == 1 or verdict == "tie" else example.agreement
    share = share if share is None or verdict == "first" else 1 - share
    return Comparison(verdict=verdict, first_wins=share, margin=max(example.margin, 0.0))


def _steps(example: Example) -> tuple[list[Item], TaskKind, Answer]:
    """Labels of 1, 0 and -1; right and wrong, where a file has only these, are 1 and -1."""
    steps, labels = example.info["steps"], example.info["step_labels"]
    is_binary = set(labels) <= {0.0, 1.0}
    whole = tuple(int(2 * x - 1 if is_binary else x) for x in labels)
    reason = example.info.get("finish_reason")
    item = Item(prompt=example.prompt or "", completion=_completion(example.answers[0]), steps=tuple(steps))
    answer = StepLabels(
        labels=cast("tuple[Literal[-1, 0, 1], ...]", whole),
        first_error=whole.index(-1) if -1 in whole else None,
        finish_reason=reason if reason in FINISHED else None,
    )
    return [item], "steps", answer


def _completion(answer: Text) -> str:
    """The text of an answer: of one turn its content, of more turns all of them."""
    if isinstance(answer, str):
        return answer
    return answer[0].content if len(answer) == 1 else as_string(answer)
