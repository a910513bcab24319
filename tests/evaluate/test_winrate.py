import numpy as np
import pytest

from clew.evaluate.winrate import mean_interval, paired_gain, win_rate


def test_win_rate_counts_ties_half_and_is_antisymmetric():
    a, b = [1.0, 2.0, 0.0, 5.0], [0.0, 2.0, 1.0, 4.0]
    assert win_rate(a, b).value == 0.625
    assert win_rate(a, b).value + win_rate(b, a).value == 1.0
    assert win_rate(a, a) == (0.5, 0.5, 0.5)


def test_gain_is_paired():
    rng = np.random.default_rng(0)
    hard = 10 * rng.normal(size=200)  # prompts differ far more than policies
    gain = paired_gain((hard + 0.5).tolist(), hard.tolist())
    assert gain.value == pytest.approx(0.5)
    assert gain.low > 0.49


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(1)
    found = [mean_interval(rng.normal(size=60).tolist(), seed=i, resamples=400) for i in range(300)]
    assert 0.9 < np.mean([i.low <= 0 <= i.high for i in found]) < 0.99


def test_nothing_to_average():
    with pytest.raises(ValueError, match="no prompts"):
        mean_interval([])
