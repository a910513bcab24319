from collections import Counter
from itertools import permutations

import pytest
from scipy.stats import chisquare

from clew.feedback.records import Comparison, Ranking, Thumb
from clew.feedback.slots import free_turn, in_task_order, share, slot_order


@pytest.mark.parametrize("num", [2, 3])
def test_over_tasks_every_order_is_drawn_equally_often(num):
    drawn = Counter(slot_order("key", f"task {i}", 0, num) for i in range(3000))
    assert chisquare([drawn[order] for order in permutations(range(num))]).pvalue > 0.01
    unkeyed = Counter(tuple(range(num)) for _ in range(3000))
    assert chisquare([unkeyed[order] for order in permutations(range(num))]).pvalue < 1e-9


@pytest.mark.parametrize("num", [2, 3, 5, 9])
def test_over_the_people_of_a_task_every_item_stands_equally_often_in_every_place(num):
    orders = [slot_order("key", "task", turn, num) for turn in range(2 * num)]
    for place in range(num):
        assert set(Counter(order[place] for order in orders).values()) == {2}


def test_the_order_is_the_keys_secret_and_does_not_change():
    assert slot_order("key", "t", 3, 4) == slot_order("key", "t", 3, 4)
    others = {tuple(slot_order(key, f"t{i}", 0, 2) for i in range(40)) for key in ("a", "b", "c")}
    assert len(others) == 3
    assert slot_order("key", "t", 5, 0) == ()
    assert slot_order("key", "t", 5, 1) == (0,)


def test_shares_are_uniform():
    found = [share("key", i) for i in range(4000)]
    assert chisquare([sum(k / 10 <= x < (k + 1) / 10 for x in found) for k in range(10)]).pvalue > 0.01


def test_the_first_turn_nobody_has():
    assert [free_turn(taken) for taken in (set(), {0, 1}, {0, 2}, {1})] == [0, 2, 1, 0]


def test_answers_in_the_order_of_the_task():
    said = Comparison(verdict="first", first_wins=0.8, margin=2, flaws=(("false",), ()))
    assert in_task_order(said, (0, 1)) == said
    turned = in_task_order(said, (1, 0))
    assert (turned.verdict, turned.margin, turned.flaws) == ("second", 2, ((), ("false",)))
    assert turned.first_wins == pytest.approx(0.2)
    assert in_task_order(turned, (1, 0)).verdict == "first"
    assert in_task_order(Comparison(verdict="both_bad"), (1, 0)) == Comparison(verdict="both_bad")
    assert in_task_order(Thumb(up=True), (0,)) == Thumb(up=True)
    shown = Ranking(groups=((2,), (0,)), not_rankable=(1,))  # slots 0, 1, 2 show items 1, 2, 0
    assert in_task_order(shown, (1, 2, 0)) == Ranking(groups=((0,), (1,)), not_rankable=(2,))
