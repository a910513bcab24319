"""Exports of labelling tools, Argilla and Label Studio, as the one kind of record.

Both hold texts under names that their users chose, and what people answered to questions that they named. Which text
is the prompt is found by its name; what an answer says of the others, by its kind (`judged`).
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from clew.data.columns import as_object, as_text
from clew.data.example import Example, Row, ranked
from clew.types import Text

Votes = Mapping[str, Sequence[Any]]
"""Name of a question -> what each person answered."""
PROMPTS = ("prompt", "instruction", "question", "query", "input", "context", "chat", "conversation", "messages", "post")
ANSWERS = ("response", "completion", "answer", "generation", "reply", "output", "summary", "candidate", "text")
REMARKS = ("comment", "reason", "rationale", "explanation", "feedback", "critique", "note", "justification")
TIES = ("tie", "equal", "same", "both", "neither", "none", "draw")
FIRST, SECOND = ("left", "first"), ("right", "second")
GOOD = "yes good true positive accept accepted correct right up helpful safe like chosen".split()
BAD = "no bad false negative reject rejected incorrect wrong down unhelpful unsafe dislike".split()


def argilla(row: Row, where: str) -> list[Example]:
    """Argilla's `to_json` and `to_list`: fields, and responses by question; suggestions where nobody responded."""
    responses = as_object(row.get("responses") or {}, "responses", where)
    suggestions = as_object(row.get("suggestions") or {}, "suggestions", where)
    votes = {name: [_inner(r) for r in given] for name, given in responses.items() if isinstance(given, list)}
    offered = {name: [_inner(given)] for name, given in suggestions.items()}
    return judged(as_object(row["fields"], "fields", where), votes, offered, where)


def argilla_flat(row: Row, where: str) -> list[Example]:
    """Argilla's `to_datasets` and `to_list(flatten=True)`: columns `question.responses`, `question.suggestion`."""
    votes: dict[str, list[Any]] = {}
    for name in (column.removesuffix(".responses") for column in row if column.endswith(".responses")):
        values, states = row[f"{name}.responses"] or [], row.get(f"{name}.responses.status")
        if not isinstance(values, list):
            raise ValueError(f"{where}: column '{name}.responses' needs a list; got {values!r:.80}")
        known = states if isinstance(states, list) and len(states) == len(values) else ["submitted"] * len(values)
        votes[name] = [v for v, state in zip(values, known, strict=True) if state not in ("discarded", "draft")]
    end = ".suggestion"
    offered = {c.removesuffix(end): [value] for c, value in row.items() if c.endswith(end) and value is not None}
    return judged({c: v for c, v in row.items() if "." not in c}, votes, offered, where)


def label_studio(row: Row, where: str) -> list[Example]:
    """Label Studio's JSON: the task's data, and annotations; predictions where nobody annotated it."""
    votes = _regions(row["annotations"], "annotations", where)
    offered = _regions(row.get("predictions") or [], "predictions", where)
    return judged(as_object(row["data"], "data", where), votes, offered, where)


def label_studio_min(row: Row, where: str) -> list[Example]:
    """Label Studio's JSON-MIN: one row an annotation; the questions stand between the columns id and annotator."""
    columns = list(row)
    start = columns.index("id") + 1 if "id" in columns[: columns.index("annotator")] else len(columns)
    asked = columns[start : columns.index("annotator")] if start < len(columns) else []
    asked += [c for c in columns if c not in asked and _is_region(row[c])]
    votes = {c: [_region_value(row[c][0] if _is_region(row[c]) else row[c])] for c in asked}
    return judged({c: v for c, v in row.items() if c not in asked}, votes, {}, where)


def _inner(given: Any) -> Any:
    return given.get("value") if isinstance(given, dict) else given


def _regions(annotations: Any, column: str, where: str) -> dict[str, list[Any]]:
    votes: dict[str, list[Any]] = {}
    for annotation in annotations if isinstance(annotations, list) else [annotations]:
        annotation = as_object(annotation, column, where)
        results = annotation.get("result") or []
        if annotation.get("was_cancelled") or not isinstance(results, list):
            continue
        for region in (as_object(r, "result", where) for r in results):
            votes.setdefault(str(region.get("from_name")), []).append(_region_value(region.get("value")))
    return votes


def _is_region(value: Any) -> bool:
    kinds = ("selected", "choices", "rating", "ranker", "start")
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and any(k in value[0] for k in kinds)


def _region_value(value: Any) -> Any:
    """Pairwise, Choices, Rating, Ranker or TextArea as a plain value; spans and ranker buckets as they are."""
    if not isinstance(value, dict) or "start" in value:
        return value
    if isinstance(value.get("ranker"), dict):
        (first, *others) = [bucket for bucket in value["ranker"].values() if bucket] or [None]
        return value["ranker"] if others else first
    found = next((value[k] for k in ("selected", "rating", "ranker", "choices", "text") if k in value), value)
    return found[0] if isinstance(found, list) and len(found) == 1 else found


