"""Are trolls and spammers found, and only they? Simulated raters over seeds, with the votes they spoil.

    python benchmarks/trolls.py [--seeds 40] [--out benchmarks/results/trolls.json]

30 raters x 80 comparisons, 3 raters a pair, so 800 pairs. Design choices, none of them known to the statistics:

- 23 prompts with 9 answers each (as many as InstructGPT ranked), or one pool of 41 (as of models in an arena); gold
  and the minority's attribute are independent standard normals, lengths 20 +- 7 words whatever the gold.
- 20 raters of good will: 8 honest (`sharpness` a unit of gold: 3; 2 and 4 are reported beside it), 3 noisy (a third as
  sharp), 2 leaning left by 1.5 logits, 2 to length by 0.1 gold a word, 1 who copies 95 % of an honest rater's answers,
  4 of another opinion, who value the attribute and gold not at all.
- 10 spammers and trolls: 2 at random, 1 always first, 1 always second, 2 trolls who flip 80 %, 2 masters who flip the
  hardest 80 %, 2 who gaslight, that is flip 80 % of one topic of four, each another topic.

Copying is found by a test of its own (feedback/copying.py) and is no reason for a flag: a flag on the copier counts
as false. Thresholds were chosen on seeds 0 to 19; some from 1000, 2000 and 6000 on were looked at before these.
"""

import argparse
import json
import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from clew.feedback.aggregate import Outcome, bradley_terry, outcomes
from clew.feedback.copying import copies
from clew.feedback.crowd_bt import crowd_bt
from clew.feedback.raters import (
    SimulatedRater,
    copied,
    gaslight,
    honest,
    lazy,
    left_biased,
    length_biased,
    master,
    minority,
    noisy,
    safe,
    troll,
    unsafe,
)
from clew.feedback.records import Feedback, Item, Task
from clew.feedback.significance import wilson
from clew.feedback.tastes import Ballots, consensus
from clew.feedback.trolls import kept, suspicions

NUM_PAIRS, OVERLAP, LABELS = 800, 3, 80
HOSTILE = ("random", "always_first", "always_second", "troll", "master", "gaslight")
NUM_TOPICS = 4
COPIED, COPIER = "honest-0", "copying-0"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Design(NamedTuple):
    prompts: int
    answers: int
    sharpness: float


DESIGNS = {
    f"{name}, sharpness {sharp:g}": Design(*shape, sharp)
    for name, shape in (("prompts", (23, 9)), ("pool", (1, 41)))
    for sharp in (3.0, 2.0, 4.0)
}


class World(NamedTuple):
    records: list[Feedback]
    topics: list[str]
    """Of each record."""
    gold: dict[str, float]
    group: dict[str, str]
    """Items of one group were compared with each other."""


def world(seed: int, design: Design) -> World:
    """Answers, raters and what they said, a function of the seed."""
    rng = np.random.default_rng(seed)
    items = [
        Item(prompt=f"question {p}", completion=f"answer {p} {a}" + " word" * int(rng.normal(17, 7)))
        for p in range(design.prompts)
        for a in range(design.answers)
    ]
    gold, other = ({i.id: float(v) for i, v in zip(items, rng.normal(size=len(items)), strict=True)} for _ in "ab")
    pairs = [(a, b) for a, b in combinations(items, 2) if a.prompt == b.prompt]
    chosen = [pairs[int(i)] for i in rng.permutation(len(pairs))[:NUM_PAIRS]]
    apart = float(np.quantile([abs(gold[a.id] - gold[b.id]) for a, b in chosen], 0.8))
    raters = {r.name: r for r in _raters(design.sharpness, lambda item: other[item.id], apart)}
    records, topics = list[Feedback](), list[str]()
    for number, (pair, names) in enumerate(zip(chosen, _assignment(list(raters), rng), strict=True)):
        # The answers to a prompt are of its topic; a pool is compared on a new question every time.
        topic = number if design.prompts == 1 else int(str(pair[0].prompt).split()[1])
        about = f"topic-{topic % NUM_TOPICS}"
        said = _said(number, pair, about, [raters[name] for name in names], gold, rng)
        records += said
        topics += [about] * len(said)
    return World(records, topics, gold, {i.id: str(i.prompt) for i in items})


def _said(
    number: int,
    pair: Sequence[Item],
    topic: str,
    raters: Sequence[SimulatedRater],
    gold: Mapping[str, float],
    rng: np.random.Generator,
) -> list[Feedback]:
    said: dict[str, Feedback] = {}
    for rater in raters:
        shown = pair if rng.random() < 0.5 else pair[::-1]
        task = Task(kind="comparison", prompt=f"{topic}, number {number}", items=tuple(i.id for i in shown))
        answer = rater.judge(task, shown, gold, rng)
        said[rater.name] = answer.model_copy(update={"made_at": START + timedelta(minutes=number)})
    if COPIER in said and rng.random() < 0.95:
        taken = copied(said[COPIED], COPIER)
        said[COPIER] = taken.model_copy(update={"made_at": taken.made_at + timedelta(hours=1)})
    return list(said.values())


def _raters(sharpness: float, values: Callable[[Item], float], apart: float) -> list[SimulatedRater]:
    sharp = {"sharpness": sharpness}
    makers: list[tuple[int, str, Callable[[str], SimulatedRater]]] = [
        (8, "honest", lambda name: honest(name, **sharp)),
        (3, "noisy", lambda name: noisy(name, sharpness=sharpness / 3)),
        (2, "left", lambda name: left_biased(name, **sharp)),
        (2, "length", lambda name: length_biased(name, **sharp)),
        (1, "copying", lambda name: honest(name, **sharp)),
        (4, "opinion", lambda name: replace(minority(name, values=values), **sharp)),
        (2, "random", lambda name: lazy(name, carelessness=1.0)),
        (1, "always_first", safe),
        (1, "always_second", unsafe),
        (2, "troll", lambda name: troll(name, malice=0.8, **sharp)),
        (2, "master", lambda name: master(name, hard=apart, **sharp)),
        (2, "gaslight", lambda name: gaslight(name, topic=f"topic-{name[-1]}", malice=0.8, **sharp)),
    ]
    return [make(f"{kind}-{number}") for num, kind, make in makers for number in range(num)]


