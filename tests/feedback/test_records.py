import pytest
from pydantic import TypeAdapter, ValidationError

from clew.feedback.records import Answer, Comparison, Feedback, Item, Ranking, Rater, Span, Task

ANNA = Rater(id="anna", kind="person")
ANSWERS = [
    {"kind": "demonstration", "text": "ideal"},
    {"kind": "comparison", "verdict": "both_bad", "margin": 2.0},
    {"kind": "ranking", "groups": [[1], [0, 2]], "not_rankable": []},
    {"kind": "rating", "scales": {"helpful": 4, "true": 5}},
    {"kind": "thumb", "up": False, "reasons": ["rude"]},
    {"kind": "steps", "labels": [1, 0, -1], "first_error": 2},
    {"kind": "spans", "spans": [{"start": 0, "end": 2, "text": "hé", "category": "typo"}]},
    {"kind": "flaws", "flaws": {"false": True}},
    {"kind": "critique", "text": "too long", "score": 3.0},
    {"kind": "revision", "text": "better"},
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: a["kind"])
def test_every_kind_of_answer_survives_json(answer):
    adapter = TypeAdapter(Answer)
    found = adapter.validate_python(answer)
    assert found.kind == answer["kind"]
    assert adapter.validate_json(adapter.dump_json(found)) == found


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: a["kind"])
def test_unknown_fields_are_refused(answer):
    with pytest.raises(ValidationError, match="extra"):
        TypeAdapter(Answer).validate_python({**answer, "surprise": 1})


@pytest.mark.parametrize(
    ("verdict", "probability"), [("first", 1.0), ("second", 0.0), ("tie", 0.5), ("both_bad", None), ("unsure", None)]
)
def test_tie_both_bad_and_unsure_are_three_things(verdict, probability):
    assert Comparison(verdict=verdict).probability == probability
    assert Comparison(verdict=verdict, first_wins=0.7).probability == 0.7


def test_equal_content_is_one_item():
    a, b = Item(prompt="q", completion="a", source="x"), Item(prompt="q", completion="a", source="y")
    assert a.id == b.id != Item(prompt="q", completion="b").id


def test_tasks_count_their_items():
    with pytest.raises(ValidationError, match="comparison task needs 2 to 2 items; got 1"):
        Task(kind="comparison", prompt="q", items=("a",))
    with pytest.raises(ValidationError, match="ranking task needs 2 to many"):
        Task(kind="ranking", prompt="q", items=("a",))
    Task(kind="demonstration", prompt="q")


def test_a_ranking_places_every_item_once():
    task = Task(kind="ranking", prompt="q", items=("a", "b", "c"))
    with pytest.raises(ValidationError, match="place each of 3 items once"):
        Feedback(task_id=task.id, items=task.items, rater=ANNA, answer=Ranking(groups=((0,), (0, 1))))


def test_spans_carry_their_text_as_a_check():
    with pytest.raises(ValidationError, match="does not have the 3 characters"):
        Span(start=0, end=2, text="abc", category="x")


def test_the_same_answer_sent_again_is_the_same_record():
    task = Task(kind="comparison", prompt="q", items=("a", "b"))
    first, second = (
        Feedback(task_id=task.id, items=task.items, rater=ANNA, answer=Comparison(verdict=v)) for v in ("first", "tie")
    )
    assert first.id == second.id
    assert first.model_copy(update={"revision": 1}).id != first.id
