import numpy as np
import pytest

from clew.feedback.aggregate import Outcome
from clew.feedback.crowd_bt import crowd_bt
from clew.feedback.trust import Belief, belief, reliabilities

PEOPLE = {f"p{i:02}" for i in range(20)}


def audited(seed: int, *, pairs: int = 1500, share: float = 0.1) -> list[Outcome]:
    """Each pair judged by one rater, a tenth by three; p00 .. p05 flip 80 %, the others 5 %."""
    rng = np.random.default_rng(seed)
    judged = []
    for pair in range(pairs):
        for rater in rng.choice(20, size=3 if rng.random() < share else 1, replace=False):
            right = rng.random() >= (0.8 if rater < 6 else 0.05)
            first, second = (f"{pair} a", f"{pair} b") if rng.random() < 0.5 else (f"{pair} b", f"{pair} a")
            judged.append(Outcome(first, second, float(right == first.endswith("a")), rater=f"p{rater:02}"))
    return judged


def test_adversaries_are_found_by_a_tenth_of_the_pairs():
    wrong = []
    for seed in range(10):
        found = reliabilities(audited(seed), trusted=PEOPLE)
        wrong += [(found[name] < 0.5) != (name < "p06") for name in sorted(PEOPLE)]
        assert np.mean([found[f"p{i:02}"] for i in range(6)]) == pytest.approx(0.3, abs=0.12)  # 0.2, and the prior
    assert np.mean(wrong) < 0.02


def test_fitting_the_truth_of_every_pair_finds_nobody():
    # the wrong way here: the strengths of items in one comparison agree with whoever judged them
    assert min(crowd_bt(audited(0), trusted=PEOPLE).reliability.values()) > 0.9


def test_one_step_worked_by_hand_is_a_fixed_point():
    # two trusted raters who say the same of 10 pairs: h = (4 + 10 q) / 15 with q = h^2 / (h^2 + (1 - h)^2)
    same = [Outcome(f"{i}a", f"{i}b", 1.0, rater=r) for i in range(10) for r in "xy"]
    h = reliabilities(same, trusted="xy")["x"]
    assert h == pytest.approx((4 + 10 * h**2 / (h**2 + (1 - h) ** 2)) / 15, abs=1e-8)
    assert h > 0.9


def test_who_judges_alone_stays_what_the_prior_expects():
    alone = [Outcome(f"{i}a", f"{i}b", 1.0, rater="x") for i in range(50)]
    assert reliabilities(alone, trusted="x") == {"x": pytest.approx(0.8)}
    assert reliabilities([], trusted="x") == {}


def test_a_judge_is_worth_what_people_bear_out():
    rng = np.random.default_rng(0)
    people = [Outcome(f"{i}a", f"{i}b", float(rng.random() < 0.95), rater=r) for i in range(200) for r in ("p1", "p2")]
    for right, low, high in ((0.95, 0.88, 1.0), (0.5, 0.4, 0.6), (0.05, 0.0, 0.12)):
        judge = [Outcome(f"{i}b", f"{i}a", float(rng.random() >= right), rater="judge") for i in range(200)]
        assert low < reliabilities([*people, *judge], trusted={"p1", "p2"})["judge"] < high
    unsure = [Outcome(f"{i}a", f"{i}b", 0.5, rater="judge") for i in range(200)]
    assert reliabilities([*people, *unsure], trusted={"p1", "p2"})["judge"] == pytest.approx(0.5)


def test_without_people_the_sign_is_ambiguous_and_refused():
    same = [Outcome("a", "b", 1.0, rater=r) for r in "xy"]
    with pytest.raises(ValueError, match="share no item with a trusted one"):
        reliabilities(same, trusted=())
    with pytest.raises(ValueError, match="'judge'"):
        reliabilities([*same, Outcome("c", "d", 1.0, rater="judge")], trusted="xy")


def test_beliefs_worked_by_hand():
    assert belief([(1.0, 0.9)]) == pytest.approx(Belief(0.9, 1.0))
    assert belief([(1.0, 0.1)]) == pytest.approx(Belief(0.1, 1.0))  # an adversary's vote is for the other
    # odds 9 * 9 / 1.5 = 54; the pull 0.4 + 0.4 - 0.1 over 54/55 - 1/2
    assert belief([(1.0, 0.9), (1.0, 0.9), (0.0, 0.6)]) == pytest.approx(Belief(54 / 55, 0.7 / (54 / 55 - 0.5)))


def test_votes_that_say_nothing_have_no_weight():
    assert belief([(1.0, 0.5)]) == Belief(0.5, 0.0)
    assert belief([(0.5, 0.9)]) == Belief(0.5, 0.0)
    assert belief([(1.0, 0.8), (0.0, 0.8)]) == Belief(0.5, 0.0)


def test_nobody_is_infallible():
    assert belief([(1.0, 1.0)]).probability == pytest.approx(0.99)
    assert belief([(1.0, 1.0), (0.0, 1.0), (1.0, 1.0)]).probability == pytest.approx(0.99)
