import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import kendalltau, spearmanr

from clew.feedback.aggregate import Outcome, bradley_terry
from clew.feedback.crowd_bt import TRUSTED, _Votes, crowd_bt, negative_log_posterior

PEOPLE = [f"p{i}" for i in range(15)]


def simulated(seed: int, *, adversaries: int = 3, votes: int = 60, honest: float = 0.9):
    """METHODS E4: 12 items, 15 annotators with 60 votes each, a fifth of them mostly opposite."""
    rng = np.random.default_rng(seed)
    strengths = rng.normal(size=12)
    reliability = np.where(np.arange(15) < adversaries, 0.1, honest)
    judged = []
    for rater, right in zip(PEOPLE, reliability, strict=True):
        for _ in range(votes):
            i, j = rng.choice(12, size=2, replace=False)
            wins = rng.random() < expit(strengths[i] - strengths[j])
            judged.append(Outcome(f"i{i:02}", f"i{j:02}", float(wins == (rng.random() < right)), rater=rater))
    return judged, {f"i{i:02}": s for i, s in enumerate(strengths)}, reliability


def tau(found, truth):
    return kendalltau([found[k] for k in truth], list(truth.values())).statistic


def test_gradient_is_that_of_finite_differences():
    judged, _, _ = simulated(1, votes=8)
    shares, weights = np.linspace(0, 1, len(judged)), np.linspace(0.5, 2, len(judged))
    soft = [o._replace(probability=p, weight=w) for o, p, w in zip(judged, shares, weights, strict=True)]
    votes = _Votes.of(soft, PEOPLE[:7])
    x = np.random.default_rng(5).normal(size=len(votes.items) + len(votes.raters))
    gradient = negative_log_posterior(x, votes, prior=0.1)[1]
    for i, step in enumerate(1e-5 * np.eye(len(x))):
        up, down = (negative_log_posterior(x + s * step, votes, prior=0.1)[0] for s in (1, -1))
        assert (up - down) / 2e-5 == pytest.approx(gradient[i], abs=1e-6)


def test_likelihood_does_not_know_an_order_from_its_mirror_image():
    judged, _, _ = simulated(2, votes=5)
    votes = _Votes.of(judged, [])  # flat priors, which are their own mirror image
    x = np.random.default_rng(0).normal(size=len(votes.items) + len(votes.raters))
    value, gradient = negative_log_posterior(x, votes, prior=0.1)
    mirrored, slope = negative_log_posterior(-x, votes, prior=0.1)
    assert mirrored == pytest.approx(value, rel=1e-12)
    assert slope == pytest.approx(-gradient)


def test_one_vote_at_the_start_worked_by_hand():
    # s = 0: P = 1/2 whatever the reliability, log 2; the slope of D is -(2 h - 1) / 2, here h = 0.8
    votes = _Votes.of([Outcome("a", "b", 1.0, rater="p")], ["p"])
    a, b = TRUSTED
    value, gradient = negative_log_posterior(np.array([0.0, 0.0, np.log(4)]), votes, prior=0.0)
    assert value == pytest.approx(np.log(2) - a * np.log(0.8) - b * np.log(0.2))
    assert gradient == pytest.approx([-0.3, 0.3, -a * 0.2 + b * 0.8])


def test_nobody_who_errs_leaves_bradley_terry():
    rng = np.random.default_rng(0)
    s = rng.normal(size=6)
    judged = [
        Outcome(f"i{i}", f"i{j}", float(rng.random() < expit(s[i] - s[j])), rater="")
        for i, j in rng.integers(6, size=(400, 2))
        if i != j
    ]
    votes = _Votes.of(judged, [""])
    plain = bradley_terry(judged)
    x = np.array([*(plain[name] for name in votes.items), 40.0])
    slope = negative_log_posterior(x, votes, prior=0.1)[1]
    assert np.abs(slope[:-1]).max() < 1e-4


def test_adversaries_are_found_and_used_and_the_order_is_better_on_the_mean():
    plain, crowd, found, rank = [], [], [], []
    for seed in range(20):
        judged, truth, reliability = simulated(seed)
        result = crowd_bt(judged, trusted=PEOPLE)
        plain.append(tau(bradley_terry(judged), truth))
        crowd.append(tau(result.strengths, truth))
        believed = np.array([result.reliability[p] for p in PEOPLE])
        found.append(((believed < 0.5) == (reliability < 0.5)).all())
        rank.append(spearmanr(believed, reliability).statistic)
    assert np.mean(crowd) > np.mean(plain) + 0.05  # METHODS E4: .768 -> .852
    assert np.mean(crowd) > 0.8
    assert np.mean(np.array(crowd) >= plain) >= 0.75
    assert np.mean(found) >= 0.95
    assert np.mean(rank) > 0.5


def test_an_ai_judge_is_believed_as_far_as_it_agrees_with_people():
    judged, _, _ = simulated(3, adversaries=0)
    rng = np.random.default_rng(0)
    pairs = [(o.first, o.second) for o in judged[:400]]
    people = crowd_bt(judged, trusted=PEOPLE).strengths
    log_odds = {}
    for name, right in (("good", 0.95), ("coin", 0.5), ("opposite", 0.05)):
        said = [Outcome(a, b, float((people[a] > people[b]) == (rng.random() < right)), rater=name) for a, b in pairs]
        log_odds[name] = crowd_bt([*judged, *said], trusted=PEOPLE).reliability[name]
    assert log_odds["good"] > 0.9
    assert log_odds["coin"] == pytest.approx(0.5, abs=0.12)
    assert log_odds["opposite"] < 0.1


def test_without_people_the_sign_is_ambiguous_and_refused():
    judged, _, _ = simulated(0)
    with pytest.raises(ValueError, match="share no item with a trusted one"):
        crowd_bt(judged, trusted=[])
    apart = [*judged, Outcome("x", "y", 1.0, rater="judge")]
    with pytest.raises(ValueError, match="'judge'"):
        crowd_bt(apart, trusted=PEOPLE)
    crowd_bt([*apart, Outcome("x", "i00", 1.0, rater="p1")], trusted=PEOPLE)


def test_renaming_and_reordering_change_nothing():
    judged, truth, _ = simulated(4, votes=20)
    whole = crowd_bt(judged, trusted=PEOPLE)
    turned = [Outcome(o.second, o.first, 1 - o.probability, rater=o.rater) for o in reversed(judged)]
    again = crowd_bt(turned, trusted=PEOPLE)
    assert [again.strengths[k] for k in truth] == pytest.approx([whole.strengths[k] for k in truth], abs=1e-4)


def test_nothing_judged_is_nothing_known():
    assert crowd_bt([], trusted=PEOPLE) == ({}, {})
