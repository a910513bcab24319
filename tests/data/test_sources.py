import gzip
import json

import numpy as np
import pytest

from clew.data.formats import parse_row, parse_transcript, prompt_id
from clew.data.sources import (
    Source,
    load_examples,
    read_rows,
    step_indices,
    without_repeats,
)
from clew.types import Message

USER, ASSISTANT = Message("user", "Hi"), Message("assistant", "Hello")
CHAT = [{"role": "user", "content": "Hi"}]


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def only(row, where):
    (example,) = parse_row(row, where)
    return example


@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ({"text": "Once."}, "", ("Once.",)),
        ({"prompt": "Q"}, "Q", ()),
        ({"prompt": "Q", "completion": " A"}, "Q", (" A",)),
        ({"prompt": "Q", "chosen": " A", "rejected": " B"}, "Q", (" A", " B")),
        ({"prompt": "2", "chosen": "22", "rejected": "3"}, "2", ("22", "3")),  # an answer is never shortened
        ({"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}, (USER,), ((ASSISTANT,), (Message("assistant", "Go"),))),
        ({"prompt": "Hi", "chosen": [*CHAT, *reply("Hello")], "rejected": [*CHAT, *reply("Go")]}, (USER,), ((ASSISTANT,), (Message("assistant", "Go"),))),
        ({"prompt": "Hi", "chosen": reply("Hello"), "rejected": reply("Go")}, (USER,), ((ASSISTANT,), (Message("assistant", "Go"),))),
        ({"chosen": "The cat sat on", "rejected": "The cat ran off"}, "The cat", (" sat on", " ran off")),
        ({"messages": [*CHAT, *reply("Hello")]}, (), ((USER, ASSISTANT),)),
        ({"prompt": CHAT, "completion": reply("Hello")}, (USER,), ((ASSISTANT,),)),
        ({"prompt": CHAT, "chosen": reply("Hello"), "rejected": reply("Go")}, (USER,), ((ASSISTANT,), (Message("assistant", "Go"),))),
        ({"chosen": [*CHAT, *reply("Hello")], "rejected": [*CHAT, *reply("Go")]}, (USER,), ((ASSISTANT,), (Message("assistant", "Go"),))),
        ({"prompt": "Q", "completions": ["b", "a", "c"], "ranks": [1, 0, 1]}, "Q", ("a", "b", "c")),
        ({"context": "Q", "completions": [{"rank": 1, "completion": "b"}, {"rank": 0, "completion": "a"}]}, "Q", ("a", "b")),
    ],
)  # fmt: skip
def test_every_format_becomes_the_same_record(row, prompt, answers):
    example = only(row, "here")
    assert example.prompt == prompt
    assert example.answers == answers


def test_hh_transcripts_are_split_where_they_part():
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"
    example = only({"chosen": start + " Because.", "rejected": start + " No."}, "row 3")
    assert example.prompt == (USER, ASSISTANT, Message("user", "Why?"))
    assert example.answers == ((Message("assistant", "Because."),), (Message("assistant", "No."),))


def test_identical_and_diverging_transcripts_survive():
    same = "\n\nHuman: Hi\n\nAssistant: Hello"
    example = only({"chosen": same, "rejected": same}, "row")
    assert example.answers == ((ASSISTANT,), (ASSISTANT,))
    other = only({"chosen": same, "rejected": "\n\nHuman: Ho\n\nAssistant: Hello"}, "row")
    assert other.prompt == ()


def test_labels_margins_weights_and_other_columns_are_kept():
    single = only({"prompt": "Q", "completion": "A", "label": True, "topic": "x"}, "row")
    assert (single.label, dict(single.info)) == (1.0, {"topic": "x"})
    pair = only({"prompt": "Q", "chosen": "A", "rejected": "B", "margin": 2, "agreement": 0.8, "weight": 3.0}, "row")
    assert (pair.margin, pair.agreement, pair.weight, pair.ranks) == (2.0, 0.8, 3.0, (0, 1))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"question": "Q"},
            r"row 7: columns \['question'\] are of no known format; try --column prompt=question \(in YAML",
        ),
        ({"prompt": 3}, "column 'prompt' needs text or a list of messages; got 3"),
        ({"prompt": [{"from": "human", "value": "x"}]}, "column 'prompt' has a message .*expected role in"),
        ({"prompt": "Q", "completion": "A", "label": "good"}, "column 'label' needs a finite number; got 'good'"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "margin": float("nan")}, "column 'margin' needs a finite"),
        ({"prompt": "Q", "completions": ["a"]}, "at least two answers"),
        ({"prompt": "Q", "completions": ["a", "b"], "ranks": [1]}, "one integer for each of 2 completions"),
        ({"chosen": "x\n\nAssistant: a", "rejected": "\n\nHuman: b\n\nAssistant: c"}, "does not begin with Human"),
        ({"chosen": "a", "rejected": CHAT}, "both be text or both messages"),
    ],
)
def test_errors_name_row_column_expected_and_found(row, says):
    with pytest.raises(ValueError, match=says):
        only(row, "row 7")


