import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clew.feedback.aggregate import (
    Outcome,
    bradley_terry,
    by_margin,
    contrast,
    elo,
    games,
    in_points,
    outcomes,
    shuffled_elo,
    win_matrix,
)
from clew.feedback.records import Comparison, Feedback, Ranking, Rater

ITEMS = "abcd"
JUDGED = st.lists(
    st.tuples(st.permutations(ITEMS), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([0.5, 1.0, 3.0])).map(
        lambda drawn: Outcome(drawn[0][0], drawn[0][1], drawn[1], drawn[2])
    ),
    min_size=1,
    max_size=30,
)


def feedback(items, answer) -> Feedback:
    return Feedback(task_id="t", items=items, rater=Rater(id="r", kind="person"), answer=answer)


def test_outcomes_of_comparisons_and_rankings():
    records = [
        feedback(("a", "b"), Comparison(verdict="second", margin=2)),
        feedback(("a", "b"), Comparison(verdict="unsure")),
        feedback(("a", "b"), Comparison(verdict="both_bad")),
        feedback(("a", "b", "c", "d"), Ranking(groups=((2,), (0, 1)), not_rankable=(3,))),
    ]
    judged = [
        Outcome("a", "b", 0.0, margin=-2.0, rater="r"),
        Outcome("c", "a", 1.0, rater="r"),
        Outcome("c", "b", 1.0, rater="r"),
        Outcome("a", "b", 0.5, rater="r"),
    ]
    assert outcomes(records) == judged
    merged = outcomes(records, both_bad="tie")
    assert merged == [judged[0], Outcome("a", "b", 0.5, rater="r"), *judged[1:]]


def test_two_items_worked_by_hand():
    # 3 wins of 4, no prior: the gap is logit(3/4) = log 3
    judged = [Outcome("a", "b", 1.0)] * 3 + [Outcome("a", "b", 0.0)]
    found = bradley_terry(judged, prior=0)
    assert found == pytest.approx({"a": math.log(3) / 2, "b": -math.log(3) / 2}, abs=1e-9)
    assert bradley_terry([]) == {}


@settings(max_examples=10, deadline=None)
@given(JUDGED, st.randoms(use_true_random=False))
def test_order_direction_names_and_duplicates_do_not_matter(judged, random):
    base = bradley_terry(judged)
    shuffled = random.sample(judged, len(judged))
    turned = [o._replace(first=o.second, second=o.first, probability=1 - o.probability) for o in judged]
    halves = [o._replace(weight=o.weight / 2) for o in judged for _ in range(2)]
    for other in (shuffled, turned, halves):
        assert bradley_terry(other) == pytest.approx(base, abs=1e-8)
    new = dict(zip(ITEMS, "zxyw", strict=True))
    renamed = bradley_terry([o._replace(first=new[o.first], second=new[o.second]) for o in judged])
    assert renamed == pytest.approx({new[item]: s for item, s in base.items()}, abs=1e-8)


def test_judgements_alike_are_counted_once():
    judged = [Outcome("b", "a", 1.0, rater="r")] * 3 + [Outcome("b", "a", 1.0, rater="s"), Outcome("a", "c", 0.5, 2.0)]
    found = games(judged)
    assert found.items == ("a", "b", "c")
    rows = zip(found.first, found.second, found.probability, found.weight, found.counts, strict=True)
    assert list(rows) == [(0, 2, 0.5, 2.0, 1.0), (1, 0, 1.0, 1.0, 4.0)]
    by_rater = games(judged, clusters=[o.rater for o in judged])
    assert sorted(by_rater.counts) == [1, 1, 3]
    by_length = games(judged, features={"length": [1.0, 1.0, 2.0, 2.0, 0.0]}, left=True)
    assert sorted(by_length.counts) == [1, 2, 2]
    assert by_length.feature_names == ("length", "left")


def test_a_judgement_of_no_weight_counts_for_nothing():
    judged = [Outcome("a", "b", 1.0), Outcome("a", "b", 0.0, weight=0.0), Outcome("b", "c", 1.0, weight=0.0)]
    assert bradley_terry(judged) == pytest.approx({**bradley_terry(judged[:1]), "c": 0.0})