def judged(fields: Mapping[str, Any], votes: Votes, offered: Votes, where: str) -> list[Example]:
    """What people said of the texts: an order of the answers, a label of the only one, or a text of their own.

    Questions nobody answered count as answered by their suggestion. What is no judgement goes to `info` under the
    question's name. No example when nobody has answered yet. Raises ValueError when an answer names none of the texts.
    """
    prompt, answers = _roles(fields, where)
    given = {name: [v for v in values if v is not None] for name, values in votes.items()}
    asked = {name: values or offered.get(name, []) for name, values in given.items()}
    asked |= {name: values for name, values in offered.items() if name not in asked}
    asked = {name: values for name, values in asked.items() if values}
    telling = {name: values for name, values in asked.items() if not _is_remark(name, values)}
    ways = (partial(_by_order, where=where), _by_rating) if len(answers) > 1 else (_by_label, _by_writing)
    for way in ways:
        examples, used = way(prompt, answers, telling)
        if examples:
            info = {name: values for name, values in asked.items() if name not in used}
            suggested = [name for name in used if not given.get(name)]
            info |= {"suggested": suggested} if suggested else {}
            return [
                Example("", e.prompt, e.answers, e.ranks, e.label, agreement=e.agreement, info=info) for e in examples
            ]
    if not telling:
        return []
    raise ValueError(f"{where}: the answers {dict(telling)!r:.120} name none of the texts {sorted(answers)}")


def _roles(fields: Mapping[str, Any], where: str) -> tuple[Text, dict[str, Text]]:
    """The prompt, and the answers by name."""
    texts: dict[str, Text] = {}
    for name, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            if "role" in value[0]:
                texts[name] = as_text(value, name, where)
            else:  # a list of items to rank
                texts |= {str(i["id"]): _body(i) for i in value if isinstance(i, dict) and "id" in i}
        elif isinstance(value, str) and name not in ("id", "_server_id", "status", "created_at", "updated_at"):
            texts[name] = value
    asked = next((n for n in texts if _stem(n) in PROMPTS), None)
    others = {n: t for n, t in texts.items() if n != asked}
    if asked is None and len(others) > 1 and len({_stem(n) for n in others}) > 1:
        asked, *_ = others
        del others[asked]
    named = {n: t for n, t in others.items() if _stem(n) in ANSWERS}
    return texts.get(asked or "", ""), named or others


def _body(item: Mapping[str, Any]) -> str:
    return str(next((item[k] for k in ("body", "text", "title") if item.get(k)), ""))


def _stem(name: str) -> str:
    """The name without its number or letter: response_1, responseA and response-b are responses."""
    return re.sub(r"(?:[\W_]*\d+|[\W_]+[A-Da-d]|(?<=[a-z])[A-D])$", "", name).lower()


def _is_remark(name: str, values: Sequence[Any]) -> bool:
    spans = all(isinstance(v, dict) or (isinstance(v, list) and v and isinstance(v[0], dict)) for v in values)
    is_ranking = any(isinstance(v, list) and v and isinstance(v[0], dict) and "rank" in v[0] for v in values)
    return (spans and not is_ranking) or any(word in name.lower() for word in REMARKS)


Found = tuple[list[Example], set[str]]
"""The examples, and the questions they come from."""


def _by_order(prompt: Text, answers: Mapping[str, Text], asked: Votes, *, where: str) -> Found:
    """Rankings and choices: answers by their mean rank; of two, the share of votes is the agreement.

    Where several questions may be meant, the one whose values name the answers most plainly. Raises ValueError when
    that are several too.
    """
    names = list(answers)
    meant = {name: values for name, values in asked.items() if not _rates_one(name, values, names)}
    plain = {name: max(_plainness(v, names) for v in values) for name, values in meant.items()}
    most = max(plain.values(), default=0)
    if most == 0:
        return [], set()
    name, *others = [name for name, how in plain.items() if how == most]
    if others:
        raise ValueError(
            f"{where}: each of the questions {[name, *others]} may say which text is better; leave all but one of them "
            "out of the export"
        )
    orders = [o for v in asked[name] if (o := _order(v, names)) is not None]
    means = [sum(column) / len(orders) for column in zip(*orders, strict=True)]
    return [_ordered(prompt, list(answers.values()), means, orders)], {name}


def _plainness(value: Any, names: list[str]) -> int:
    """How plainly a value orders the answers: 3 by name, 2 by left or B, 1 by a bare number or as a tie, 0 not."""
    if _order(value, names) is None:
        return 0
    words = _words(value) if isinstance(value, str) else []
    if not words or "".join(words) in ("".join(_words(name)) for name in names):
        return 3
    return 1 if value.strip().isdigit() or any(word in TIES for word in words) else 2


def _ordered(prompt: Text, answers: list[Text], means: list[float], orders: list[list[float]]) -> Example:
    levels = {mean: i for i, (mean, _) in enumerate(groupby(sorted(means)))}
    example = ranked(prompt, answers, [levels[m] for m in means])
    if len(answers) > 2:
        return example
    better = 0 if means[0] <= means[1] else 1
    share = sum(1.0 if o[better] < o[1 - better] else 0.5 if o[0] == o[1] else 0.0 for o in orders) / len(orders)
    return Example("", prompt, example.answers, example.ranks, agreement=1.0 if share == 0.5 else share)