def test_files_of_every_kind(tmp_path):
    rows = [{"prompt": f"q{i}"} for i in range(3)]
    lines = "".join(json.dumps(r) + "\n" for r in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(lines)
    (tmp_path / "c.json").write_text(json.dumps(rows))
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.json", "d.parquet"):
        assert list(read_rows(str(tmp_path / name))) == rows
    assert len(list(read_rows(str(tmp_path)))) == 12


NULLS = {"messages": [{"role": "user", "content": "Rain?", "tool_calls": None}, {"role": "assistant", "content": None, "tool_calls": [
    {"function": {"name": name, "arguments": {"city": None, "days": None, "at": [1, None]} | arguments}}
    for name, arguments in (("weather", {"city": "Bern"}), ("rest", {"days": 2}))
]}], "tools": [
    {"name": "weather", "parameters": {"city": {"type": "string"}, "days": None}},
    {"name": "rest", "parameters": {"city": None, "days": {"type": "integer"}}},
], "other": {"known": None}}  # fmt: skip
FILLED = (
    [{"city": "Bern", "at": [1, None]}, {"days": 2, "at": [1, None]}],
    [{"city": {"type": "string"}}, {"days": {"type": "integer"}}],
)
MEANT = (
    [{"city": "Bern", "days": None, "at": [1, None]}, {"city": None, "days": 2, "at": [1, None]}],
    [tool["parameters"] for tool in NULLS["tools"]],
)


@pytest.mark.parametrize(("name", "expected"), [("x.parquet", FILLED), ("owner/name", FILLED), ("x.jsonl", MEANT)])
def test_nulls_that_a_table_fills_in_are_no_arguments_of_tools(name, expected, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([NULLS]))
    datasets.Dataset.from_list([NULLS]).to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text(json.dumps(NULLS))
    monkeypatch.chdir(tmp_path)
    (example,) = load_examples(Source(path=name))
    calls = json.loads(example.answers[0][-1].tool_calls)
    assert [call["function"]["arguments"] for call in calls] == expected[0]
    assert [tool["parameters"] for tool in example.info["tools"]] == expected[1]
    assert example.info["other"] == {"known": None}


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("x.jsonl", '{"text": "a"}\n{oops\n', ValueError, "line 2 is not JSON"),
        ("x.jsonl", "[1, 2]\n", ValueError, "line 1: expected an object with named columns; got list"),
        ("x.json", '{"a": 1}', ValueError, "expected a list of objects; got dict"),
        ("x.doc", "a,b", ValueError, "unknown kind of file; expected one of .jsonl"),
        ("x.csv", "prompt,completion\na,b,c\n", ValueError, "row 1: expected 2 columns"),
        ("x.jsonl", "", ValueError, "has no rows"),
    ],
)
def test_broken_files_are_explained(tmp_path, name, content, error, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=says):
        load_examples(Source(path=str(tmp_path / name)))


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz", "x.parquet"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(range(128, 255)))
    with pytest.raises(ValueError, match=rf"{name} is no \S+ file, or a damaged one"):
        load_examples(Source(path=str(tmp_path / name)))


def test_a_gzip_file_cut_short_is_named(tmp_path):
    whole = gzip.compress(b'{"text": "a"}\n' * 100)
    (tmp_path / "x.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"x.jsonl.gz is no .jsonl.gz file, or a damaged one"):
        load_examples(Source(path=str(tmp_path / "x.jsonl.gz")))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl does not exist"):
        load_examples(Source(path=str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(ValueError, match="no data file there"):
        load_examples(Source(path=str(tmp_path)))


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"q{i % 150}", "n": i}) + "\n" for i in range(300)))
    return str(file)


def test_splits_are_by_prompt_disjoint_and_whole(prompts):
    train, held = (load_examples(Source(path=prompts, part=p, heldout=0.2)) for p in ("train", "heldout"))
    assert not {e.id for e in train} & {e.id for e in held}
    assert len(train) + len(held) == 300
    assert 0.1 < len(held) / 300 < 0.3
    folds = [load_examples(Source(path=prompts, fold=f, folds=3)) for f in range(3)]
    assert sum(map(len, folds)) == 300
    assert not {e.id for e in folds[0]} & {e.id for e in folds[1]}


def test_limit_and_empty_selection(prompts):
    assert len(load_examples(Source(path=prompts, limit=7))) == 7
    with pytest.raises(ValueError, match="none of its 300 rows"):
        load_examples(Source(path=prompts, part="heldout", heldout=0.0))


