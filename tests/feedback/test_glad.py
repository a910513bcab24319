import numpy as np
import pytest
from scipy.special import expit

from clew.feedback.crowd import Vote, Votes, majority
from clew.feedback.glad import glad
from tests.feedback.crowds import crowd, never_falls, share_right


def drawn(seed: int = 0, *, raters: int = 12, items: int = 400) -> tuple[Votes, np.ndarray, np.ndarray, np.ndarray]:
    """Votes as GLAD has them, with abilities, ease and truth."""
    rng = np.random.default_rng(seed)
    ability, ease, truth = rng.normal(1, 1, raters), np.exp(rng.normal(0, 1, items)), rng.integers(2, size=items)
    right = rng.random((items, raters)) < expit(np.outer(ease, ability))
    item, rater = np.repeat(np.arange(items), raters), np.tile(np.arange(raters), items)
    label = np.where(right, truth[:, None], 1 - truth[:, None]).ravel()
    names = tuple(f"{i:03}" for i in range(items)), tuple(f"{a:02}" for a in range(raters))
    return Votes(item, rater, label, *names, (0, 1)), ability, ease, truth


def test_abilities_and_ease_are_recovered():
    votes, ability, ease, truth = drawn()
    found = glad(votes)
    assert np.corrcoef(found.ability, ability)[0, 1] > 0.97
    assert np.corrcoef(np.log(found.ease), np.log(ease))[0, 1] > 0.6
    assert share_right(found.consensus, truth) > share_right(majority(votes), truth) + 0.02


def test_a_single_vote_by_hand():
    """One rater, one item: by symmetry the posterior is where p = sigma(a e), and both stay near their priors."""
    found = glad(Votes.of([Vote("i", "r", 0)], classes=(0, 1)))
    right = expit(found.ability[0] * found.ease[0])
    # the shares of the classes move towards the vote: posterior is prior odds times the odds of a right vote
    odds = found.consensus.shares[0] / found.consensus.shares[1] * right / (1 - right)
    assert found.consensus.posterior[0, 0] == pytest.approx(odds / (1 + odds), abs=1e-6)
    assert 0.9 < found.ability[0] < 1.5


def test_an_adversary_has_negative_ability():
    votes, truth = crowd([0.9, 0.85, 0.8, 0.8, 0.05])
    found = glad(votes)
    assert found.ability[4] < -0.5 < 0.5 < found.ability[:4].min()
    assert share_right(found.consensus, truth) > 0.95


def test_the_objective_rises_to_a_point_where_no_step_helps():
    votes, *_ = drawn(raters=5, items=30)
    found = glad(votes, max_steps=500)
    assert never_falls(found.consensus.trace)
    # there, expected votes right equal votes that sigma(a e) expects, less the pull of the prior
    posterior = found.consensus.posterior[votes.item, votes.label]
    expected = expit(found.ability[votes.rater] * found.ease[votes.item])
    pull = np.bincount(votes.rater, (posterior - expected) * found.ease[votes.item])
    np.testing.assert_allclose(pull, found.ability - 1, atol=2e-2)


def test_disputed_items_are_hard_ones():
    votes = Votes.of(
        Vote(f"{'easy' if i < 30 else 'hard'}{i}", f"r{a}", "y" if i < 30 or a % 2 else "n")
        for i in range(60)
        for a in range(6)
    )
    ease = glad(votes).ease
    assert ease[:30].min() > ease[30:].max()
