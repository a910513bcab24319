"""A round of asking: what is chosen, where it goes, who answers, and that a killed one asks the same."""

import json
import threading
import time

import pytest

from clew.config import ConfigError
from clew.feedback.projects import Projects
from clew.feedback.records import Comparison, Feedback, Rater
from clew.feedback.store import Store

from .conftest import run_recipe
from .test_resume import in_child


@pytest.fixture
def values(world, tmp_path):
    return {
        "model": world["model"], "reward": world["reward"], "data": {"path": world["prompts"]}, "store": str(tmp_path / "l.sqlite"),
        "encoding": {"max_length": 128}, "sampling": {"max_tokens": 16}, "prompts": 8, "answers": 3, "pairs": 10, "overlap": 2,
        "gold": "clew.data.grammar:gold", "raters": [{"rater": "honest", "num": 3}], "price": 0.5,
    }  # fmt: skip


def result(out):
    return json.loads((out / "result.json").read_text())["round"]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rounds_share_a_store_ask_nothing_twice_and_export_all_answers(values, tmp_path):
    first = run_recipe("ask", tmp_path / "a", {**values, "reward": None})
    second = run_recipe("ask", tmp_path / "b", {**values, "round": 1})
    assert result(first) | {"agreement": None} == {
        "number": 0,
        "labels": 20,
        "raters": 3,
        "agreement": None,
        "cost": 10.0,
    }
    assert 0 <= result(second)["agreement"] <= 1
    store = Store.open(values["store"])
    pairs = [frozenset(task.items) for task in store.tasks()]
    assert len(pairs) == len(set(pairs)) == 20
    assert len(lines(first / "votes.jsonl")) == 20
    assert len(lines(second / "votes.jsonl")) == 40
    assert {row["rater"] for row in lines(second / "votes.jsonl")} == {"honest-0", "honest-1", "honest-2"}
    store.close()


@pytest.mark.parametrize("change", [{"select": "random"}, {"select": "bald"}, {"duels": "thompson", "pairs": 5}])
def test_other_ways_of_choosing_run(values, tmp_path, change):
    assert result(run_recipe("ask", tmp_path / "a", values | change))["labels"] == 2 * (values | change)["pairs"]


def test_a_killed_round_asks_the_same_and_answers_once(values, tmp_path):
    whole = {**values, "store": str(tmp_path / "whole.sqlite")}
    assert in_child("ask", tmp_path / "whole", whole) == 0
    killed = {**values, "store": str(tmp_path / "killed.sqlite")}
    for after in (0.2, 0.5, 0.9):
        in_child("ask", tmp_path / "killed", killed, kill_after_s=after)
    assert in_child("ask", tmp_path / "killed", killed) == 0
    for name in ("pairs", "votes", "weighted"):
        assert (tmp_path / "whole" / f"{name}.jsonl").read_text() == (tmp_path / "killed" / f"{name}.jsonl").read_text()


def test_people_are_waited_for_and_find_the_questions_on_the_desk(values, tmp_path, monkeypatch):
    monkeypatch.setattr("clew.collecting.POLL_S", 0.05)
    asked = {k: v for k, v in values.items() if k not in ("gold", "raters")} | {"overlap": 1, "enough": 0.5}
    seen = []

    def people():
        store = Store.open(values["store"])
        while not seen:
            time.sleep(0.05)
            seen.extend(p for p in Projects(store).all() if Projects(store).progress(p.id).tasks == 10)
        anna = Rater(id="anna", kind="person")
        for task in store.tasks()[:5]:
            said = Feedback(task_id=task.id, items=task.items, rater=anna, answer=Comparison(verdict="first"))
            store.add_feedback([said])
        store.close()

    answering = threading.Thread(target=people)
    answering.start()
    out = run_recipe("ask", tmp_path / "a", asked)
    answering.join()
    assert result(out) == {"number": 0, "labels": 5, "raters": 1, "agreement": None, "cost": 2.5}
    assert json.loads((out / "run.json").read_text())["ledger"]["labels/person"] == 5


def test_raters_need_something_to_judge_by(values, tmp_path):
    with pytest.raises(ConfigError, match="give raters and gold, or neither"):
        run_recipe("ask", tmp_path / "a", values | {"gold": None})
