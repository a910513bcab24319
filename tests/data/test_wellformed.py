"""`clew data filter`: every heuristic on a dialogue that it drops, beside one that it keeps."""

import json

import pytest
from typer.testing import CliRunner

from clew.cli import app
from clew.data.check import survey
from clew.data.formats import parse_row
from clew.data.wellformed import HEURISTICS, Bounds, filtered, transcript

GOOD = "It is warm, and there is plenty of it for everybody."


def said(*turns: str) -> dict:
    """Turns of user and assistant in turn."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}


def roles(*names: str) -> dict:
    return {"messages": [{"role": name, "content": f"{name} speaks at turn {i}."} for i, name in enumerate(names)]}


CASES = [
    ("no_dialogue", {"text": "A story of a soup."}, {"text": "Interviewer: How was it?\nChef: Warm."}),
    ("many_speakers", {"text": "Ann: Hi.\nBob: Ho.\nCarl: Hm."}, {"text": "Ann: Hi.\nBob: Ho.\nAnn: Hm.\nBob: Aha."}),
    ("empty_turn", said("How?", " "), said("How?", "So.")),
    ("out_of_turn", roles("user", "user", "assistant"), roles("system", "user", "assistant", "tool", "assistant")),
    ("no_answer", said("How?", "So.", "Why?"), said("How?", "So.", "Why?", "Because.")),
    ("leaked_speaker", said("How?", "So.\n\nHuman: And you?"), said("Write Q: and A:\nQ: one", "Here they are.")),
    ("length", said("How?", "word " * 30 + "."), said("How?", "word, other, third.")),
    ("unfinished", said("How is it?", GOOD[:-1] + " who comes to the"), said("How is it?", GOOD)),
    ("repetition", said("How?", "we like it very much . " * 10), said("How?", " ".join(str(n) for n in range(20)))),
    ("echo", said("How was it there?", GOOD, "And why is that?", GOOD), said("How?", "So.", "How?", "So.")),
    ("boilerplate", said("How?", "As an AI language model I have no soup."), said("How?", "See https://x.org for the recipe of it.")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "bad", "good"), CASES, ids=[c[0] for c in CASES])
def test_a_heuristic_drops_what_it_is_for_and_keeps_what_is_like_it(name, bad, good):
    bounds = Bounds(least=1, most=25) if name == "length" else Bounds()
    found = filtered(parse_row(bad, "x") + parse_row(good, "y"), bounds=bounds)
    assert found.dropped == {name: [0]}
    assert len(found.kept) == 1
    assert name in found.seen


def test_every_heuristic_has_a_case():
    assert [name for name, _, _ in CASES] == list(HEURISTICS)


def test_what_is_skipped_drops_nothing():
    rows = parse_row(said("How is it?", GOOD[:-1] + " who comes to the"), "x")
    assert len(filtered(rows, bounds=Bounds(), skip=["unfinished"]).kept) == 1
    with pytest.raises(ValueError, match=r"no heuristic 'grammar' to skip \(heuristics: no_dialogue"):
        filtered(rows, bounds=Bounds(), skip=["grammar"])


def test_a_transcript_of_two_becomes_their_conversation():
    (kept,) = filtered(
        parse_row({"text": "Interviewer: How was it?\nMary Ann: Warm.\nAnd good."}, "x"), bounds=Bounds()
    ).kept
    assert [(m.role, m.content) for m in kept.answers[0]] == [
        ("user", "How was it?"),
        ("assistant", "Warm.\nAnd good."),
    ]
    assert transcript("It began: nobody knew.\nThen more.") == []


@pytest.mark.parametrize("bad", ["chosen", "rejected"])
def test_a_pair_is_dropped_when_one_side_is_ill_formed(bad):
    row = {"prompt": "How?", "chosen": "So.", "rejected": "No.", bad: "So.\n\nHuman: And?"}
    assert filtered(parse_row(row, "x"), bounds=Bounds()).dropped == {"leaked_speaker": [0]}


def test_filtering_only_drops(shared_data):
    examples = survey(str(shared_data / "hh_rlhf/helpful-base.test.jsonl.gz")).examples[:300]
    found = filtered(examples, bounds=Bounds())
    assert 0.75 * len(examples) < len(found.kept) < len(examples)
    assert [e for e in examples if e in found.kept] == found.kept
    again = filtered(found.kept, bounds=Bounds())
    assert (again.kept, again.dropped) == (found.kept, {})


def test_the_command_writes_what_it_keeps_and_says_what_it_dropped(tmp_path):
    rows = [said("How?", "So."), said("How?", "So.\n\nHuman: And?"), said("Why?", "Human: x")]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = CliRunner().invoke(app, ["data", "filter", str(tmp_path / "x.jsonl"), str(tmp_path / "y.jsonl")])
    assert told.exit_code == 0, told.output
    assert json.loads((tmp_path / "y.jsonl").read_text()) == rows[0]
    out = " ".join(told.output.split())
    assert "1 of 3 examples written" in out
    assert "leaked_speaker 2 row 2, 3 a turn that runs on into another speaker's, such as: So. Human: And?" in out
    told = CliRunner().invoke(app, ["data", "filter", str(tmp_path / "x.jsonl"), str(tmp_path / "y.jsonl"), "--min-words", "9"])  # fmt: skip
    assert told.exit_code == 1
