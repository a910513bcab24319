from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from clew.feedback.copying import copies
from clew.feedback.records import Comparison, Feedback, Rater

START = datetime(2026, 1, 1, tzinfo=UTC)


def said(rater, pair, is_first, *, minute=0, swapped=False):
    """Of the pair ("a3", "b3"), say; `is_first`: that a is better, on whichever side it is shown."""
    items = (f"a{pair}", f"b{pair}")
    answer = Comparison(verdict="first" if is_first != swapped else "second")
    return Feedback(
        task_id=f"{pair}{swapped}",
        items=items[::-1] if swapped else items,
        rater=Rater(id=rater, kind="person"),
        answer=answer,
        made_at=START + timedelta(minutes=minute),
    )


def crowd(seed=0, *, num=60, raters="abcd", right=0.85):
    rng = np.random.default_rng(seed)
    return [
        said(r, k, bool(rng.random() < right), minute=k, swapped=bool(rng.random() < 0.5))
        for r in raters
        for k in range(num)
    ]


def copy_of(records, source, name, *, later=60):
    taken = [r for r in records if r.rater.id == source]
    shift = timedelta(minutes=later)
    return [r.model_copy(update={"rater": Rater(id=name, kind="person"), "made_at": r.made_at + shift}) for r in taken]


def test_a_copier_is_found_with_who_it_copied_and_nobody_else():
    records = crowd()
    (found,) = copies(records + copy_of(records, "b", "z"))
    assert (found.one, found.other, found.copier, found.shared, found.agreement) == ("b", "z", "z", 60, 1.0)
    # ten pairs of raters; one-sided binomial tail of 60 of 60 at 0.85
    assert found.false_discovery == pytest.approx(10 * 0.85**60, rel=1e-6)


def test_who_copied_is_told_by_time_alone():
    records = crowd()
    assert copies(records + copy_of(records, "b", "z", later=-60))[0].copier == "b"
    assert copies(records + copy_of(records, "b", "z", later=0))[0].copier == ""


def test_the_side_an_answer_was_shown_on_does_not_matter():
    records = [said("a", k, k % 2 == 0) for k in range(40)]
    turned = [said("b", k, k % 2 == 0, swapped=True) for k in range(40)]
    assert copies(records + turned)[0].agreement == 1.0


def test_people_who_agree_as_people_do_are_not_reported():
    """Two of one mind with noise of their own, not even where everybody agrees because the tasks are easy."""
    false = [copies(crowd(seed, right=right)) for seed in range(10) for right in (0.8, 0.9, 0.97, 1.0)]
    assert sum(map(len, false)) == 0
    # the ceiling alone would accuse everybody of easy tasks
    pairs = [copies([r for r in crowd(0, right=1.0) if r.rater.id in two]) for two in ("ab", "cd")]
    assert all(pairs)


def test_few_pairs_in_common_prove_nothing():
    assert copies([said(r, k, True) for r in "ab" for k in range(19)]) == []
    assert copies([]) == []
