import numpy as np
import pytest
from scipy.stats import false_discovery_control

from clew.feedback.significance import adjusted, benjamini_hochberg, wilson


def test_wilson_on_numbers_worked_by_hand():
    none, half = wilson(0, 10), wilson(5, 10)  # METHODS F: 0/10 and 5/10
    assert (none.low, none.high) == pytest.approx((0, 0.2775), abs=1e-4)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_of_nothing_everything_is_possible():
    assert wilson(0, 0) == (0.5, 0.0, 1.0, 0)


def test_wilson_covers_where_wald_does_not():
    rng = np.random.default_rng(0)
    counts = rng.binomial(20, 0.95, size=2000)
    intervals = [wilson(int(c), 20) for c in counts]
    assert np.mean([i.low <= 0.95 <= i.high for i in intervals]) >= 0.9
    p = counts / 20
    assert np.mean(np.abs(p - 0.95) <= 1.96 * np.sqrt(p * (1 - p) / 20)) < 0.8


def test_benjamini_hochberg_on_their_own_numbers():
    # Benjamini & Hochberg (1995), sec. 3.2: 15 p-values, four rejected at q = 0.05 where Bonferroni rejects three
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
    assert benjamini_hochberg(p, q=0.05).tolist() == [True] * 4 + [False] * 11


def test_adjusted_agrees_with_scipy_in_any_order():
    p = np.random.default_rng(1).random(50) ** 3
    assert adjusted(p) == pytest.approx(false_discovery_control(p))
    assert adjusted(p[::-1])[::-1] == pytest.approx(adjusted(p))
    assert adjusted([]).shape == (0,)


def test_false_discoveries_stay_below_q_and_without_adjusting_do_not():
    rng = np.random.default_rng(2)
    shares, plain = [], []
    for _ in range(300):
        p = np.append(rng.random(80), rng.beta(0.05, 5, size=20))
        for flagged, into in ((benjamini_hochberg(p, q=0.1), shares), (p <= 0.1, plain)):
            into.append(flagged[:80].sum() / max(flagged.sum(), 1))
    assert np.mean(shares) < 0.1 < np.mean(plain)
