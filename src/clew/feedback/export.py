"""From the store to files that training reads: pairs, rankings, scores, single labels.

Comparisons come three ways: in `pairs` every vote counts the same, in `weighted` as its rater deserves, and `votes` are
one row each with the rater, for a reward model that learns whom to believe (loss crowd_bt).

Where the prompt is text, so are the answers; where it is a conversation, prompt and answers are lists of messages.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clew.feedback.aggregate import Outcome, bradley_terry, elo, outcomes
from clew.feedback.records import Item, ItemId, Rating, Revision, Thumb
from clew.feedback.store import Reading
from clew.feedback.trust import Belief, belief, reliabilities
from clew.types import Text, as_column

Row = dict[str, Any]


def pairs(store: Reading) -> list[Row]:
    """One row a pair of items that was judged: `prompt, chosen, rejected, agreement, margin, weight`.

    `agreement` is the mean probability that the chosen one is better, a soft label; `margin` the mean strength of
    preference; `weight` the number of votes, so that training on the rows is training on the votes. Pairs judged
    even have no winner and are left out. A revision is a pair too: the edited answer is chosen.
    """
    return _compared(store, lambda votes: Belief(_mean(o.probability for o in votes), float(len(votes))))


def weighted(store: Reading, reliability: Mapping[str, float] | None = None) -> list[Row]:
    """As `pairs`, with raters believed as far as they are reliable (METHODS A7): an adversary's vote is for the other.

    `reliability` is the probability that a rater is right. None learns it from pairs that several judged: people, and
    programs that stand for them, are expected to be mostly right; of AI judges nothing is. Raises ValueError for AI
    judges who judged nothing in common with people, and for a rater of unknown reliability.
    """
    if reliability is None:
        records = store.feedback()
        trusted = {r.rater.id for r in records if r.rater.kind != "model"}
        reliability = reliabilities(outcomes(records), trusted=trusted)
    known = reliability

    def believed(votes: Sequence[Outcome]) -> Belief:
        unknown = sorted({o.rater for o in votes} - known.keys())
        if unknown:
            raise ValueError(f"no reliability of raters {', '.join(unknown[:3])}; expected one for each who judged")
        return belief([(o.probability, known[o.rater]) for o in votes])

    return _compared(store, believed)


def votes(store: Reading) -> list[Row]:
    """One row a vote that is no tie, as `pairs` with `rater`; revisions are votes of who wrote them."""
    items = store.items()
    found = outcomes(store.feedback())
    rows = [
        {**_pair_row(items, [o], Belief(o.probability, 1.0)), "rater": o.rater} for o in found if o.probability != EVEN
    ]
    return [*rows, *_revisions(store, items, name_raters=True)]


EVEN = 0.5


def _compared(store: Reading, summed: Callable[[Sequence[Outcome]], Belief]) -> list[Row]:
    """One row a pair with a winner, its votes summed up; and revisions."""
    items = store.items()
    found: dict[tuple[ItemId, ItemId], list[Outcome]] = defaultdict(list)
    for o in outcomes(store.feedback()):
        turned = _oriented(o)
        found[turned.first, turned.second].append(turned)
    believed = [(about, summed(about)) for about in found.values()]
    rows = [_pair_row(items, about, says) for about, says in believed if says.probability != EVEN and says.weight > 0]
    return [*rows, *_revisions(store, items)]


def _oriented(o: Outcome) -> Outcome:
    """With the smaller id first, so that votes on a pair agree in what is first."""
    if o.first < o.second:
        return o
    return o._replace(first=o.second, second=o.first, probability=1 - o.probability, margin=-o.margin)


def _revisions(store: Reading, items: Mapping[ItemId, Item], *, name_raters: bool = False) -> list[Row]:
    rows: list[Row] = []
    for record in store.feedback("revision"):
        assert isinstance(record.answer, Revision)
        item = items[record.items[0]]
        better = Item(prompt=item.prompt, completion=record.answer.text)
        row = _pair(better, item, agreement=1.0, margin=0.0, weight=1.0)
        rows.append({**row, "rater": record.rater.id} if name_raters else row)
    return rows


def _pair_row(items: Mapping[ItemId, Item], about: Sequence[Outcome], says: Belief) -> Row:
    share, margin = says.probability, _mean(o.margin for o in about)
    first, second = items[about[0].first], items[about[0].second]
    chosen, rejected = (first, second) if share > EVEN else (second, first)
    strength = max(margin if share > EVEN else -margin, 0.0)
    return _pair(chosen, rejected, agreement=max(share, 1 - share), margin=strength, weight=says.weight)


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


def scores(store: Reading) -> list[Row]:
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


def rankings(store: Reading) -> list[Row]:
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


def singles(store: Reading) -> list[Row]:
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


def _by_prompt(store: Reading) -> dict[Text, list[tuple[Item, float, float, int]]]:
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


EXPORTS = {f.__name__: f for f in (pairs, weighted, votes, rankings, scores, singles)}
