import numpy as np
import pytest

from clew.feedback.coverage import confirmation, effective_number, expert_weight, group_shares, thin_items
from clew.feedback.records import Comparison, Feedback, Rater


def said(rater, *, task="t", items=("a", "b"), verdict="first", assisted=False):
    person = Rater(id=rater, kind="person")
    return Feedback(task_id=task, items=items, rater=person, answer=Comparison(verdict=verdict), assisted=assisted)


def answers(per_rater):
    return [said(name, task=f"t{k}") for name, num in per_rater.items() for k in range(num)]


def test_shares_and_weights_worked_by_hand():
    groups = {"anna": "north", "ben": "north", "cleo": "south"}
    north, south = group_shares(answers({"anna": 4, "ben": 4, "cleo": 2}), groups, {"north": 0.5, "south": 0.5})
    assert (north.raters.value, north.answers, north.weight) == pytest.approx((2 / 3, 0.8, 0.625))
    assert (south.raters.value, south.answers, south.weight) == pytest.approx((1 / 3, 0.2, 2.5))
    assert effective_number([0.625] * 8 + [2.5] * 2) == pytest.approx(100 / (8 * 0.390625 + 2 * 6.25))


def test_weights_make_groups_count_as_declared_and_average_one():
    groups = {f"r{k}": "abc"[k % 3] for k in range(12)}
    declared = {"a": 0.2, "b": 0.3, "c": 0.5}
    found = group_shares(answers({f"r{k}": k + 1 for k in range(12)}), groups, declared)
    assert [g.weight * g.answers for g in found] == pytest.approx(list(declared.values()))


def test_a_group_of_which_nobody_answered_is_shown_and_the_others_fill_its_place():
    seen, unseen = group_shares(answers({"anna": 3}), {"anna": "a"}, {"a": 0.6, "b": 0.4})
    assert (unseen.raters.value, unseen.weight) == (0, 0)
    assert seen.weight == pytest.approx(1)


def test_a_skewed_selection_is_significant_and_a_fair_one_is_not():
    declared = {"a": 0.5, "b": 0.5}
    skewed = {f"r{k}": "a" if k < 27 else "b" for k in range(30)}
    fair = {f"r{k}": "a" if k < 16 else "b" for k in range(30)}
    assert all(g.false_discovery < 0.01 for g in group_shares(answers(dict.fromkeys(skewed, 2)), skewed, declared))
    assert all(g.false_discovery > 0.3 for g in group_shares(answers(dict.fromkeys(fair, 2)), fair, declared))
    # many answers of few raters prove nothing about who was selected
    few = {"r0": "a", "r1": "a", "r2": "b"}
    assert all(g.false_discovery > 0.3 for g in group_shares(answers({"r0": 500, "r1": 500, "r2": 10}), few, declared))


def test_wrong_declarations_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        group_shares([], {}, {"a": 0.6, "b": 0.6})
    with pytest.raises(ValueError, match=r"raters \['ben'\] are in none"):
        group_shares(answers({"ben": 1}), {}, {"a": 1.0})


def test_items_thin_in_a_group_are_named():
    groups = {"anna": "north", "ben": "south", "cleo": "south"}
    records = [said("anna", items=("a", "b")), said("ben", items=("a", "c")), said("cleo", items=("a", "c"))]
    assert thin_items(records, groups) == {"north": ["c"], "south": ["b"]}
    assert thin_items(records, groups, least=2)["south"] == ["b"]
    assert thin_items(records[:1], groups, among=["west"]) == {"west": ["a", "b"]}


def test_the_pull_of_a_suggestion_worked_by_hand():
    # shown 9 of 10 agree, hidden 5 of 10: Newcombe's interval from Wilson's (0.5958, 0.9821) and (0.2366, 0.7634)
    records = [said(f"s{k}", verdict="first" if k else "second", assisted=True) for k in range(10)]
    records += [said(f"h{k}", verdict="first" if k < 5 else "second") for k in range(10)]
    pull = confirmation(records, {"t": "a"})
    assert pull.difference == pytest.approx(0.4)
    assert (pull.low, pull.high) == pytest.approx(
        (0.4 - np.hypot(0.9 - 0.5958, 0.7634 - 0.5), 0.4 + np.hypot(0.9821 - 0.9, 0.5 - 0.2366)), abs=1e-3
    )


def test_the_pull_covers_zero_where_there_is_none():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        verdicts = np.where(rng.random(80) < 0.7, "first", "second")
        records = [said(f"r{k}", verdict=str(v), assisted=k % 2 == 0) for k, v in enumerate(verdicts)]
        pull = confirmation(records, {"t": "a"})
        covered.append(pull.low <= 0 <= pull.high)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_answers_without_a_suggestion_say_nothing_of_its_pull():
    pull = confirmation([said("anna"), said("ben", verdict="tie", assisted=True)], {"other": "a"})
    assert pull.shown.num == pull.hidden.num == 0
    assert pull.low <= -0.5 and pull.high >= 0.5


def test_experts_get_their_share_but_no_row_more_than_the_cap():
    assert expert_weight(100, 400) == pytest.approx((4.0, 0.5, 800**2 / (16 * 100 + 400)))
    few = expert_weight(2, 400)
    assert (few.weight, few.share) == pytest.approx((10.0, 20 / 420))
    assert expert_weight(0, 5) == (1.0, 0.0, 5.0)
    assert expert_weight(5, 0) == (1.0, 1.0, 5.0)
    with pytest.raises(ValueError, match="share in"):
        expert_weight(1, 1, share=1.0)
