"""`clew data check`: what a file holds, and what is wrong with it."""

import json

import pytest
from typer.testing import CliRunner

from clew.cli import app
from clew.data.check import as_row, convert, leaks, problems, survey, usable
from clew.data.formats import parse_row

ROWS = [
    {"prompt": "a", "chosen": "x", "rejected": "y"},
    {"prompt": "a", "chosen": "y", "rejected": "x"},
    {"prompt": "a", "chosen": "x", "rejected": "y"},
    {"prompt": "b", "chosen": "z", "rejected": "z"},
    {"prompt": "b", "chosen": "z", "rejected": ""},
    {"prompt": "c", "completions": ["x", "y"], "ranks": [0, 0]},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_odd_rows_are_counted(file):
    found = survey(str(file))
    assert found.formats == {"pair": 5, "ranking of K": 1}
    assert problems(found.examples) == {
        "rows that repeat an earlier one": 1,
        "rows with equal answers": 1,
        "rows with an empty answer": 1,
        "pairs or rankings that are all ties": 1,
        "pairs that other rows contradict": 1,
    }
    ways = usable(found.examples)
    assert (ways["dpo"], ways["reward"], ways["sft"], ways["pretrain"], ways["rl"]) == (5, 5, 0, 0, 6)


def test_wrong_rows_are_told_and_the_rest_is_read(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"prompt": "q", "completion": 3}\n{"foo": 1}\n{"prompt": "q", "completion": "a"}\n'
    )
    found = survey(str(tmp_path / "x.jsonl"))
    assert (found.rows, len(found.examples), len(found.refused)) == (3, 1, 2)
    assert found.refused[0].startswith("row 1: column 'completion' needs text")
    assert found.formats["unknown"] == 1


def test_leakage_is_counted_by_prompt(file):
    train = survey(str(file)).examples
    assert leaks(train, train[:4]) == 2


@pytest.mark.parametrize(
    "row",
    [
        *ROWS,
        {"prompt": "q", "completion": "a", "label": 1.0, "topic": "t", "weight": 2.0},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {"text": "once"},
        {"instruction": "do", "input": "it", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]},
    ],
)
def test_converted_rows_are_the_same_examples(row, tmp_path):
    examples = parse_row(row, "here")
    assert convert(examples, tmp_path / "out.jsonl") == len(examples)
    again = parse_row(json.loads((tmp_path / "out.jsonl").read_text()), "there")
    assert again == examples
    assert as_row(again[0]) == as_row(examples[0])


def test_the_command_shows_tokens_and_exits_by_what_it_finds(file, world_model, tmp_path):
    told = CliRunner().invoke(app, ["data", "check", str(file), "--for", "dpo", "--model", world_model])
    assert told.exit_code == 0, told.output
    assert "5 rows  pair" in told.output
    assert "pairs that other rows contradict" in told.output
    assert "</s>" in told.output
    assert "tokens a row: median" in told.output
    told = CliRunner().invoke(app, ["data", "check", str(file), "--for", "sft", "--heldout", str(file)])
    assert told.exit_code == 1
    assert "3 prompts of" in told.output
    out = tmp_path / "out.jsonl"
    CliRunner().invoke(app, ["data", "check", str(file), "--for", "dpo", "--convert", str(out)])
    assert len(out.read_text().splitlines()) == 5


@pytest.fixture
def world_model(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")
