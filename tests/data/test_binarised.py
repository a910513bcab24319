"""Answers with votes become rankings, rankings become marked pairs: the data of preference-model pretraining."""

import json

import pytest
from typer.testing import CliRunner

from clew.cli import app
from clew.data.binarised import binarised, rows
from clew.data.example import Example, ranked
from clew.data.formats import format_of, parse_row
from clew.data.sources import read_rows
from clew.data.votes import votes_score
from clew.types import Message


def test_scores_of_votes_worked_by_hand():
    assert [votes_score(v) for v in (-3, 0, 1, 2, 6, 100)] == [-1, 0, 1, 2, 3, 7]
    assert votes_score(6, accepted=True) == 4
    assert votes_score(-1, accepted=True) == -1


def test_answers_with_votes_are_a_ranking_with_its_ties():
    answers = [
        {"text": "a", "upvotes": 1, "accepted": False},
        {"text": "b", "upvotes": 6, "accepted": True},
        {"text": "c", "upvotes": 1},
        {"text": "d", "upvotes": -2},
    ]
    row = {"question": "why ?", "answers": answers, "qid": 7}
    assert format_of(row).name == "ranking of K by votes (Stack Exchange)"
    (example,) = parse_row(row, "row 1")
    assert (example.prompt, example.answers, example.ranks) == ("why ?", ("b", "a", "c", "d"), (0, 1, 1, 3))
    assert example.info == {"qid": 7}
    scored = [{"text": "a", "pm_score": 2, "selected": True}, {"text": "b", "pm_score": 5, "selected": False}]
    (example,) = parse_row({"question": "why ?", "answers": scored}, "row 1")
    assert example.answers == ("b", "a")
    assert parse_row({"question": "why ?", "answers": scored[:1]}, "row 1") == []


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([{"text": "a"}, {"text": "b"}], r"row 3: column 'answers' has one with \['text'\]; expected one of upvotes, votes"),
        ([{"votes": 1}, {"votes": 2}], "expected one of text, answer, body, completion in it"),
        ([{"text": "a", "votes": "many"}, {"text": "b", "votes": 2}], "column 'votes' needs a finite number; got 'many'"),
        ([1, 2], "column 'answers' needs an object with named fields; got 1"),
    ],
)  # fmt: skip
def test_votes_that_cannot_be_read_are_told(answers, says):
    with pytest.raises(ValueError, match=says):
        parse_row({"question": "why ?", "answers": answers}, "row 3")


def test_both_rows_of_an_item_differ_in_their_mark_alone():
    example = ranked("why ?", [" so", " no", " but"], [0, 1, 1], cut=[1])
    items = binarised(example, good="GOOD: ", bad="BAD: ")
    assert [e.answers for e in items] == [
        (" GOOD: so", " BAD: so"),
        (" BAD: no", " GOOD: no"),
        (" GOOD: so", " BAD: so"),
        (" BAD: but", " GOOD: but"),
    ]
    assert all(e.ranks == (0, 1) and e.prompt == "why ?" for e in items)
    assert [e.cut for e in items] == [(), (0, 1), (), ()]


def test_conversations_are_marked_where_the_assistant_begins_and_labels_stay_soft():
    first, second = ((Message("assistant", words), Message("user", "and ?")) for words in ("so", "no"))
    items = binarised(Example("1", (), (first, second), (0, 1), agreement=0.8), good="+", bad="-")
    assert [[a[0].content for a in e.answers] for e in items] == [["+so", "-so"], ["-no", "+no"]]
    assert all(a[1].content == "and ?" for e in items for a in e.answers)
    assert [e.agreement for e in items] == [0.8, 0.8]


def test_the_command_and_prepare_write_the_same_rows(tmp_path):
    file, out = tmp_path / "pairs.jsonl", tmp_path / "marked.jsonl"
    file.write_text(json.dumps({"prompt": "why ?", "chosen": " so", "rejected": " no", "topic": "x"}) + "\n")
    told = CliRunner().invoke(app, ["data", "binarise", str(file), str(out), "--good", "up "])
    assert (told.exit_code, told.output) == (0, f"      2 rows written to {out}\n")
    written = list(read_rows(str(out)))
    assert written == list(rows(path=str(file), good="up "))
    assert written[1] == {"prompt": "why ?", "chosen": " BAD: no", "rejected": " up no", "topic": "x"}


def test_a_file_without_an_order_is_refused_and_nothing_written(tmp_path):
    file, out = tmp_path / "answers.jsonl", tmp_path / "marked.jsonl"
    file.write_text(json.dumps({"prompt": "why ?", "completion": " so"}) + "\n")
    told = CliRunner().invoke(app, ["data", "binarise", str(file), str(out)])
    assert "no answers of which one ranks better; binarising needs pairs or rankings" in str(told.exception)
    assert not out.exists()
