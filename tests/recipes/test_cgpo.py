"""CGPO, run for real on a small model: what it learns, leaves behind, resumes and refuses."""

import json
from functools import partial

import pytest

from clew.config import ConfigError, build
from clew.recipes.cgpo import CGPO

from ..faults import KINDS, disturbed, operations
from .conftest import assert_same, metrics, run_recipe

WORDS = "tests.recipes.test_cgpo:number_of_words"


def number_of_words(prompts, completions):
    return [float(len(c.split())) for c in completions]


def is_short(prompts, completions):
    return [len(c.split()) <= 6 for c in completions]


def doubts(prompts, completions):
    return [0.5 for _ in completions]


def configured(world, **tasks):
    return {
        "model": world["model"], "encoding": {"max_length": 128}, "max_tokens": 16, "steps": 4, "save_every": 2,
        "learner": {"lr": 1e-3, "schedule": "constant"}, "tasks": tasks,
    }  # fmt: skip


def task(world, **options):
    usual = {"data": {"path": world["prompts"]}, "reward": WORDS, "prompts": 4, "answers": 3}
    return {**usual, "optimiser": {"name": "crpg", "kl_max": 20.0}, **options}


def three_tasks(world):
    return {
        "long": task(world, judges=[{"name": "length", "most": 9}], weight=2.0),
        "kind": task(
            world, data={"path": world["demonstrations"]}, baseline="data", reward=[{"model": world["reward"]}],
            judges=[{"rule": {"name": "forbidden", "words": ["awful"]}, "per": "group"}],
            optimiser={"name": "crraft", "kl_max": 20.0},
        ),
        "pairs": task(world, judges=["tests.recipes.test_cgpo:is_short"], optimiser={"name": "codpo", "beta": 0.2}),
    }  # fmt: skip


def test_three_tasks_with_their_own_optimisers_learn_together(world, tmp_path):
    out = run_recipe("cgpo", tmp_path / "run", configured(world, **three_tasks(world)))
    rows = metrics(out)
    assert [r["step"] for r in rows] == [0, 1, 2, 3]
    assert {"loss/long/likelihood", "loss/kind/likelihood", "loss/pairs/pair"} <= rows[0].keys()
    assert {"long/violations/length", "kind/violations/forbidden", "pairs/violations/is_short"} <= rows[0].keys()
    assert rows[0]["long/objective/kl"] == pytest.approx(0, abs=1e-3)
    assert abs(rows[3]["long/objective/kl"]) > 1e-4
    assert 0 < rows[0]["long/rewards/calibrated"] < 1
    names = ("long", "kind", "pairs")
    assert rows[1]["violations"] == pytest.approx(sum(rows[1][f"{n}/violations"] for n in names) / 3)
    assert json.loads((out / "run.json").read_text())["state"] == "finished"
