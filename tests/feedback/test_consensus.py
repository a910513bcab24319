import time

import numpy as np
import pytest

from clew.feedback.consensus import choice, consensus, equal_raters, held_out_gain, hierarchical, least_class_lead
from clew.feedback.crowd import Vote, Votes, dawid_skene, majority, one_coin
from tests.feedback.crowds import crowd, share_right


def with_hard_items(seed: int = 0, *, items: int = 400) -> tuple[Votes, np.ndarray]:
    """A common class, a rare one, and many items on which raters toss coins: EM takes "hard" for the rare class."""
    votes, truth = crowd([0.9] * 30, items=items, seed=seed)
    rng = np.random.default_rng(seed + 1)
    truth = (rng.random(items) < 0.15).astype(int)
    hard = rng.random(items) < 0.4
    right = rng.random(len(votes.item)) < np.where(hard[votes.item], 0.55, 0.92)
    label = np.where(right, truth[votes.item], 1 - truth[votes.item])
    return Votes(votes.item, votes.rater, label, votes.items, votes.raters, votes.classes), truth


def test_a_few_good_raters_among_many_poor_ones_are_believed():
    votes, truth = crowd([0.95, 0.95, 0.9] + [0.55] * 6, items=400)
    found = choice(votes)
    assert not found.is_majority
    assert found.gain > 5
    assert share_right(found.consensus, truth) > share_right(majority(votes), truth) + 0.05


def test_equal_raters_get_the_majority():
    votes, _ = crowd([0.75] * 40, items=150, overlap=3, classes=3)
    found = choice(votes)
    assert found.is_majority
    assert found.gain < 5
    np.testing.assert_array_equal(found.consensus.posterior, majority(votes).posterior)


def test_a_model_whose_class_is_not_the_class_is_not_believed():
    """The published methods lose more than ten points here, though they predict unseen votes much better."""
    votes, truth = with_hard_items()
    plain = share_right(majority(votes), truth)
    assert share_right(dawid_skene(votes), truth) < plain - 0.1
    found = choice(votes)
    assert held_out_gain(votes, hierarchical, equal_raters) > 5
    assert found.lead < 0.2
    assert found.is_majority
    assert share_right(consensus(votes), truth) == plain


def test_votes_alone_cannot_tell_camps_apart_and_the_majority_stays():
    """Half of the raters call everything the other way round: no class is said oftener where it is true."""
    votes, _ = crowd([0.95] * 3 + [0.05] * 3, items=200)
    assert choice(votes).is_majority


def test_the_majority_of_an_item_is_overruled_only_at_high_odds():
    votes, _ = crowd([0.95, 0.9, 0.85] + [0.55] * 6, items=400)
    plain, bold, careful = majority(votes), choice(votes, least_odds=1.0).consensus, consensus(votes)
    overruled = bold.best != plain.best
    sure = bold.posterior.max(1) >= 10 * bold.posterior.min(1)
    np.testing.assert_array_equal(careful.best, np.where(overruled & ~sure, plain.best, bold.best))
    assert (overruled & sure).sum() > 10
    assert (overruled & ~sure).sum() > 0


def test_a_rater_of_few_votes_is_like_the_others_and_one_of_many_is_himself():
    votes, _ = crowd([0.9, 0.9, 0.9, 0.5], items=600)
    few = votes.only((votes.rater != 3) | (votes.item < 3))
    assert abs(hierarchical(votes).accuracy[3] - 0.5) < 0.06
    assert hierarchical(few).accuracy[3] > 0.65


def test_without_pull_it_is_dawid_skene_and_with_much_one_coin():
    votes, _ = crowd([0.9, 0.8, 0.7, 0.6], items=200)
    np.testing.assert_allclose(
        hierarchical(votes, strength=0.0).posterior, dawid_skene(votes, strength=0.0).posterior, atol=0.02
    )
    np.testing.assert_allclose(hierarchical(votes, strength=1e6).posterior, one_coin(votes).posterior, atol=0.02)


def test_equal_raters_decide_as_the_majority_does():
    votes, _ = crowd([0.9, 0.8, 0.7, 0.6, 0.5], items=300, classes=3)
    counts = votes.counts()
    clear = (counts == counts.max(1, keepdims=True)).sum(1) == 1
    np.testing.assert_array_equal(equal_raters(votes).best[clear], majority(votes).best[clear])


def test_a_model_gains_nothing_over_itself_and_loses_as_the_other_gains():
    votes, _ = crowd([0.9, 0.8, 0.5, 0.5], items=100)
    assert held_out_gain(votes, hierarchical, hierarchical) == 0
    there, back = held_out_gain(votes, hierarchical, equal_raters), held_out_gain(votes, equal_raters, hierarchical)
    assert there == pytest.approx(-back)
    assert there > 0


def test_unseen_votes_of_equal_raters_speak_for_no_model():
    """Were seen votes scored, a model of more parameters would always gain."""
    gains = []
    for seed in range(6):
        votes, _ = crowd([0.7] * 60, items=200, overlap=3, seed=seed)
        gains.append(held_out_gain(votes, dawid_skene, equal_raters))
    assert np.mean(gains) < 0


def test_lead_by_hand():
    """One rater right with .9 and .6, two classes: leads .8 and .2."""
    votes, truth = crowd([1.0], items=20)
    found = majority(votes)
    found.confusion[0] = [[0.9, 0.1], [0.4, 0.6]]
    assert least_class_lead(found) == pytest.approx(0.2)
    assert len(truth) == 20


def test_the_answer_repeats_and_does_not_depend_on_names_of_classes():
    votes, _ = crowd([0.95, 0.9, 0.6, 0.55, 0.5], items=200, classes=3)
    renamed = Votes(votes.item, votes.rater, np.array([2, 0, 1])[votes.label], votes.items, votes.raters, votes.classes)
    np.testing.assert_array_equal(consensus(votes).posterior, consensus(votes).posterior)
    np.testing.assert_allclose(consensus(renamed).posterior[:, [2, 0, 1]], consensus(votes).posterior, atol=1e-6)


def test_nothing_to_go_by_is_not_an_error():
    alone = Votes.of([Vote("a", "x", "yes")])
    assert choice(alone).is_majority
    assert consensus(alone).labels == {"a": "yes"}


def test_ten_thousand_votes_take_well_under_a_second():
    votes, _ = crowd([0.9, 0.7, 0.6] * 10, items=2000, overlap=5)
    started = time.perf_counter()
    dawid_skene(votes)
    assert time.perf_counter() - started < 0.5  # about .01 on an idle core
