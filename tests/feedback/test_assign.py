from itertools import pairwise

import pytest

from clew.feedback.assign import KNOWN, Rates, Seats, Standing, label, posterior, settled, wants
from clew.feedback.records import Comparison, Ranking, Thumb


def walk(rates: Rates, num: int, *, person: str = "anna", key: str = "key") -> list[str]:
    """What a person is given where there is always enough of everything."""
    standing, given = Standing(), []
    for _ in range(num):
        given.append(wants(standing, rates, key=key, person=person)[0])
        standing = standing.after(given[-1])
    return given


def test_training_comes_first_then_screening_then_work():
    given = walk(Rates(training=2, screening=3, gold=0, repeat=0), 8)
    assert given == ["training"] * 2 + ["screening"] * 3 + ["work"] * 3


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4])
def test_known_questions_come_at_their_rate_and_never_two_in_a_row(rate):
    given = walk(Rates(gold=rate, repeat=0.02), 6000)
    assert given.count("gold") / 6000 == pytest.approx(rate, abs=0.012)
    assert given.count("repeat") / 6000 == pytest.approx(0.02, abs=0.006)
    assert all(not (a in KNOWN and b in KNOWN) for a, b in pairwise(given))


def test_what_comes_next_differs_from_person_to_person_and_needs_the_key():
    rates = Rates(gold=0.3)
    walks = [walk(rates, 50), walk(rates, 50, person="ben"), walk(rates, 50, key="other")]
    assert walks[0] == walk(rates, 50)
    assert walks[0] != walks[1]
    assert walks[0] != walks[2]


def test_where_there_is_no_known_question_there_is_work():
    assert wants(Standing(), Rates(training=1), key="k", person="p") == ["training", "screening", "work"]
    assert all(wants(Standing(number=i), Rates(gold=0.4), key="k", person="p")[-1] == "work" for i in range(50))


def test_the_posterior_on_numbers_worked_by_hand():
    # .8 against .2 twice: 16 / 17. With three labels an error falls on each of two: .8 / (.8 + .1 + .1).
    assert posterior(["a", "a"], accuracy=0.8, num_labels=2) == pytest.approx(16 / 17)
    assert posterior(["a"], accuracy=0.8, num_labels=3) == pytest.approx(0.8)
    assert posterior(["a", "b"], accuracy=0.8, num_labels=2) == pytest.approx(0.5)
    assert posterior([], accuracy=0.8, num_labels=3) == pytest.approx(1 / 3)


def test_labels_of_answers():
    assert [label(Comparison(verdict=v)) for v in ("first", "second", "tie", "both_bad", "unsure")] == [
        "first", "second", "tie", "tie", None,
    ]  # fmt: skip
    assert label(Thumb(up=False)) == "False"
    assert label(Ranking(groups=((0,), (1,)))) is None


@pytest.mark.parametrize(
    ("seats", "labels", "need"),
    [
        (Seats(3, 5, 2, 0), ["a", "a"], 2),  # sure: the third is not asked
        (Seats(3, 5, 2, 1), ["a", "a"], 3),  # the third is being asked already
        (Seats(3, 5, 2, 0), ["a", "b"], 3),  # its third answer is still to come
        (Seats(3, 5, 3, 0), ["a", "b", "c"], 4),
        (Seats(3, 5, 2, 1), ["a", "b"], 3),  # wait for the one who is at it
        (Seats(5, 5, 5, 0), ["a", "b", "a", "b", "c"], 5),  # enough is enough
        (Seats(3, 5, 0, 0), [], 3),
    ],
)
def test_when_a_task_has_been_asked_enough(seats, labels, need):
    found = settled(seats, labels, accuracy=0.85, sure=0.95, num_labels=3)
    assert found.need == need
    assert found.open == need - seats.answered - seats.live