def _assignment(names: Sequence[str], rng: np.random.Generator) -> list[list[str]]:
    """Raters of every pair, at random, with as many pairs each; the copier sits where its source sits."""
    left = {name: LABELS for name in names if name not in (COPIED, COPIER)}
    together = set(rng.permutation(NUM_PAIRS)[:LABELS].tolist())
    found: list[list[str]] = []
    for number in range(NUM_PAIRS):
        who = [COPIED, COPIER] if number in together else []
        order = sorted(left, key=lambda name: -left[name] - rng.random())
        for name in order[: OVERLAP - len(who)]:
            who.append(name)
            left[name] -= 1
        found.append(who)
    assert not any(left.values())
    return found


def one_seed(seed: int, design: Design) -> dict[str, Any]:
    """Who is flagged, who copies whom, and how far scores are from the truth."""
    made = world(seed, design)
    judged = outcomes(made.records)
    found_copies = copies(made.records)
    found = suspicions(judged, topics=made.topics, together=[(c.one, c.other) for c in found_copies])
    scores = {
        "plain": bradley_terry(judged),
        "without flagged": bradley_terry(kept(judged, found)),
        "with slopes": _strengths(judged),
        "Crowd-BT": crowd_bt(judged, trusted={s.rater for s in found if not s.flagged}).strengths,
    }
    return {
        "seed": seed,
        "flagged": {s.rater: s.flagged for s in found},
        "reasons": {s.rater: s.reason for s in found if s.flagged},
        "copies": [(c.one, c.other, c.copier) for c in found_copies],
        "agreement of honest raters": _agreement(made.records),
        "correlation": {name: _correlation(s, made) for name, s in scores.items()},
    }


def _strengths(judged: Sequence[Outcome]) -> dict[str, float]:
    ballots = Ballots.of(judged)
    return dict(zip(ballots.items, consensus(ballots).worth[:, 0].tolist(), strict=True))


def _agreement(records: Sequence[Feedback]) -> float:
    """Of two honest raters on a pair."""
    said = defaultdict[frozenset[str], list[str]](list)
    for record in records:
        if record.rater.id.startswith("honest"):
            said[frozenset(record.items)].append(record.items[record.answer.verdict == "second"])
    return float(np.mean([a == b for both in said.values() for a, b in combinations(both, 2)]))


def _correlation(scores: Mapping[str, float], made: World) -> float:
    """Of scores with gold, both centred in every group of items that were compared."""
    names = sorted(scores)
    groups = np.array([made.group[name] for name in names])
    columns = np.array([[scores[name], made.gold[name]] for name in names])
    for group in np.unique(groups):
        columns[groups == group] -= columns[groups == group].mean(0)
    return float(np.corrcoef(columns.T)[0, 1])


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rates pooled over seeds with Wilson's intervals; gains of scores with Student's over seeds."""
    kinds = defaultdict[str, list[bool]](list)
    for row in rows:
        for name, flagged in row["flagged"].items():
            kinds[name.rsplit("-", 1)[0]].append(flagged)
    hits = sum(sum(kinds[k]) for k in HOSTILE)
    false = sum(sum(flags) for k, flags in kinds.items() if k not in HOSTILE)
    hostile = sum(len(kinds[k]) for k in HOSTILE)
    copying = [tuple(c) for row in rows for c in row["copies"]]
    return {
        "recall": _rate(hits, hostile),
        "false discoveries": _rate(false, hits + false),
        "raters of another opinion flagged": _rate(sum(kinds["opinion"]), len(kinds["opinion"])),
        "flagged": {kind: f"{sum(flags)} of {len(flags)}" for kind, flags in kinds.items()},
        "copying found": f"{copying.count((COPIER, COPIED, COPIER))} of {len(rows)}",
        "copying falsely found": len(copying) - copying.count((COPIER, COPIED, COPIER)),
        "agreement of honest raters": round(float(np.mean([r["agreement of honest raters"] for r in rows])), 3),
        "correlation with truth": {
            name: round(float(np.mean([r["correlation"][name] for r in rows])), 4) for name in rows[0]["correlation"]
        },
        "gain over plain": {name: _gain(rows, name) for name in rows[0]["correlation"] if name != "plain"},
    }


def _rate(count: int, num: int) -> dict[str, float]:
    found = wilson(count, num)
    return {"value": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4), "of": num}


def _gain(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    gains = np.array([r["correlation"][name] - r["correlation"]["plain"] for r in rows])
    mean, half = float(gains.mean()), float("inf")
    if len(gains) > 1:
        half = float(student.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains)))
    return {"value": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/trolls.json"))
    options = parser.parse_args()
    found = dict[str, Any]()
    for name, design in DESIGNS.items():
        rows = [one_seed(seed, design) for seed in range(options.first, options.first + options.seeds)]
        found[name] = summary(rows)
        print(name, json.dumps(found[name], indent=1))
    result = {
        "command": f"python benchmarks/trolls.py --seeds {options.seeds} --first {options.first}",
        "versions": {name: version(name) for name in ("clew", "numpy", "scipy")}
        | {"python": platform.python_version()},
        "designs": found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
