import numpy as np

from clew.feedback.crowd import Votes
from clew.feedback.mace import mace
from tests.feedback.crowds import crowd, never_falls


def with_guesser(label: int, *, items: int = 300, seed: int = 0) -> tuple[Votes, np.ndarray]:
    """Three good raters and one who always says the same."""
    votes, truth = crowd([0.9, 0.9, 0.8, 0.5], items=items, classes=3, seed=seed)
    said = np.where(votes.rater == 3, label, votes.label)
    return Votes(votes.item, votes.rater, said, votes.items, votes.raters, votes.classes), truth


def test_a_constant_rater_is_known_by_competence_and_habit():
    votes, truth = with_guesser(label=2)
    found = mace(votes)
    assert found.competence[3] < 0.1
    assert found.competence[:3].min() > 0.6
    np.testing.assert_allclose(found.consensus.confusion[3], np.tile([0.05, 0.05, 0.9], (3, 1)), atol=0.1)
    assert (found.consensus.best == truth).mean() > 0.93


def test_competence_is_the_chance_not_to_guess():
    """A rater right with chance .7 of three classes who guesses evenly else: .7 = c + (1 - c) / 3, so c = .55."""
    votes, _ = crowd([0.7] * 8, items=1500, classes=3)
    np.testing.assert_allclose(mace(votes, restarts=3).competence, 0.55, atol=0.06)


def test_restarts_differ_and_the_best_is_kept():
    """crowd-kit seeds all of its restarts alike: ten restarts then are one."""
    votes, _ = with_guesser(label=1, items=40)
    first_steps = {mace(votes, restarts=1, max_steps=1, seed=s).consensus.trace[0] for s in range(4)}
    assert len(first_steps) == 4
    best = [mace(votes, restarts=n, max_steps=2, seed=0).consensus.trace[-1] for n in (1, 3, 6)]
    assert best == sorted(best)
    assert best[0] < best[-1]


def test_the_same_seed_gives_the_same_answer():
    votes, _ = with_guesser(label=0, items=40)
    np.testing.assert_array_equal(mace(votes, seed=3).consensus.posterior, mace(votes, seed=3).consensus.posterior)


def test_the_lower_bound_never_falls_from_any_start():
    votes, _ = crowd([0.8, 0.6, 0.4, 0.4], items=50, classes=4)
    assert all(never_falls(mace(votes, restarts=1, seed=s).consensus.trace) for s in range(5))


def test_a_rater_of_one_item_stays_near_the_prior():
    votes, _ = crowd([0.9] * 4, items=100, classes=3)
    last = votes.only((votes.rater != 3) | (votes.item == 0))
    assert 0.2 < mace(last).competence[3] < 0.8 < mace(last).competence[:3].min()
