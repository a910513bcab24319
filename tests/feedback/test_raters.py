import numpy as np
import pytest

from clew.feedback.raters import (
    RATERS,
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
from clew.feedback.records import Item, Task

SHORT, LONG = Item(prompt="q", completion="ok"), Item(prompt="q", completion="word " * 20)


def first_share(rater, gold, *, swapped=False, n=2000, seed=0) -> float:
    """How often SHORT is preferred, shown first or second."""
    items = [LONG, SHORT] if swapped else [SHORT, LONG]
    task = Task(kind="comparison", prompt="q", items=tuple(i.id for i in items))
    worth = {SHORT.id: gold[0], LONG.id: gold[1]}
    rng = np.random.default_rng(seed)
    wins = [rater.judge(task, items, worth, rng).answer.verdict == ("second" if swapped else "first") for _ in range(n)]
    return float(np.mean(wins))


def test_honest_raters_follow_gold_with_logistic_noise():
    assert first_share(honest("h", sharpness=2.0), (0.5, 0.0)) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.04)


@pytest.mark.parametrize("make", [honest, noisy, lazy, length_biased, minority, troll, master, gaslight])
def test_swapping_the_items_swaps_the_answer(make):
    rater = make("r")
    assert first_share(rater, (0.3, 0.0)) == pytest.approx(first_share(rater, (0.3, 0.0), swapped=True), abs=0.05)


def test_weaknesses_show():
    even = (0.0, 0.0)
    assert first_share(left_biased("l", bias=1.5), even) == pytest.approx(0.818, abs=0.04)
    assert first_share(length_biased("b", weight=0.1), even) < 0.05
    assert first_share(troll("t", malice=1.0), (1.0, 0.0)) < 0.1
    assert first_share(lazy("z", carelessness=1.0), (1.0, 0.0)) == pytest.approx(0.5, abs=0.04)


def test_noise_is_no_malice():
    assert 0.5 < first_share(noisy("n"), (0.5, 0.0)) < first_share(honest("h"), (0.5, 0.0))


def test_a_master_is_right_where_it_shows_and_wrong_where_it_hides():
    assert first_share(master("m", hard=1.0), (2.0, 0.0)) > 0.95
    assert first_share(master("m", hard=1.0), (0.9, 0.0)) < 0.05


def test_gaslighting_is_on_one_topic():
    def right(prompt):
        items = [Item(prompt=prompt, completion="good"), Item(prompt=prompt, completion="bad")]
        task = Task(kind="comparison", prompt=prompt, items=tuple(i.id for i in items))
        gold = {items[0].id: 1.0, items[1].id: 0.0}
        rng = np.random.default_rng(0)
        said = [gaslight("g", topic="war").judge(task, items, gold, rng).answer.verdict for _ in range(200)]
        return said.count("first") / 200

    assert right("on war") < 0.05
    assert right("on peace") > 0.95


def test_a_minority_values_something_else_consistently():
    assert first_share(minority("m"), (-1.0, 1.0)) > 0.95  # the short one, worse as it is
    assert first_share(minority("m"), (-1.0, 1.0), swapped=True) > 0.95
    assert first_share(minority("m", share=0.0), (-1.0, 1.0)) < 0.05
    assert first_share(minority("m", values=lambda item: len(item.completion)), (1.0, -1.0)) < 0.05


def test_constant_verdicts_look_at_nothing():
    rng = np.random.default_rng(0)
    thumb = Task(kind="thumb", prompt="q", items=(SHORT.id,))
    for make, verdict, up in ((safe, "first", True), (unsafe, "second", False)):
        for gold in (-9.0, 9.0):
            assert first_share(make("c"), (gold, 0.0), n=20) == (verdict == "first")
            assert make("c").judge(thumb, [SHORT], {SHORT.id: gold}, rng).answer.up is up


def test_a_copy_is_the_answer_under_another_name():
    task = Task(kind="comparison", prompt="q", items=(SHORT.id, LONG.id))
    original = honest("h").judge(task, [SHORT, LONG], {SHORT.id: 1.0, LONG.id: 0.0}, np.random.default_rng(0))
    copy = copied(original, "c")
    assert copy.answer == original.answer
    assert (copy.rater.id, copy.id == original.id) == ("c", False)


def test_gold_flipped_is_the_answer_flipped():
    assert first_share(honest("h"), (1.0, 0.0)) > 0.95
    assert first_share(honest("h"), (0.0, 1.0)) < 0.05


@pytest.mark.parametrize("make", RATERS.values())
def test_every_rater_answers_every_kind(make):
    rng = np.random.default_rng(0)
    worth = {SHORT.id: 1.0, LONG.id: 0.0}
    for kind, items in (
        ("comparison", [SHORT, LONG]),
        ("ranking", [SHORT, LONG]),
        ("rating", [SHORT]),
        ("thumb", [SHORT]),
    ):
        task = Task(kind=kind, prompt="q", items=tuple(i.id for i in items))
        feedback = make("r").judge(task, items, worth, rng)
        assert feedback.answer.kind == kind
        assert feedback.rater.kind == "program"


def test_other_kinds_are_refused():
    task = Task(kind="critique", prompt="q", items=(SHORT.id,))
    with pytest.raises(ValueError, match="not a critique"):
        honest("h").judge(task, [SHORT], {SHORT.id: 0.0}, np.random.default_rng(0))
