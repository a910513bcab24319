import numpy as np
import pytest
from scipy.special import expit

from clew.feedback.aggregate import Outcome
from clew.feedback.opinions import declared_difference, found_difference, kinships
from clew.feedback.tastes import Ballots, consensus, residuals, unseen


def crowd(seed, cares, *, items=24, votes=80):
    """Raters who care so much for worth and for another attribute. Gives judgements, worth, attribute."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(items, 2))
    judged = []
    for u, care in enumerate(cares):
        for _ in range(votes):
            i, j = rng.choice(items, 2, replace=False)
            says = float(rng.random() < expit((values[i] - values[j]) @ care))
            judged.append(Outcome(f"i{i:02}", f"i{j:02}", says, rater=f"r{u:02}"))
    return judged, values[:, 0], values[:, 1]


MOST, OTHER, TROLL, COIN = (3, 0), (0, 3), (-3, 0), (0, 0)
HALVES = {f"r{u:02}": "ab"[u >= 6] for u in range(12)}


def test_declared_groups_of_two_opinions_differ():
    judged, worth, other = crowd(0, [MOST] * 6 + [OTHER] * 6)
    found = declared_difference(judged, HALVES, permutations=199)
    assert found.p_value == 1 / 200
    ours, theirs = ([found.strengths[g][f"i{k:02}"] for k in range(24)] for g in "ab")
    assert np.corrcoef(ours, worth)[0, 1] > 0.95
    assert np.corrcoef(theirs, other)[0, 1] > 0.95
    item, gap = found.contested(1)[0]
    assert gap == pytest.approx(abs(ours[int(item[1:])] - theirs[int(item[1:])]))
    assert gap == max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def test_groups_of_one_opinion_differ_no_more_often_than_by_chance():
    p = [declared_difference(crowd(s, [MOST] * 12)[0], HALVES, permutations=49).p_value for s in range(10)]
    assert np.mean(np.array(p) <= 0.1) <= 0.3  # 0.1 and two standard errors
    assert np.mean(p) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("care", [TROLL, COIN, (1, 0)])
def test_trolls_and_the_careless_are_no_other_opinion(care):
    """Their slope explains them; without it the group of trolls would pass for one."""
    judged, _, _ = crowd(1, [MOST] * 9 + [care] * 3)
    groups = {f"r{u:02}": "ab"[u >= 9] for u in range(12)}
    assert declared_difference(judged, groups, permutations=199).p_value > 0.05
    if care == TROLL:
        ballots = Ballots.of(judged)
        fit = consensus(ballots)
        crude = residuals(ballots, fit._replace(care=np.ones_like(fit.care)))
        within = crude[9:] @ crude[9:].T
        assert within[np.triu_indices(3, 1)].min() > 3 * np.abs(crude[9:] @ crude[:9].T).mean()


def test_a_minority_is_found_in_the_votes_alone():
    minority = {"r09", "r10", "r11", "r12"}
    found = found_difference(crowd(0, [MOST] * 9 + [OTHER] * 4)[0])
    assert found.p_value < 1e-3
    apart = {name for name, group in found.groups.items() if group != "consensus"}
    assert len({found.groups[name] for name in apart & minority}) == 1
    assert len(apart & minority) >= 3
    assert len(apart - minority) <= 1


def test_no_minority_is_found_where_there_is_none():
    found = found_difference(crowd(0, [MOST] * 9 + [TROLL, TROLL, COIN])[0])
    assert set(found.groups.values()) == {"consensus"}


def test_trolls_and_spammers_share_no_taste_and_a_minority_does():
    judged, _, _ = crowd(2, [MOST] * 8 + [OTHER] * 4 + [TROLL, TROLL, COIN, COIN])
    ballots = Ballots.of(judged)
    kin = kinships(ballots, unseen(ballots))
    assert all(k.is_shared() for k in kin[8:12])
    assert not any(k.is_shared() for k in kin[12:])
    assert all(k.lean < -0.8 for k in kin[12:14])
    assert all(k.lean > 0.8 for k in kin[:8])


def test_every_rater_needs_a_group_and_there_must_be_two():
    judged, _, _ = crowd(3, [MOST] * 2, votes=5)
    with pytest.raises(ValueError, match="none for"):
        declared_difference(judged, {"r00": "a"})
    with pytest.raises(ValueError, match="two groups"):
        declared_difference(judged, {"r00": "a", "r01": "a"})
