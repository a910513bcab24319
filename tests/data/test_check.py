"""`clew data check`: what a file holds, and what is wrong with it."""

import json
import re

import pytest
from typer.testing import CliRunner

from clew.cli import app
from clew.config import ConfigError
from clew.data.check import as_row, convert, fitting, leaks, problems, survey, usable
from clew.data.formats import parse_row
from clew.data.guess import guessed
from clew.starter import read_tokenizer

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
        "rows that repeat an earlier one": [2],
        "pairs or rankings that conflict with another row": [0, 1, 2],
        "pairs or rankings with identical answers": [3],
        "rows with an empty answer": [4],
        'rows whose answer runs into the prompt (--join " ")': [0, 1, 2, 3, 4, 5],
        "pairs or rankings that are all ties": [5],
    }
    ways = usable(found.examples)
    assert (ways["dpo"], ways["reward"], ways["sft"], ways["pretrain"], ways["rl"]) == (5, 5, 5, 0, 6)


def test_the_ones_of_a_scale_are_no_thumbs_for_kto(tmp_path):
    stars = [{"prompt": f"q{n}", "completion": "a", "rating": n} for n in range(1, 6)]
    examples = [e for row in (*stars, ROWS[0]) for e in parse_row(row, "here")]
    assert fitting(examples, "kto") == [5]
    assert usable(examples)["kto"] == 1
    assert fitting(examples[:1], "kto") == [0]
    out = tmp_path / "out.jsonl"
    status, _ = checked(tmp_path, stars, "--for", "kto", "--convert", str(out))
    assert (status, out.read_text()) == (1, "")


def test_wrong_rows_are_told_and_the_rest_is_read(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"prompt": "q", "completion": 3}\n{"foo": 1}\n{"prompt": "q", "completion": "a"}\n'
    )
    found = survey(str(tmp_path / "x.jsonl"))
    assert (found.rows, len(found.examples), len(found.refused)) == (3, 1, 2)
    assert found.refused[0][0] == 1
    assert found.refused[0][1].startswith("column 'completion' needs text")
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
        {"text": "once", "label": 1.0},
        {"instruction": "do", "input": "it", "chosen": "a", "rejected": "b"},
        {"prompt": "", "chosen": "The cat sat", "rejected": "The cat ran"},
        {"prompt": "", "completions": ["The cat sat", "The cat ran", "The"]},
        {"chosen": [{"role": "assistant", "content": "Ho"}], "rejected": [{"role": "assistant", "content": "Hm"}]},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
        {"system": "be", "question": "q", "chosen": "a", "rejected": "b"},
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
    assert re.search(r"pairs or rankings that conflict with another row +3  row 1, 2, 3 *\n", told.output)
    assert "</s>" in told.output
    assert "tokens a row: median" in told.output
    told = CliRunner().invoke(app, ["data", "check", str(file), "--for", "pretrain", "--heldout", str(file)])
    assert told.exit_code == 1
    assert "3 prompts of" in told.output
    out = tmp_path / "out.jsonl"
    CliRunner().invoke(app, ["data", "check", str(file), "--for", "dpo", "--convert", str(out)])
    assert len(out.read_text().splitlines()) == 5


