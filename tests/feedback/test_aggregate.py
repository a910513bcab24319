import numpy as np
import pytest
from scipy.special import expit

from clew.feedback.aggregate import Outcome, bradley_terry, elo, outcomes
from clew.feedback.records import Comparison, Feedback, Ranking, Rater


def feedback(items, answer) -> Feedback:
    return Feedback(task_id="t", items=items, rater=Rater(id="r", kind="person"), answer=answer)


def test_two_items_worked_by_hand():
    # 3 wins of 4, no prior: the gap is logit(3/4) = log 3
    judged = [Outcome("a", "b", 1.0)] * 3 + [Outcome("a", "b", 0.0)]
    found = bradley_terry(judged, prior=0)
    assert found["a"] - found["b"] == pytest.approx(np.log(3), abs=1e-6)
    assert found["a"] + found["b"] == pytest.approx(0)


def test_score_equations_hold():
    """Wins equal expected wins for every item, less what the prior holds back."""
    rng = np.random.default_rng(0)
    judged = [Outcome(*rng.choice(list("abcde"), 2, replace=False), float(rng.random() < 0.5)) for _ in range(200)]
    for prior in (0.0, 0.5):
        s = bradley_terry(judged, prior=prior)
        for name in s:
            won = sum(
                o.probability if o.first == name else 1 - o.probability for o in judged if name in (o.first, o.second)
            )
            expected = sum(
                expit(s[o.first] - s[o.second]) if o.first == name else expit(s[o.second] - s[o.first])
                for o in judged
                if name in (o.first, o.second)
            )
            assert won - expected == pytest.approx(prior * s[name], abs=1e-4)


def test_order_direction_and_duplication_do_not_matter():
    rng = np.random.default_rng(1)
    judged = [Outcome(*rng.choice(list("abcd"), 2, replace=False), float(rng.random() < 0.6)) for _ in range(60)]
    base = bradley_terry(judged)
    turned = [Outcome(o.second, o.first, 1 - o.probability) for o in reversed(judged)]
    doubled = [o._replace(weight=0.5) for o in judged for _ in range(2)]
    for other in (turned, doubled):
        assert bradley_terry(other) == pytest.approx(base, abs=1e-5)


def test_the_truth_is_recovered():
    rng = np.random.default_rng(2)
    truth = dict(zip("abcdef", rng.normal(size=6), strict=True))
    judged = []
    for _ in range(20000):
        i, j = rng.choice(list(truth), 2, replace=False)
        judged.append(Outcome(i, j, float(rng.random() < expit(truth[i] - truth[j]))))
    found = bradley_terry(judged)
    centred = {k: v - np.mean(list(truth.values())) for k, v in truth.items()}
    assert found == pytest.approx(centred, abs=0.1)


def test_an_undefeated_item_needs_a_prior():
    judged = [Outcome("a", "b", 1.0), Outcome("b", "c", 1.0), Outcome("c", "b", 1.0)]
    with pytest.raises(ValueError, match="use a prior > 0"):
        bradley_terry(judged, prior=0)
    assert np.isfinite(list(bradley_terry(judged).values())).all()
    assert bradley_terry([]) == {}


def test_elo_keeps_its_sum_depends_on_order_and_expects_what_it_should():
    judged = [Outcome("a", "b", 1.0), Outcome("b", "c", 0.0), Outcome("c", "a", 0.5)]
    ratings = elo(judged, k=32)
    assert sum(ratings.values()) == pytest.approx(3000)
    assert ratings != elo(judged[::-1], k=32)
    assert elo(judged[:1], k=32) == {"a": 1016.0, "b": 984.0}


def test_outcomes_of_comparisons_and_rankings():
    records = [
        feedback(("a", "b"), Comparison(verdict="second")),
        feedback(("a", "b"), Comparison(verdict="unsure")),
        feedback(("a", "b"), Comparison(verdict="both_bad")),
        feedback(("a", "b", "c", "d"), Ranking(groups=((2,), (0, 1)), not_rankable=(3,))),
    ]
    judged = [
        Outcome("a", "b", 0.0, rater="r"),
        Outcome("c", "a", 1.0, rater="r"),
        Outcome("c", "b", 1.0, rater="r"),
        Outcome("a", "b", 0.5, rater="r"),
    ]
    assert outcomes(records) == judged
    merged = outcomes(records, both_bad="tie")
    assert merged == [judged[0], Outcome("a", "b", 0.5, rater="r"), *judged[1:]]
