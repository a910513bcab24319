"""Exports of Argilla and Label Studio, in the shapes that their own exporters write."""

import json

import pytest

from clew.data.formats import format_of, parse_row
from clew.data.sources import read_rows

FIELDS = {"prompt": "How?", "response_1": "Well.", "response_2": "Badly."}


def argilla(responses, fields=FIELDS, suggestions=None):
    """One record of `to_json`."""
    given = {q: [{"value": v, "user_id": f"u{i}"} for i, v in enumerate(values)] for q, values in responses.items()}
    offered = {q: {"value": v, "score": None, "agent": "m"} for q, v in (suggestions or {}).items()}
    return {"id": "7", "fields": fields, "metadata": {}, "suggestions": offered, "responses": given, "vectors": {}, "_server_id": "s"}  # fmt: skip


def label_studio(results, data=None, **annotation):
    """One task of the JSON export, a list of results for each person."""
    annotations = [
        {"id": i, "completed_by": i, "was_cancelled": False, "lead_time": 4.2, **annotation, "result": [
            {"id": f"r{i}", "from_name": name, "to_name": "text1,text2", "type": kind, "origin": "manual", "value": value}
            for name, kind, value in result
        ]}
        for i, result in enumerate(results)
    ]  # fmt: skip
    data = data or {"prompt": "How?", "answer1": "Well.", "answer2": "Badly."}
    return {"id": 1, "data": data, "annotations": annotations, "predictions": [], "created_at": "2026-01-01T00:00:00Z", "project": 3}  # fmt: skip


def only(row):
    (example,) = parse_row(row, "row 1")
    return example


THREE = {"instruction": "How?", "reply-1": "a", "reply-2": "b", "reply-3": "c"}
ONE = {"prompt": "How?", "response": "Well."}
CASES = [
    ("ranking", argilla({"order": [["response_2", "response_1"]]}), ("Badly.", "Well."), (0, 1), None),
    ("ranking with ties", argilla({"order": [[{"value": "reply-3", "rank": 1}, {"value": "reply-1", "rank": 2}, {"value": "reply-2", "rank": 2}]]}, THREE), ("c", "a", "b"), (0, 1, 1), None),
    ("rankings of two people", argilla({"order": [["reply-1", "reply-2", "reply-3"], ["reply-1", "reply-3", "reply-2"]]}, THREE), ("a", "b", "c"), (0, 1, 1), None),
    ("the better one by name", argilla({"better": ["response_2"]}), ("Badly.", "Well."), (0, 1), None),
    ("the better one by letter", argilla({"preference": ["A is better"]}), ("Well.", "Badly."), (0, 1), None),
    ("a tie", argilla({"better": ["tie"]}), ("Well.", "Badly."), (0, 0), None),
    ("a rating for each", argilla({"rating_1": [2, 4], "rating_2": [5]}), ("Badly.", "Well."), (0, 1), None),
    ("a rating", argilla({"quality": [4, 5]}, ONE), ("Well.",), (), 4.5),
    ("a thumb", argilla({"ok": ["yes", "yes", "no"]}, ONE), ("Well.",), (), 1.0),
    ("a thumb down", argilla({"ok": ["not helpful"]}, ONE), ("Well.",), (), 0.0),
    ("a correction", argilla({"better_text": ["Better."]}, ONE), ("Better.", "Well."), (0, 1), None),
    ("a demonstration", argilla({"answer": ["Mine."]}, {"prompt": "How?"}), ("Mine.",), (), None),
    ("a name beside a tie", argilla({"both_relevant": ["both"], "better": ["response_2"]}), ("Badly.", "Well."), (0, 1), None),
    ("a name beside a number", argilla({"safety": ["1"], "preference": ["response_2", "tie"]}), ("Badly.", "Well."), (0, 1), None),
    ("a place beside a number", label_studio([[("safety", "choices", {"choices": ["1"]}), ("pw", "pairwise", {"selected": "right"})]]), ("Badly.", "Well."), (0, 1), None),
    ("ratings in words", argilla({"rating_1": ["1"], "rating_2": ["2"]}), ("Badly.", "Well."), (0, 1), None),
    ("a suggestion alone", argilla({}, FIELDS, {"better": "response_1"}), ("Well.", "Badly."), (0, 1), None),
    ("pairwise", label_studio([[("pw", "pairwise", {"selected": "right"})]]), ("Badly.", "Well."), (0, 1), None),
    ("choices", label_studio([[("which", "choices", {"choices": ["answer1"]})]]), ("Well.", "Badly."), (0, 1), None),
    ("stars", label_studio([[("stars", "rating", {"rating": 4})], [("stars", "rating", {"rating": 2})]], ONE), ("Well.",), (), 3.0),
    ("ranker", label_studio([[("rank", "ranker", {"ranker": ["x", "y"]})]], {"prompt": "How?", "items": [{"id": "y", "title": "Y", "body": "Badly."}, {"id": "x", "title": "X", "body": "Well."}]}), ("Well.", "Badly."), (0, 1), None),
    ("ranker of one bucket", label_studio([[("rank", "ranker", {"ranker": {"rank": ["y", "x"]}})]], {"prompt": "How?", "items": [{"id": "y", "body": "Badly."}, {"id": "x", "body": "Well."}]}), ("Badly.", "Well."), (0, 1), None),
    ("text area", label_studio([[("answer", "textarea", {"text": ["Mine."]})]], {"prompt": "How?"}), ("Mine.",), (), None),
    ("two texts and no prompt", label_studio([[("pw", "pairwise", {"selected": "left"})]], {"text1": "Well.", "text2": "Badly."}), ("Well.", "Badly."), (0, 1), None),
    ("JSON-MIN pairwise", {"prompt": "How?", "answer1": "Well.", "answer2": "Badly.", "id": 1, "pw": [{"selected": "left"}], "annotator": 1, "annotation_id": 5, "created_at": "2026", "updated_at": "2026", "lead_time": 3.1}, ("Well.", "Badly."), (0, 1), None),
    ("JSON-MIN choice", {"text": "Lovely.", "id": 1, "sentiment": "Positive", "annotator": 1, "annotation_id": 5, "created_at": "2026", "updated_at": "2026", "lead_time": 3.1}, ("Lovely.",), (), 1.0),
    ("JSON-MIN stars", {"prompt": "How?", "response": "Well.", "id": 1, "stars": [{"rating": 4}], "annotator": 1, "annotation_id": 5, "created_at": "2026", "updated_at": "2026", "lead_time": 3.1}, ("Well.",), (), 4.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "answers", "ranks", "label"), CASES, ids=[c[0] for c in CASES])
