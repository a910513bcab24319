import numpy as np
import pytest

from clew.evaluate.calibration import (
    Bin,
    accuracy,
    area_under_curve,
    error_if_calibrated,
    expected_calibration_error,
    grouped_mean_interval,
    pair_confidence,
    reliability,
)
from clew.evaluate.winrate import mean_interval


def test_calibration_error_on_numbers_worked_by_hand():
    said, came = [0.9, 0.2, 0.7, 0.4], [1, 0, 0, 1]
    # The lower half says 0.3 and comes true in 1/2, the upper says 0.8 and comes true in 1/2.
    assert reliability(said, came, bins=2) == [pytest.approx(Bin(0.3, 0.5, 2)), pytest.approx(Bin(0.8, 0.5, 2))]
    assert expected_calibration_error(said, came, bins=2) == pytest.approx((2 * 0.2 + 2 * 0.3) / 4)


def test_calibration_error_is_the_same_in_any_order_of_rows():
    rng = np.random.default_rng(0)
    said = rng.integers(1, 6, size=200) / 6  # many ties
    came = (rng.random(200) < 0.5).astype(float)
    mixed = rng.permutation(200)
    forward = expected_calibration_error(said, came, bins=7)
    assert forward == pytest.approx(expected_calibration_error(said[mixed], came[mixed], bins=7))


def test_bins_are_of_equal_size_and_hold_every_row():
    said = np.random.default_rng(1).random(103)
    found = reliability(said, [1.0] * 103, bins=10)
    assert sum(b.size for b in found) == 103 and {b.size for b in found} == {10, 11}
    assert [b.probability for b in found] == sorted(b.probability for b in found)


def test_equal_probabilities_share_a_bin():
    assert reliability([0.5] * 6, [1, 0, 1, 0, 0, 0], bins=4) == [pytest.approx(Bin(0.5, 1 / 3, 6))]


def test_chance_alone_exceeds_the_allowed_error_one_time_in_twenty_and_overconfidence_always():
    rng = np.random.default_rng(2)
    said = rng.uniform(0.5, 1, size=600)
    mean, most = error_if_calibrated(said)
    chance = [expected_calibration_error(said, rng.random(600) < said) for _ in range(200)]
    assert np.mean(chance) == pytest.approx(mean, rel=0.05)
    assert 0.01 < np.mean(np.array(chance) > most) < 0.11
    guesses = rng.random(600) < 0.5
    assert expected_calibration_error(said, guesses) > 3 * most


def test_confidence_of_a_pair_does_not_know_which_answer_was_chosen():
    said, right = pair_confidence([np.log(3.0), -np.log(3.0), 0.0])
    assert said == pytest.approx([0.75, 0.75, 0.5])
    assert right.tolist() == [1.0, 0.0, 0.5]


def test_accuracy_counts_ties_half():
    assert accuracy([2.0, -1.0, 0.0, 0.5]).value == 0.625
    assert accuracy([1.0, 1.0]) == (1.0, 1.0, 1.0)


def test_groups_of_one_row_give_the_plain_interval():
    values = np.random.default_rng(3).normal(size=50)
    assert grouped_mean_interval(values, range(50)) == pytest.approx(mean_interval(values.tolist()))


def test_rows_that_repeat_their_group_add_no_certainty():
    values = np.random.default_rng(4).normal(size=50)
    once = grouped_mean_interval(values, range(50))
    thrice = grouped_mean_interval(values.repeat(3), np.arange(50).repeat(3).tolist())
    assert thrice == pytest.approx(once)


def test_intervals_of_groups_of_unequal_size_cover_as_often_as_they_say():
    rng = np.random.default_rng(5)
    inside = 0
    for i in range(200):
        groups = np.repeat(np.arange(40), rng.integers(1, 6, size=40))
        values = rng.normal(size=40)[groups] + rng.normal(size=len(groups))
        found = grouped_mean_interval(values, groups.tolist(), seed=i, resamples=300)
        inside += found.low <= 0 <= found.high
    assert 0.88 < inside / 200 < 0.99


@pytest.mark.parametrize(
    ("said", "came", "says"), [([], [], "got 0 prob"), ([0.5], [1, 0], "got 1 prob"), ([1.5], [1], "pair_confidence")]
)
def test_what_cannot_be_put_into_bins_is_said(said: list[float], came: list[float], says: str):
    with pytest.raises(ValueError, match=says):
        expected_calibration_error(said, came)


def test_nothing_to_average():
    with pytest.raises(ValueError, match="0 values and 0 groups"):
        accuracy([])


def test_area_under_the_curve_worked_by_hand():
    # good: 3, 1; bad: 2, 1: of four pairs the good one is ahead in two and level in one
    assert area_under_curve([3.0, 1.0, 2.0, 1.0], [True, True, False, False]) == pytest.approx(2.5 / 4)
    with pytest.raises(ValueError, match="all 2 answers are good; expected some of both"):
        area_under_curve([1.0, 2.0], [True, True])
