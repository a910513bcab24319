import pytest

from clew.feedback.known import agrees
from clew.feedback.records import Comparison, Demonstration, Flaws, Ranking, Rating, Span, Spans, StepLabels, Thumb


def spans(*found: tuple[int, int, str]) -> Spans:
    return Spans(spans=tuple(Span(start=a, end=b, text="x" * (b - a), category=c) for a, b, c in found))


@pytest.mark.parametrize(
    ("known", "right", "wrong"),
    [
        (Comparison(verdict="tie"), Comparison(verdict="tie", margin=1), Comparison(verdict="unsure")),
        (Thumb(up=True), Thumb(up=True, reasons=("kind",)), Thumb(up=False)),
        (Ranking(groups=((1, 2), (0,))), Ranking(groups=((2, 1), (0,))), Ranking(groups=((1,), (2,), (0,)))),
        (Rating(scales={"true": 4}), Rating(scales={"true": 5, "kind": 1}), Rating(scales={"true": 2})),
        (Rating(scales={"true": 4}), Rating(scales={"true": 3}), Rating(scales={"kind": 4})),
        (StepLabels(labels=(1, -1)), StepLabels(labels=(0, -1), first_error=1), StepLabels(labels=(-1,))),
        (Flaws(flaws={"rude": False}), Flaws(flaws={"rude": False, "long": True}), Flaws(flaws={"rude": True})),
        (spans((0, 4, "a")), spans((3, 9, "a")), spans((4, 9, "a"))),
        (spans((0, 4, "a")), spans((0, 1, "a")), spans((0, 4, "a"), (8, 9, "a"))),
        (spans((0, 4, "a")), spans((0, 4, "a")), spans((0, 4, "b"))),
    ],
    ids=lambda answer: answer.kind,
)
def test_who_agrees_with_what_is_known(known, right, wrong):
    assert agrees(known, right) is True
    assert agrees(known, wrong) is False


def test_of_texts_nobody_can_say():
    assert agrees(Demonstration(text="a"), Demonstration(text="b")) is None
    assert agrees(Thumb(up=True), Comparison(verdict="tie")) is None