@pytest.mark.parametrize(
    "wrong",
    [Outcome("a", "b", 1.5), Outcome("a", "b", 1.0, weight=-1.0), Outcome("a", "a", 1.0), Outcome("a", "b", math.nan)],
)
def test_what_is_no_judgement_is_refused(wrong):
    with pytest.raises(ValueError, match="between two items"):
        games([wrong])


def test_features_have_one_number_for_each_judgement():
    judged = [Outcome("a", "b", 1.0)] * 2
    for wrong in ({"features": {"length": [1.0]}}, {"features": {"length": [1.0, math.inf]}}, {"clusters": ["r"]}):
        with pytest.raises(ValueError, match="for each of 2 judgements"):
            games(judged, **wrong)


def test_the_win_matrix_counts_ties_as_halves():
    judged = [Outcome("a", "b", 1.0)] * 2 + [Outcome("b", "a", 0.5), Outcome("c", "a", 1.0, weight=2.0)]
    wins = win_matrix(games(judged))
    assert wins.tolist() == [[0, 2.5, 0], [0.5, 0, 0], [2, 0, 0]]
    assert (wins + wins.T)[0].tolist() == [0, 3, 2]


def test_a_stronger_preference_can_count_for_more():
    judged = [Outcome("a", "b", 0.0, margin=-3.0), Outcome("a", "b", 1.0, 2.0, margin=1.0), Outcome("a", "b", 0.5)]
    assert [o.weight for o in by_margin(judged, lambda margin: (1 + margin) / 4)] == [1.0, 1.0, 0.25]


def test_a_contrast_turns_with_its_sides_and_has_size_one():
    first, second = [30.0, 10.0, 0.0], [10.0, 30.0, 0.0]
    assert contrast(first, second) == pytest.approx([math.sqrt(1.5), -math.sqrt(1.5), 0.0])
    assert contrast(second, first) == pytest.approx(-contrast(first, second))
    assert contrast([2.0], [2.0]) == [0.0]
    with pytest.raises(ValueError, match="0 or more"):
        contrast([-1.0], [2.0])


def test_four_hundred_points_are_odds_of_ten_to_one():
    strengths = {"a": math.log(10), "b": 0.0}
    assert in_points(strengths) == pytest.approx({"a": 1400.0, "b": 1000.0})
    assert in_points(strengths, anchor="a", at=1114) == pytest.approx({"a": 1114.0, "b": 714.0})


def test_elo_keeps_its_sum_and_expects_what_it_should():
    judged = [Outcome("a", "b", 1.0), Outcome("b", "c", 0.0), Outcome("c", "a", 0.5)]
    assert sum(elo(judged, k=32).values()) == pytest.approx(3000)
    assert elo(judged[:1], k=32) == {"a": 1016.0, "b": 984.0}


def test_elo_depends_on_the_order_of_games_its_mean_over_orders_and_bradley_terry_do_not():
    rng = np.random.default_rng(0)
    judged = [Outcome(*rng.choice(list(ITEMS), 2, replace=False), float(rng.random() < 0.6)) for _ in range(60)]
    judged += [Outcome("a", other, 1.0) for other in "bcd"] * 5
    apart = {item: abs(rating - elo(judged[::-1])[item]) for item, rating in elo(judged).items()}
    assert max(apart.values()) > 30
    means = [shuffled_elo(order, np.random.default_rng(1), rounds=400) for order in (judged, judged[::-1])]
    assert means[0] == pytest.approx(means[1], abs=6)
    assert bradley_terry(judged) == pytest.approx(bradley_terry(judged[::-1]), abs=1e-9)


def test_elo_of_small_steps_and_many_passes_is_bradley_terry():
    rng = np.random.default_rng(2)
    judged = [Outcome(*rng.choice(list("abc"), 2, replace=False), float(rng.random() < 0.6)) for _ in range(60)]
    slow = elo([judged[i] for _ in range(300) for i in rng.permutation(60)], k=0.5)
    assert slow == pytest.approx(in_points(bradley_terry(judged, prior=0)), abs=2)
