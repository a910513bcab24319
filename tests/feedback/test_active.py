from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import kendalltau

from clew.feedback.active import (
    SELECTIONS,
    Posterior,
    bald,
    d_optimal,
    d_optimal_batch,
    disagreement,
    fitted,
    highest,
    information,
    mixed,
    thompson,
)


def random_pairs(seed: int, num: int = 30, width: int = 5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, width)), rng


def test_the_gain_in_log_det_is_that_of_brute_force():
    gaps, rng = random_pairs(0)
    posterior = fitted(gaps[:12], rng.random(12))
    before = np.linalg.inv(posterior.covariance_DD)
    for gain, v in zip(d_optimal(gaps, posterior), gaps, strict=True):
        p = expit(v @ posterior.mean_D)
        brute = np.linalg.slogdet(before + p * (1 - p) * np.outer(v, v))[1] - np.linalg.slogdet(before)[1]
        assert gain == pytest.approx(brute, abs=1e-12)


def test_a_batch_is_the_greedy_one_by_brute_force():
    gaps, rng = random_pairs(1)
    posterior = fitted(gaps[:8], rng.random(8))
    known, expected = np.linalg.inv(posterior.covariance_DD), []
    p = expit(gaps @ posterior.mean_D)
    for _ in range(6):
        gains = [
            -np.inf if i in expected else np.linalg.slogdet(known + p[i] * (1 - p[i]) * np.outer(v, v))[1]
            for i, v in enumerate(gaps)
        ]
        expected.append(int(np.argmax(gains)))
        known = known + p[expected[-1]] * (1 - p[expected[-1]]) * np.outer(gaps[expected[-1]], gaps[expected[-1]])
    assert d_optimal_batch(gaps, posterior, 6).tolist() == expected


def test_a_batch_holds_no_twins():
    posterior = Posterior(np.zeros(2), np.eye(2))
    gaps = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 1.5]])
    assert np.argsort(-d_optimal(gaps, posterior), kind="stable")[:2].tolist() == [0, 1]  # the wrong way
    assert d_optimal_batch(gaps, posterior, 2).tolist() == [0, 2]


def test_of_equally_uncertain_pairs_the_one_near_a_half_is_asked():
    posterior = Posterior(np.array([2.0, 0.0]), np.eye(2))
    angles = np.linspace(0, np.pi / 2, 7)
    gaps = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert int(np.argmax(d_optimal(gaps, posterior))) == 6


def test_information_of_a_tournament_lacks_one_rank_which_the_prior_mends():
    pairs = np.eye(4)[[0, 1, 2]] - np.eye(4)[[1, 2, 3]]
    assert np.linalg.matrix_rank(information(pairs, np.zeros(3))) == 3
    assert np.isfinite(fitted(pairs, np.ones(3)).covariance_DD).all()


def test_information_worked_by_hand():
    # p = sigma(log 3) = 3/4: 3/16 of v v'
    assert information(np.array([[1.0, 2.0]]), np.array([np.log(3)])) == pytest.approx(np.array([[3, 6], [6, 12]]) / 16)


def test_without_rows_the_posterior_is_the_prior():
    posterior = fitted(np.zeros((0, 3)), np.zeros(0), prior=4.0)
    assert posterior.mean_D.tolist() == [0, 0, 0]
    assert posterior.covariance_DD == pytest.approx(np.eye(3) / 4)


def test_weights_count_rows():
    gaps, rng = random_pairs(2, num=6)
    said = rng.random(6)
    twice = fitted(np.concatenate([gaps, gaps]), np.concatenate([said, said]))
    once = fitted(gaps, said, weight_N=np.full(6, 2.0))
    assert once.mean_D == pytest.approx(twice.mean_D, abs=1e-4)


def test_drawn_weights_have_the_posterior_moments():
    covariance = np.array([[2.0, 0.6], [0.6, 0.5]])
    weights = Posterior(np.array([1.0, -1.0]), covariance).drawn(20_000, np.random.default_rng(0))
    assert weights.mean(0) == pytest.approx([1, -1], abs=0.05)
    assert np.cov(weights.T) == pytest.approx(covariance, abs=0.06)