@pytest.fixture
def world_model(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def checked(tmp_path, rows, *options: str):
    """What `clew data check` says of rows, in lines without line breaks of its own."""
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = CliRunner().invoke(app, ["data", "check", str(tmp_path / "x.jsonl"), *options], env={"COLUMNS": "300"})
    return told.exit_code, told.output


def line_of(output: str, words: str) -> str:
    (found,) = [line for line in output.splitlines() if words in line]
    return " ".join(found.split())


PROMPT = "how was the soup ?"


def test_the_format_is_explained(tmp_path):
    _, told = checked(tmp_path, [{"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]}])
    assert "1 rows ranking of K (Nectar)" in line_of(told, "Nectar")
    assert "a prompt and K answers, each with its rank, 1 the best" in told


def test_pairs_of_images_are_named_and_refused(tmp_path):
    status, told = checked(tmp_path, [{"caption": "a cat", "label_0": 1, "label_1": 0, "jpg_0": "", "jpg_1": ""}])
    assert status == 1
    assert "two images for a caption: a preference, and not of texts" in told
    assert "a pair of images for a caption (Pick-a-Pic); text methods cannot use it" in told


def test_a_repeated_bos_is_counted_with_its_rows(tmp_path, world_model, tokenizer):
    rows = [{"prompt": PROMPT, "completion": " good ."}]
    rows += [{"prompt": tokenizer.bos_token + " " + PROMPT, "completion": " good ."}] * 2
    _, told = checked(tmp_path, rows, "--model", world_model)
    assert line_of(told, "adjacent repeated BOS").endswith(" 2 row 2, 3")


def test_stop_tokens_that_are_not_learnt_are_counted_with_their_rows(tmp_path, world_model):
    whole = {"prompt": PROMPT, "completion": " good ."}
    _, told = checked(tmp_path, [whole, {**whole, "cut": [0]}], "--model", world_model)
    assert line_of(told, "a stop token that is not learnt").endswith(" 1 row 2")
    assert len([line for line in told.splitlines() if line.endswith(" </s> ]] ")]) == 1


def test_what_is_cut_by_length_is_counted_with_its_rows(tmp_path, world_model):
    rows = [{"prompt": PROMPT, "completion": " good ." * n} for n in (1, 9)]
    _, told = checked(tmp_path, rows, "--model", world_model, "--max-length", "12")
    assert line_of(told, "rows longer than max_length").endswith(" 1 row 2")
    cutting = ("--model", world_model, "--max-length", "12", "--truncation", "truncate_completion")
    _, told = checked(tmp_path, rows, *cutting)
    assert line_of(told, "answers truncated (no stop token)").endswith(" 1")
    assert line_of(told, "a stop token that is not learnt").endswith(" 1 row 2")


def test_five_rows_are_shown_and_learnt_tokens_are_coloured_or_bracketed(file, world_model):
    from rich.text import Span

    from clew.cli_data import _line

    assert _line(["a", "b"], [False, True], bracketed=False).spans == [Span(0, 2, "dim"), Span(2, 4, "green")]
    assert _line(list("abcd"), [False, True, True, False], bracketed=True).plain == "a [[ b c ]] d "
    long = _line(["x"] * 100, [False] * 10 + [True] * 90, bracketed=True).plain
    assert long == "x " * 10 + "[[ " + "x " * 24 + "]] … [[ " + "x " * 6 + "]] "
    told = CliRunner().invoke(app, ["data", "check", str(file), "--for", "dpo", "--model", world_model])
    assert len([line for line in told.output.splitlines() if line.endswith(" </s> ]] ")]) == 5
    assert "[[ learnt ]] read only\n" in told.output


def test_prompts_are_shown_as_sampling_sees_them(tmp_path, world_model):
    status, told = checked(tmp_path, [{"prompt": PROMPT}], "--model", world_model, "--for", "rl")
    assert status == 0
    assert "longest 6" in told  # BOS and five words


def test_a_prompt_on_both_sides_of_a_split_column_is_found(tmp_path):
    rows = [{"prompt": p, "completion": "a", "split": s} for p, s in (("p", "train"), ("q", "test"), ("p", "test"))]
    _, told = checked(tmp_path, rows)
    assert line_of(told, "in another split too").endswith(" 2 row 1, 3")


def test_rows_that_nobody_has_answered_are_counted(tmp_path):
    status, told = checked(tmp_path, [{"fields": {"prompt": "q"}, "responses": {}, "suggestions": {}}])
    assert status == 1
    assert line_of(told, "nobody has answered").endswith(" 1 row 1")


def test_answers_that_run_into_their_prompt_are_counted_and_joined(tmp_path):
    rows = [{"prompt": PROMPT, "completion": said} for said in (" good .", "good .")]
    _, told = checked(tmp_path, rows)
    assert line_of(told, "runs into the prompt").endswith(" 1 row 2")
    out = tmp_path / "out.jsonl"
    _, told = checked(tmp_path, rows, "--join", " ", "--convert", str(out))
    assert "runs into" not in told
    assert [json.loads(line)["completion"] for line in out.read_text().splitlines()] == [" good ."] * 2


def test_columns_of_other_names_are_told(tmp_path):
    status, told = checked(tmp_path, [{"q": "How?", "a": "So."}], "--column", "prompt=q", "--column", "completion=a")
    assert status == 0
    assert "demonstration" in told
    status, told = checked(tmp_path, [{"q": "How?", "a": "So."}] * 7)
    assert status == 1
    assert "--column says what they are" in told
    assert line_of(told, "wrong").endswith(
        "wrong 7 rows, row 1, 2, 3, 4, 5, …: columns ['a', 'q'] are of no known format; "
        "try --column prompt=q --column completion=a (in YAML columns: {prompt: q, completion: a})"
    )


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("question good_answer bad_answer id", {"prompt": "question", "chosen": "good_answer", "rejected": "bad_answer"}),
        ("promt Response", {"prompt": "promt", "completion": "Response"}),
        ("question question_id", {"prompt": "question"}),
        ("content title", {"text": "content"}),
        ("prompt answer_a answer_b", {"prompt": "prompt"}),
        ("foo bar", {}),
    ],
)  # fmt: skip
def test_what_columns_may_be_is_guessed(columns, expected):
    assert guessed(columns.split()) == expected


def test_a_column_that_clew_does_not_know_is_no_name_for_one(tmp_path):
    status, _ = checked(tmp_path, [{"q": "How?"}], "--column", "promt=q")
    assert status == 1
    with pytest.raises(ConfigError, match="promt=q: clew knows no column 'promt'; did you mean prompt=q?"):
        survey(str(tmp_path / "x.jsonl"), {"promt": "q"})


def test_rows_that_an_empty_column_makes_less_are_counted(tmp_path):
    whole = {"prompt": "q ", "chosen": "a", "rejected": "b"}
    rows = [whole, {**whole, "rejected": None}, {"prompt": "q ", "completion": None}, {**whole, "completion": None}]
    rows += [{**whole, "completion": "a", "chosen": None, "rejected": None}]  # a table of two formats
    status, told = checked(tmp_path, rows)
    assert status == 0
    assert line_of(told, "rows with no rejected, read as prompt").endswith(" 1 row 2")
    assert line_of(told, "rows with no completion, read as prompt").endswith(" 1 row 3")
    assert told.count("rows with no") == 2


CHAT = {"chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}


def test_rows_of_which_none_can_be_encoded_are_a_failure(tmp_path, world_model):
    chat = {"prompt": [{"role": "user", "content": "q"}], **CHAT}
    status, told = checked(tmp_path, [chat] * 3, "--for", "dpo", "--model", world_model)
    assert status == 1
    assert "has no chat template; try --template transcript, chatml or a Jinja file " in told
    status, told = checked(tmp_path, [chat] * 3, "--for", "dpo", "--model", world_model, "--template", "transcript")
    assert status == 0


def test_marks_that_are_spelt_in_letters_are_remarked(tmp_path, shared_data):
    row = {"messages": [{"role": "user", "content": "q"}, *CHAT["chosen"]]}
    options = ("--model", str(shared_data / "stories260k/hf"), "--template")
    _, told = checked(tmp_path, [row], *options, "chatml")
    assert line_of(told, "tokens for a mark of the template").endswith("; transcript is cheaper 10")
    _, told = checked(tmp_path, [row], *options, "transcript")
    assert "tokens for a mark of the template" not in told


@pytest.mark.parametrize("model", ["empty", "./nowhere"])
def test_a_folder_without_a_tokenizer_is_named(model, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"{model}: no tokenizer there; expected a Hugging Face folder or a hub name"):
        read_tokenizer(model)


def test_what_a_message_carries_besides_words_is_converted_too(tmp_path):
    call = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}]
    said = [{"role": "assistant", "content": "", "thinking": "look it up", "tool_calls": call}]
    rows = [{"prompt": [{"role": "user", "content": "Rain?"}], "completion": said}]
    (tmp_path / "in.jsonl").write_text(json.dumps(rows[0]))
    convert(survey(str(tmp_path / "in.jsonl")).examples, tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["completion"] == said
