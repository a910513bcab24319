"""From the store to files that training reads: pairs, rankings, scores, single labels.

Where the prompt is text, so are the answers; where it is a conversation, prompt and answers are lists of messages.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clew.feedback.aggregate import bradley_terry, elo, outcomes
from clew.feedback.records import Item, ItemId, Rating, Revision, Thumb
from clew.feedback.store import Store
from clew.types import Text, as_column

Row = dict[str, Any]


def pairs(store: Store) -> list[Row]:
    """One row a pair of items that was judged: `prompt, chosen, rejected, agreement, margin, weight`.

    `agreement` is the mean probability that the chosen one is better, a soft label; `margin` the mean strength of
    preference; `weight` the number of votes, so that training on the rows is training on the votes. Pairs judged
    even have no winner and are left out. A revision is a pair too: the edited answer is chosen.
    """
    items = store.items()
    votes: dict[tuple[ItemId, ItemId], list[tuple[float, float]]] = defaultdict(list)
    for o in outcomes(store.feedback()):
        if o.first < o.second:
            votes[o.first, o.second].append((o.probability, o.margin))
        else:
            votes[o.second, o.first].append((1 - o.probability, -o.margin))
    shares = {key: _mean(p for p, _ in found) for key, found in votes.items()}
    rows = [_pair_row(items, *key, votes[key]) for key, share in shares.items() if share != 0.5]
    for record in store.feedback("revision"):
        assert isinstance(record.answer, Revision)
        item = items[record.items[0]]
        better = Item(prompt=item.prompt, completion=record.answer.text)
        rows.append(_pair(better, item, agreement=1.0, margin=0.0, weight=1.0))
    return rows


def _pair_row(items: Mapping[ItemId, Item], a: ItemId, b: ItemId, votes: Sequence[tuple[float, float]]) -> Row:
    share, margin = _mean(p for p, _ in votes), _mean(m for _, m in votes)
    chosen, rejected = (items[a], items[b]) if share > 0.5 else (items[b], items[a])
    strength = max(margin if share > 0.5 else -margin, 0.0)
    return _pair(chosen, rejected, agreement=max(share, 1 - share), margin=strength, weight=float(len(votes)))


def _pair(chosen: Item, rejected: Item, *, agreement: float, margin: float, weight: float) -> Row:
    return {
        "prompt": as_column(chosen.prompt),
        "chosen": _said(chosen),
        "rejected": _said(rejected),
        "agreement": agreement,
        "margin": margin,
        "weight": weight,
        **_cut(chosen, rejected),
    }


def scores(store: Store) -> list[Row]:
    """One row an item: `prompt, completion, score` (Bradley-Terry within its prompt), `elo`, `judgements`."""
    return [
        {
            **_single(item),
            "score": strength,
            "elo": rating,
            "judgements": count,
        }
        for found in _by_prompt(store).values()
        for item, strength, rating, count in found
    ]


def rankings(store: Store) -> list[Row]:
    """One row a prompt: `prompt, completions, ranks`, best first by Bradley-Terry strength; equal strengths tie."""
    rows: list[Row] = []
    for prompt, found in _by_prompt(store).items():
        ordered = sorted(found, key=lambda entry: -entry[1])
        strengths = [round(entry[1], 9) for entry in ordered]
        ranks = [strengths.index(s) for s in strengths]
        if len(ordered) > 1:
            answers = [item for item, *_ in ordered]
            row = {"prompt": as_column(prompt), "completions": [_said(item) for item in answers], "ranks": ranks}
            rows.append({**row, **_cut(*answers)})
    return rows


def singles(store: Store) -> list[Row]:
    """Thumbs as `prompt, completion, label` and ratings as `prompt, completion, rating`, one row a judgement."""
    items = store.items()
    rows: list[Row] = []
    for record in store.feedback():
        answer = record.answer
        if isinstance(answer, (Thumb, Rating)):
            item = items[record.items[0]]
            value = {"label": answer.up} if isinstance(answer, Thumb) else {"rating": _mean(answer.scales.values())}
            rows.append({**_single(item), **value})
    return rows


def _single(item: Item) -> Row:
    return {"prompt": as_column(item.prompt), "completion": _said(item), **_cut(item)}


def _said(item: Item) -> str | list[dict[str, str]]:
    return item.completion if isinstance(item.prompt, str) else [{"role": "assistant", "content": item.completion}]


def _cut(*answers: Item) -> dict[str, list[int]]:
    """Which answers were ended by the limit of their length: they are learnt without a stop token."""
    places = [i for i, item in enumerate(answers) if item.cut]
    return {"cut": places} if places else {}


def _by_prompt(store: Store) -> dict[Text, list[tuple[Item, float, float, int]]]:
    """Items of each prompt with strength, Elo rating and number of judgements.

    All prompts are fitted at once: nobody compares across prompts, so the parts do not touch each other.
    """
    items = store.items()
    judged = outcomes(store.feedback())
    strengths, ratings = bradley_terry(judged), elo(judged)
    counts = Counter(name for o in judged for name in (o.first, o.second))
    result: dict[Text, list[tuple[Item, float, float, int]]] = defaultdict(list)
    for key, strength in strengths.items():
        result[items[key].prompt].append((items[key], strength, ratings[key], counts[key]))
    return result


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def write_rows(file: Path, rows: Iterable[Row]) -> int:
    """Rows as JSONL; how many there were."""
    count = 0
    with file.open("w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


EXPORTS = {f.__name__: f for f in (pairs, rankings, scores, singles)}