def test_disagreement_worked_by_hand():
    same, sure = [0.7, 0.7], [np.log(3), -np.log(3)]  # chances 3/4 and 1/4
    assert disagreement(np.array([same, sure]).T) == pytest.approx([0, 1 / 16])


def test_bald_worked_by_hand_and_not_fooled_by_coins():
    margins = np.array([[0.0, 0.0], [40.0, -40.0]]).T  # two who agree that it is a coin; two sure of the opposite
    assert bald(margins) == pytest.approx([0, np.log(2)], abs=1e-9)


def test_thompson_asks_about_two_candidates_for_the_best():
    rng = np.random.default_rng(0)
    values = np.array([[3.0, 2.0, 0.0], [1.0, 2.0, 0.0]])  # one member has 0 first, the other 1; nobody has 2
    assert {frozenset(thompson(values, rng)) for _ in range(20)} == {frozenset((0, 1))}
    agreed = np.array([[3.0, 1.0, 2.0]] * 3)
    assert thompson(agreed, rng) == (0, 2)


def test_identical_members_leave_it_to_chance():
    scores = disagreement(np.ones((5, 40)))
    picks = [highest(scores, 5, np.random.default_rng(seed)) for seed in range(50)]
    assert len({int(i) for pick in picks for i in pick}) > 30
    assert highest(np.array([0.1, 3.0, 2.0]), 2, np.random.default_rng(0)).tolist() == [1, 2]


def test_a_share_is_drawn_at_random_from_the_others():
    rng = np.random.default_rng(0)
    picks = [mixed(np.arange(20), 100, 20, rng, explored=0.25) for _ in range(200)]
    assert all(p[:15].tolist() == list(range(15)) for p in picks)
    rest = np.concatenate([p[15:] for p in picks])
    assert rest.min() >= 15
    assert (np.bincount(rest, minlength=100)[15:] > 0).all()


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_every_selection_gives_different_pairs_the_same_for_a_seed(select):
    gaps, rng = random_pairs(3)
    posterior = fitted(gaps[:5], rng.random(5))
    once, again = (select(gaps, posterior, 12, np.random.default_rng(1)) for _ in range(2))
    assert once.tolist() == again.tolist()
    assert len(set(once.tolist())) == 12
    assert sorted(select(gaps, posterior, 30, rng).tolist()) == list(range(30))


def test_more_pairs_than_there_are_cannot_be_asked_about():
    gaps, rng = random_pairs(3)
    with pytest.raises(ValueError, match="31 pairs wanted of 30"):
        SELECTIONS["d_optimal"](gaps, fitted(gaps, rng.random(30)), 31, rng)


def tournament_tau(seed: int, *, adaptive: bool, queries: int = 60) -> list[float]:
    rng = np.random.default_rng(seed)
    strengths = 3 * rng.normal(size=15)
    first, second = np.triu_indices(15, 1)
    pairs = np.eye(15)[first] - np.eye(15)[second]
    said = (rng.random(len(pairs)) < expit(pairs @ strengths)).astype(float)
    asked, found = [int(i) for i in rng.permutation(len(pairs))[:10]], list[float]()
    while len(asked) < queries:
        posterior = fitted(pairs[asked], said[asked], prior=0.3)
        left = np.setdiff1d(np.arange(len(pairs)), asked)
        picked = d_optimal_batch(pairs[left], posterior, 5) if adaptive else rng.permutation(len(left))[:5]
        asked += left[picked].tolist()
        found.append(kendalltau(fitted(pairs[asked], said[asked], prior=0.3).mean_D, strengths).statistic)
    return found


def test_after_equally_many_questions_choosing_is_at_least_as_good_on_the_mean():
    ours, random = (np.mean([tournament_tau(s, adaptive=a) for s in range(8)], 0) for a in (True, False))
    assert ours[-1] > random[-1] + 0.02
    assert all(b > a for a, b in pairwise([random[0], random[-1]]))
