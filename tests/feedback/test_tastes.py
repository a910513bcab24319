import numpy as np
import pytest
from scipy.special import expit

from clew.feedback.aggregate import Outcome
from clew.feedback.tastes import Ballots, calibrated, consensus, regression, unseen, with_taste


def crowd(rng, slopes, *, items=20, votes=100, beside=None):
    """Votes by logistic raters: slopes on worth, and on a taste beside it. Gives judgements, worth, taste."""
    worth, taste = rng.normal(size=(2, items))
    judged = []
    for u, slope in enumerate(slopes):
        for _ in range(votes):
            i, j = rng.choice(items, 2, replace=False)
            logit = slope * (worth[i] - worth[j]) + (beside[u] * (taste[i] - taste[j]) if beside else 0)
            judged.append(Outcome(f"i{i:02}", f"i{j:02}", float(rng.random() < expit(logit)), rater=f"r{u:02}"))
    return judged, worth, taste


def test_two_items_and_one_rater_worked_by_hand():
    """At the maximum every slope of the posterior is zero; checked by differences, with the model written out anew."""
    judged = [Outcome("a", "b", 1.0, rater="r")] * 3 + [Outcome("a", "b", 0.0, rater="r")]
    fit = consensus(Ballots.of(judged), prior=0.3)

    def posterior(a, b, care, left):
        p = expit(care * (a - b) + left)
        return 3 * np.log(p) + np.log(1 - p) - 0.15 * (a**2 + b**2) - 2 * (care - 1) ** 2 - left**2 / 2

    at = np.array([*fit.worth[:, 0], fit.care[0, 0], fit.left[0]])
    for step in 1e-4 * np.eye(4):
        assert posterior(*(at + step)) - posterior(*(at - step)) == pytest.approx(0, abs=2e-4)
    assert fit.worth[0, 0] > 0 > fit.worth[1, 0]


def test_turning_every_pair_round_turns_only_the_left_bias():
    judged, _, _ = crowd(np.random.default_rng(0), [2, 1, -1])
    turned = [Outcome(o.second, o.first, 1 - o.probability, rater=o.rater) for o in reversed(judged)]
    one, other = consensus(Ballots.of(judged)), consensus(Ballots.of(turned))
    assert other.worth == pytest.approx(one.worth, abs=0.02)
    assert other.care == pytest.approx(one.care, abs=0.02)
    assert other.left == pytest.approx(-one.left, abs=0.02)


def test_slopes_and_worth_are_recovered_with_trolls_turned_round():
    judged, worth, _ = crowd(np.random.default_rng(1), [2, 2, 2, 2, 0, -2, -2], votes=300)
    fit = consensus(Ballots.of(judged))
    assert np.corrcoef(fit.worth[:, 0], worth)[0, 1] > 0.99
    relative = fit.care[:, 0] / fit.care[:4, 0].mean()
    assert relative == pytest.approx([1, 1, 1, 1, 0, -1, -1], abs=0.25)


def test_a_common_taste_is_found_and_what_one_rater_does_alone_is_not():
    rng = np.random.default_rng(2)
    judged, _, taste = crowd(rng, [2] * 8 + [0] * 3, beside=[0] * 8 + [2] * 3, votes=150)
    ballots = Ballots.of(judged)
    both = with_taste(ballots, consensus(ballots))
    assert abs(np.corrcoef(both.worth[:, 1], taste)[0, 1]) > 0.8
    alone, _, own = crowd(rng, [2] * 8 + [0], beside=[0] * 8 + [2], votes=150)
    ballots = Ballots.of(alone)
    mine = ballots.rater == 8
    assert abs(np.corrcoef(unseen(ballots).taste[mine], (own[ballots.first] - own[ballots.second])[mine])[0, 1]) < 0.5


def test_what_is_unseen_does_not_depend_on_the_raters_own_votes():
    judged, _, _ = crowd(np.random.default_rng(3), [2] * 5)
    ballots = Ballots.of(judged)
    mine = ballots.rater == 2
    lied = Ballots.of([o._replace(probability=1 - o.probability) if o.rater == "r02" else o for o in judged])
    assert unseen(lied).consensus[mine] == pytest.approx(unseen(ballots).consensus[mine])
    assert consensus(lied).contrast(lied)[mine] != pytest.approx(consensus(ballots).contrast(ballots)[mine])


def test_who_copies_is_left_out_with_whom_it_copies():
    judged, _, _ = crowd(np.random.default_rng(4), [2, 2, 2, 2, 0], votes=40)
    judged += [o._replace(rater="r99") for o in judged if o.rater == "r04"]
    ballots = Ballots.of(judged)
    mine = ballots.rater == 4
    apart, together = unseen(ballots), unseen(ballots, together=[("r99", "r04")])
    agree = [np.corrcoef(seen.taste[mine], ballots.says[mine])[0, 1] for seen in (apart, together)]
    assert abs(agree[0]) > 0.5 > 0.3 > abs(agree[1])


def test_nobody_follows_a_consensus_that_is_not_there():
    slopes = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        judged, _, _ = crowd(rng, [0] * 8, votes=40)
        ballots = Ballots.of(judged)
        noise = rng.normal(size=len(ballots.says))
        slopes.append(calibrated(noise, ballots)[0] / noise[0])
    assert np.mean(slopes) < 0.1


def test_a_calibrated_consensus_is_as_steep_as_those_who_follow_it():
    rng = np.random.default_rng(5)
    judged, worth, _ = crowd(rng, [2, 2, 2, 0, 0, -2], votes=400)
    ballots = Ballots.of(judged)
    gap = worth[ballots.first] - worth[ballots.second]
    assert calibrated(10 * gap, ballots) == pytest.approx(2 * gap, rel=0.25)


def test_regression_agrees_with_the_score_equations():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(200, 2))
    says = (rng.random(200) < expit(x @ [1.0, -0.5] + 0.3)).astype(float)
    line = regression(x, says)
    miss = says - expit(x @ line.slopes + line.intercept)
    assert x.T @ miss == pytest.approx(0.3 * line.slopes, abs=1e-6)
    assert miss.sum() == pytest.approx(0.1 * line.intercept, abs=1e-6)


def test_ties_are_left_out_and_nameless_judgements_refused():
    assert len(Ballots.of([Outcome("a", "b", 0.5, rater="r"), Outcome("a", "b", 1.0, rater="r")]).says) == 1
    with pytest.raises(ValueError, match="must name its rater"):
        Ballots.of([Outcome("a", "b", 1.0)])