def test_every_epoch_shows_every_row_once_in_its_own_order():
    seen = [i for step in range(7) for i in step_indices(10, 4, seed=3, step=step)]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]
    assert step_indices(10, 4, seed=3, step=2) == seen[8:12]
    assert step_indices(10, 4, seed=4, step=2) != seen[8:12]
    assert len(step_indices(3, 8, seed=0, step=0)) == 8  # more than an epoch at once


def test_prompt_ids_are_of_the_content():
    assert prompt_id("Q") == prompt_id("Q") != prompt_id((Message("user", "Q"),))


def test_transcripts_keep_every_turn():
    turns = parse_transcript("\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "x")
    assert [m.role for m in turns] == ["user", "user", "assistant"]


@pytest.mark.parametrize("name", ["harmless-base", "helpful-base", "helpful-rejection-sampled"])
def test_hh_as_it_is(shared_data, name):
    examples = load_examples(Source(path=str(shared_data / "hh_rlhf" / f"{name}.test.jsonl.gz")))
    assert len(examples) > 1800
    assert all(len(e.answers) == 2 for e in examples)
    assert all(m.role == "assistant" for e in examples for a in e.answers for m in a[:1])
    assert sum(len(set(e.answers)) < 2 for e in examples) < 30
    assert np.mean([len(e.answers[0]) == 1 for e in examples]) > 0.98


def test_conversations_and_texts_split_by_what_they_begin_with(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"q{i // 2}"}, *reply(f"a{i}")]} for i in range(200)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    sides = [load_examples(Source(path=str(tmp_path / "m.jsonl"), part=p, heldout=0.3)) for p in ("train", "heldout")]
    assert all(len(side) > 20 for side in sides)
    train, held = ({e.answers[0][0].content for e in side} for side in sides)
    assert not train & held


def test_weights_have_mean_one_and_repeats_can_be_left_out(tmp_path):
    rows = [
        {"prompt": "a", "completion": "x", "weight": 3},
        {"prompt": "a", "completion": "y", "weight": 0},
        {"prompt": "b", "completion": "z", "weight": 3},
    ]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    examples = load_examples(Source(path=str(tmp_path / "w.jsonl")))
    assert [e.weight for e in examples] == [1.5, 0.0, 1.5]
    assert [e.answers for e in without_repeats(examples)] == [("x",), ("z",)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "agreement": 95},
            r"'agreement' needs a finite number in \[0, 1\]",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "weight": -3}, "'weight' needs a finite number of at least 0"),
        ({"prompt": "q", "chosen": "a", "rejected": reply("b")}, "must both be text or both messages"),
    ],
)
def test_numbers_out_of_range_are_refused(row, says):
    with pytest.raises(ValueError, match=says):
        only(row, "here")


def test_null_columns_are_absent_ones():
    assert only({"prompt": "q", "completion": "a", "label": None, "rating": 4}, "here").label == 4.0
    assert only({"prompt": "q", "completions": ["a", "b"], "ranks": None}, "here").ranks == (0, 1)


def test_tables_and_texts_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,completion,label\n"2","four, say",true\nq,a,\n')
    first, second = load_examples(Source(path=str(tmp_path / "a.csv")))
    assert (first.prompt, first.answers, first.label, second.label) == ("2", ("four, say",), 1.0, None)
    (tmp_path / "b.tsv").write_text("prompt\tchosen\trejected\tmargin\nq\ta\tb\t0.5\n")
    assert load_examples(Source(path=str(tmp_path / "b.tsv")))[0].margin == 0.5
    (tmp_path / "c.txt").write_text("once\n\nupon a time\n")
    assert [e.answers for e in load_examples(Source(path=str(tmp_path / "c.txt")))] == [("once",), ("upon a time",)]


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("They went home.", "She said", " She said"),
        ("They went home.", '"Yes," she said', ' "Yes," she said'),
        ("2 + 2 =", "4", " 4"),
        ("They went home.", " She said", " She said"),
        ("They went home.\n", "She said", "She said"),
        ("They went", ", she said", ", she said"),
        ("The cat", "'s hat", "'s hat"),
        ("", "Once", "Once"),
        ("你好吗？", "我很好", "我很好"),
    ],
)
def test_a_blank_joins_answers_that_run_into_their_prompt(prompt, answer, expected, tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": prompt, "completion": answer}))
    source = Source(path=str(tmp_path / "x.jsonl"))
    (plain,) = load_examples(source)
    (example,) = load_examples(source.model_copy(update={"join": " "}))
    assert plain.answers == (answer,)
    assert (example.prompt, example.answers, example.id) == (prompt, (expected,), plain.id)