def _order(value: Any, names: list[str]) -> list[float] | None:
    """The rank of each answer, from a ranking of their names or the name of the best; None when it is neither."""
    if isinstance(value, list):
        if value and all(isinstance(v, dict) and "rank" in v for v in value):
            places = {_place(v.get("value"), names): float(v["rank"]) for v in value if isinstance(v["rank"], int)}
        else:
            places = {_place(v, names): float(i) for i, v in enumerate(value)}
        return [places[i] for i in range(len(names))] if set(places) == set(range(len(names))) else None
    if not isinstance(value, str):
        return None
    if any(word in TIES for word in _words(value)):
        return [0.0] * len(names)
    best = _place(value, names)
    return None if best is None else [float(i != best) for i in range(len(names))]


def _place(value: Any, names: list[str]) -> int | None:
    """Which of the answers a value names: by name, as left or right, or by number or letter."""
    if not isinstance(value, str) or not value:
        return None
    plain = ["".join(_words(name)) for name in names]
    words = _words(value)
    if "".join(words) in plain:
        return plain.index("".join(words))
    for place, found in enumerate((FIRST, SECOND)):
        if any(word in found for word in words):
            return place
    marks = [w for w in words if w.isdigit() or (len(w) == 1 and w in "abcdefgh")]
    numbers = [_words(name)[-1] for name in names]
    if len(marks) != 1 or len(words) > 4:
        return None
    if marks[0] in numbers:
        return numbers.index(marks[0])
    place = int(marks[0]) - 1 if marks[0].isdigit() else "abcdefgh".index(marks[0])
    return place if 0 <= place < len(names) else None


def _words(text: str) -> list[str]:
    """In lower case, numbers apart from letters."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])([A-D])\b", r" \1", text).lower()) or [""]


def _by_rating(prompt: Text, answers: Mapping[str, Text], asked: Votes) -> Found:
    """A rating of each answer, by questions that name it: answers by their mean rating."""
    names = list(answers)
    means: dict[int, float] = {}
    used: set[str] = set()
    for name, values in asked.items():
        numbers = [n for v in values if (n := _number(v)) is not None]
        place = _named_by(name, names)
        if numbers and place is not None and place not in means:
            means[place] = sum(numbers) / len(numbers)
            used.add(name)
    if len(means) < len(names):
        return [], set()
    levels = {mean: i for i, (mean, _) in enumerate(groupby(sorted(means.values(), reverse=True)))}
    return [ranked(prompt, list(answers.values()), [levels[means[i]] for i in range(len(names))])], used


def _named_by(question: str, names: list[str]) -> int | None:
    """The answer whose number or letter a question bears."""
    return next((i for i, answer in enumerate(names) if _words(answer)[-1] == _words(question)[-1]), None)


def _rates_one(question: str, values: Sequence[Any], names: list[str]) -> bool:
    return _named_by(question, names) is not None and all(_number(v) is not None for v in values)


def _by_label(prompt: Text, answers: Mapping[str, Text], asked: Votes) -> Found:
    """A rating or thumb of the only answer, or of the only text: the mean rating; the majority of thumbs."""
    judged_text = next(iter(answers.values()), None)
    if judged_text is None:
        judged_text, prompt = prompt, ""
    for name, values in asked.items():
        thumbs = [float(v) if isinstance(v, bool) else _thumb(v) for v in values]
        if thumbs and all(t is not None for t in thumbs):
            share = sum(t for t in thumbs if t is not None) / len(thumbs)
            if share == 0.5:  # as many for as against: a rating between both, and no thumb
                return [Example("", prompt, (judged_text,), label=share)], {name}
            return [Example("", prompt, (judged_text,), label=float(share > 0.5), agreement=max(share, 1 - share))], {
                name
            }
        numbers = [n for v in values if (n := _number(v)) is not None]
        if numbers:
            return [Example("", prompt, (judged_text,), label=sum(numbers) / len(numbers))], {name}
    return [], set()


def _by_writing(prompt: Text, answers: Mapping[str, Text], asked: Votes) -> Found:
    """What people wrote themselves: an answer to the prompt, better than the one that is there, if there is one."""
    for name, values in asked.items():
        written = [v for v in values if isinstance(v, str) and v.strip()]
        if not written:
            continue
        if not prompt:
            return [Example("", text, (w,)) for text in answers.values() for w in written], {name}
        examples = [Example("", prompt, (w,)) for w in written if not answers]
        examples += [Example("", prompt, (w, a), (0, 1)) for a in answers.values() for w in written if w != a]
        return examples, {name}
    return [], set()


def _thumb(value: Any) -> float | None:
    words = _words(value) if isinstance(value, str) else []
    good, bad = any(w in GOOD for w in words), any(w in BAD for w in words)
    return None if good == bad or len(words) > 3 else float(good != ("not" in words))


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if value == value and abs(value) != float("inf") else None
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(?:/\s*\d+)?\s*", value) if isinstance(value, str) else None
    return float(match[1]) if match else None
