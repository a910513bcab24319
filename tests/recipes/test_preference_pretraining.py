"""A preference model pretrained on public votes needs fewer of people's comparisons: same seeds, same pairs, held out."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clew.data import grammar

from .conftest import run_recipe, write

SEEDS = 5
SHARED = {"encoding": {"max_length": 128}, "save_every": 1000, "batch": 16}


def judged(num: int, seed: int) -> list[tuple[dict[str, str], float]]:
    rows = list(grammar.demonstrations(num=num, seed=seed))
    worth = grammar.gold([r["prompt"] for r in rows], [r["completion"] for r in rows])
    return list(zip(rows, worth, strict=True))


def pairs(num: int, seed: int) -> list[dict[str, str]]:
    """What people say: of two answers the one that is worth more."""
    found = []
    answers = judged(2 * num, seed)
    for (a, x), (b, y) in zip(answers[::2], answers[1::2], strict=True):
        better, worse = (a, b) if x > y else (b, a)
        if x != y:
            found.append({"prompt": a["prompt"], "chosen": better["completion"], "rejected": worse["completion"]})
    return found


def votes(num: int, seed: int) -> list[dict[str, Any]]:
    """Questions with three answers, whose votes grow with their worth, noisily."""
    answers, rng = judged(3 * num, seed), np.random.default_rng(seed)
    rows = []
    for start in range(0, 3 * num, 3):
        three = [
            {"text": row["completion"], "upvotes": int(2 ** max(0.0, worth + 2 + rng.normal() / 2))}
            for row, worth in answers[start : start + 3]
        ]
        rows.append({"question": answers[start][0]["prompt"], "answers": three})
    return rows


def accuracy(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["heldout"]["accuracy"]


def gains(model: str, pretrained: Path, folder: Path, few: dict[str, Any]) -> list[float]:
    """Accuracy on held-out comparisons that a pretrained model adds to learning from sixteen pairs."""
    test, found = write(folder / "test.jsonl", pairs(120, 99)), []
    for seed in range(SEEDS):
        human = write(folder / f"human-{seed}.jsonl", pairs(16, 500 + seed))
        tuned = SHARED | {"seed": seed, "data": {"path": human}, "heldout": {"path": test}} | few
        alone = run_recipe("reward", folder / f"alone-{seed}", tuned | {"model": model})
        after = run_recipe("reward", folder / f"after-{seed}", tuned | {"model": str(pretrained / "model")})
        found.append(accuracy(after) - accuracy(alone))
    return found


def test_votes_make_up_for_few_comparisons(world, tmp_path, monkeypatch):
    monkeypatch.setattr("clew.recipes.reward.check_reload", lambda *a, **k: None)  # has its own test
    data = {"path": write(tmp_path / "votes.jsonl", votes(120, 1000))}
    values = SHARED | {"model": world["model"], "data": data, "epochs": 2, "learner": {"lr": 1e-2}}
    before = run_recipe("reward", tmp_path / "before", values)
    found = gains(world["model"], before, tmp_path, {"epochs": 4, "learner": {"lr": 3e-3}})
    assert sum(gain > 0 for gain in found) >= SEEDS - 1
    assert np.mean(found) > 0.1
