import numpy as np
import pytest
from scipy.special import expit, ndtr

from clew.feedback.aggregate import Outcome, games
from clew.feedback.bradley_terry import fit_games
from clew.feedback.plackett_luce import Order, fit_orders
from clew.feedback.strengths import bootstrap, sandwich

TRUTH = {"a": 0.9, "b": 0.2, "c": -0.3, "d": -0.8}


def played(rng, count, truth=TRUTH):
    items, worth = list(truth), np.array(list(truth.values()))
    first = rng.integers(len(items), size=count)
    second = (first + rng.integers(1, len(items), size=count)) % len(items)
    won = rng.random(count) < expit(worth[first] - worth[second])
    return [Outcome(items[i], items[j], float(w)) for i, j, w in zip(first, second, won, strict=True)]


def test_the_interval_of_two_items_worked_by_hand():
    # 30 wins of 40: variance of a log odds is 1/30 + 1/10, times 40/39 for one mean estimated
    judged = [Outcome("a", "b", 1.0)] * 30 + [Outcome("a", "b", 0.0)] * 10
    found = sandwich(fit_games(games(judged), prior=0)).difference("a", "b")
    reach = 1.959964 * np.sqrt((1 / 30 + 1 / 10) * 40 / 39)
    assert found == pytest.approx((np.log(3), np.log(3) - reach, np.log(3) + reach), abs=1e-5)


def test_the_sandwich_covers_the_truth_as_often_as_it_says():
    covered = []
    for seed in range(200):
        found = sandwich(fit_games(games(played(np.random.default_rng(seed), 360)), prior=0))
        for first, second in ("ab", "ad", "cd"):
            interval = found.difference(first, second)
            covered.append(interval.low <= TRUTH[first] - TRUTH[second] <= interval.high)
        covered.append(found.strength("a").low <= TRUTH["a"] <= found.strength("a").high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)


def test_votes_of_one_rater_depend_on_each_other_and_the_interval_must_know():
    """Each rater has a taste of their own: counted as if independent, their votes promise too much."""
    said = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        judged = []
        for rater in range(25):
            taste = {item: s + rng.normal() for item, s in TRUTH.items()}
            judged += [o._replace(rater=f"r{rater}") for o in played(rng, 20, taste)]
        aware = sandwich(fit_games(games(judged, clusters=[o.rater for o in judged]), prior=0)).difference("a", "d")
        blind = sandwich(fit_games(games(judged), prior=0)).difference("a", "d")
        assert aware.value == pytest.approx(blind.value)
        said.append((aware.value, (aware.high - aware.value) / 1.96, (blind.high - blind.value) / 1.96))
    values, aware_error, blind_error = np.array(said).T
    assert aware_error.mean() == pytest.approx(values.std(), rel=0.2)
    assert blind_error.mean() < 0.7 * values.std()


@pytest.mark.parametrize("prior", [0.1, 1.0])
def test_bootstrap_and_sandwich_agree_on_many_judgements(prior):
    fit = fit_games(games(played(np.random.default_rng(0), 2000)), prior=prior)
    by_formula, drawn = sandwich(fit), bootstrap(fit, np.random.default_rng(1), rounds=300)
    for first, second in ("ab", "ad"):
        a, b = by_formula.difference(first, second), drawn.difference(first, second)
        assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.15)
        assert b.value == a.value


def test_a_bootstrap_of_clusters_draws_whole_clusters():
    judged = played(np.random.default_rng(0), 400)
    copied = [o._replace(rater=str(i)) for i, o in enumerate(judged) for _ in range(4)]
    once = fit_games(games(judged), prior=0.01)
    four = fit_games(games(copied, clusters=[o.rater for o in copied]), prior=0.04)
    blind = fit_games(games(copied), prior=0.04)
    assert four.strengths == pytest.approx(once.strengths, abs=1e-8)
    width = [np.ptp(bootstrap(f, np.random.default_rng(2)).difference("a", "d")[1:]) for f in (once, four, blind)]
    assert width[1] == pytest.approx(width[0], rel=0.2)
    assert width[2] < 0.65 * width[0]
    assert sandwich(four).difference("a", "d") == pytest.approx(sandwich(once).difference("a", "d"), abs=1e-6)


def test_what_nobody_connected_cannot_be_compared():
    judged = [Outcome("a", "b", 1.0), Outcome("b", "c", 1.0), Outcome("x", "y", 0.0)]
    fit = fit_games(games(judged))
    components = fit.components
    assert components["a"] == components["b"] == components["c"] != components["x"] == components["y"]
    for part in ("abc", "xy"):
        assert sum(fit.strengths[item] for item in part) == pytest.approx(0, abs=1e-9)
    assert fit.difference("a", "c") == pytest.approx(fit.strengths["a"] - fit.strengths["c"])
    for compared in (fit, sandwich(fit)):
        with pytest.raises(ValueError, match="no chain of judgements connects them"):
            compared.difference("a", "x")


def test_parts_do_not_touch_each_other():
    one, two = [Outcome("a", "b", 1.0)] * 2 + [Outcome("b", "c", 0.5)], [Outcome("x", "y", 0.0), Outcome("x", "y", 1.0)]
    both = fit_games(games(one + two)).strengths
    assert both == pytest.approx({**fit_games(games(one)).strengths, **fit_games(games(two)).strengths}, abs=1e-9)


def test_a_wider_level_is_a_wider_interval():
    fit = fit_games(games(played(np.random.default_rng(3), 100)))
    narrow, wide = sandwich(fit, level=0.5).strength("a"), sandwich(fit, level=0.99).strength("a")
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert 2 * ndtr((wide.high - wide.value) / sandwich(fit).covariance[0, 0] ** 0.5) - 1 == pytest.approx(0.99)


def test_intervals_that_do_not_exist_are_refused():
    alone = fit_games(games([Outcome("a", "b", 0.5)]))
    with pytest.raises(ValueError, match="two judgements"):
        sandwich(alone)
    judged = [Outcome("a", "b", 1.0), Outcome("a", "b", 0.0)]
    with pytest.raises(ValueError, match="use a prior > 0"):
        bootstrap(fit_games(games(judged), prior=0), np.random.default_rng(0))
    with pytest.raises(ValueError, match="precision"):
        fit_games(games(judged), prior=-1)


def test_intervals_of_rankings_cover_the_truth_too():
    items, worth = list(TRUTH), np.array(list(TRUTH.values()))
    covered = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        ranked = np.argsort(-(worth + rng.gumbel(size=(80, 4))), axis=1)
        found = sandwich(fit_orders([Order(tuple((items[i],) for i in row)) for row in ranked], prior=0))
        for first, second in ("ab", "ad", "cd"):
            interval = found.difference(first, second)
            covered.append(interval.low <= TRUTH[first] - TRUTH[second] <= interval.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)