def test_what_people_said_becomes_an_order_a_label_or_a_text(name, row, answers, ranks, label):
    example = only(row)
    assert (example.answers, example.ranks, example.label) == (answers, ranks, label)
    assert example.prompt == ("" if name in ("two texts and no prompt", "JSON-MIN choice") else "How?")


@pytest.mark.parametrize("swapped", [False, True])
def test_swapping_the_texts_or_the_verdict_swaps_the_label(swapped):
    first, second = ("Badly.", "Well.") if swapped else ("Well.", "Badly.")
    for verdict, better in (("left", first), ("right", second)):
        row = label_studio([[("pw", "pairwise", {"selected": verdict})]], {"prompt": "How?", "answer1": first, "answer2": second})  # fmt: skip
        assert only(row).answers[0] == better


def test_votes_of_several_people_become_agreement():
    example = only(argilla({"better": ["response_1", "response_1", "response_2", "tie"]}))
    assert (example.answers[0], example.agreement) == ("Well.", pytest.approx(2.5 / 4))
    even = only(argilla({"better": ["response_1", "response_2"]}))
    assert (even.ranks, even.agreement) == ((0, 0), 1.0)


def test_flat_columns_of_argilla_are_read_without_discarded_answers(tmp_path):
    row = {
        "id": "7", "status": "completed", "_server_id": "s", **FIELDS, "topic": 3,
        "better.responses": ["response_1", "response_2", "response_2"], "better.responses.users": ["a", "b", "c"],
        "better.responses.status": ["discarded", "submitted", "submitted"], "better.suggestion": "response_1",
        "better.suggestion.score": None, "better.suggestion.agent": "m", "comment.responses": ["short"],
        "comment.responses.users": ["a"], "comment.responses.status": ["submitted"],
    }  # fmt: skip
    (tmp_path / "records.json").write_text(json.dumps([row]))
    (read,) = read_rows(str(tmp_path / "records.json"))
    assert format_of(read).name == "labels (Argilla, flat)"
    example = only(read)
    assert (example.answers[0], example.agreement) == ("Badly.", 1.0)
    assert example.info["comment"] == ["short"]
    suggested = {k: v for k, v in row.items() if ".responses" not in k}
    assert only(suggested).info["suggested"] == ["better"]


def test_spans_and_remarks_go_along():
    spans = [[{"label": "PER", "start": 0, "end": 4}]]
    example = only(argilla({"entities": spans, "comment": ["why"], "quality": [3]}, ONE))
    assert (example.label, example.info["entities"], example.info["comment"]) == (3.0, spans, ["why"])
    cancelled = label_studio([[("pw", "pairwise", {"selected": "left"})]], was_cancelled=True)
    assert parse_row(cancelled, "row 1") == []


def test_what_nobody_has_answered_holds_no_example():
    assert parse_row(argilla({}), "row 1") == []
    assert parse_row(label_studio([]), "row 1") == []


def test_questions_that_say_equally_plainly_which_text_is_better_are_named():
    for asked in ({"helpful": ["response_1"], "safe": ["response_2"]}, {"helpful": ["2"], "safe": ["1"]}):
        with pytest.raises(ValueError, match=r"row 1: each of the questions \['helpful', 'safe'\] may say"):
            parse_row(argilla(asked), "row 1")


def test_an_answer_that_names_no_text_is_explained():
    with pytest.raises(ValueError, match=r"row 1: the answers .*'purple'.* name none of the texts \['response_1'"):
        parse_row(argilla({"colour": ["purple"]}), "row 1")
