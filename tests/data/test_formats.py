"""Formats of other tools and of public sets: the record that each becomes, and the files of the real data."""

import json
from collections import Counter

import pytest

from clew.data.example import NotText
from clew.data.formats import FORMATS, format_of, parse_row
from clew.data.sources import Source, load_examples, read_rows
from clew.types import Message


def user(text: str) -> Message:
    return Message("user", text)


def said(text: str) -> tuple[Message, ...]:
    return (Message("assistant", text),)


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}]
LATER = [*TALK, {"role": "user", "content": "So?"}, {"role": "assistant", "content": "b"}]
SYSTEM = {"role": "system", "content": "be"}
TURN = {"from": "human", "value": "Hi"}
PRM = {"problem": "1+1", "steps": [{"completions": [{"text": "one", "rating": 1}], "chosen_completion": 0}, {"completions": [{"text": "two", "rating": -1}, {"text": "2", "rating": 1}], "chosen_completion": 1}]}  # fmt: skip
CASES = [
    ("Nectar", {"prompt": "q", "answers": [{"answer": "b", "rank": 2}, {"answer": "a", "rank": 1}]}, "q", ("a", "b"), (1, 2)),
    ("LLaMA-Factory alpaca", {"instruction": "do", "input": "it", "output": "done", "system": "be"}, (Message("system", "be"), user("do\nit")), (said("done"),), ()),
    ("LLaMA-Factory alpaca", {"instruction": "do", "input": "", "chosen": "a", "rejected": "b", "history": [["x", "y"]]}, (user("x"), *said("y"), user("do")), (said("a"), said("b")), (0, 1)),
    ("LLaMA-Factory sharegpt", {"conversations": [TURN], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}, (user("Hi"),), (said("a"), said("b")), (0, 1)),
    ("LLaMA-Factory sharegpt", {"conversations": [TURN, {"from": "gpt", "value": "a"}]}, (), ((user("Hi"), *said("a")),), ()),
    ("TL;DR", {"info": {"post": "long", "title": "T"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1}, "TITLE: T\nPOST: long\nTL;DR:", ("b", "a"), (0, 1)),
    ("PRM800K", {"question": {"problem": "1+1"}, "label": PRM}, "1+1", ("one\n2",), ()),
    ("TRL stepwise", {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}, "p", ("a\nb",), ()),
    ("PandaLM", {"instruction": "do", "input": "", "response1": "a", "response2": "b", "annotator1": 2, "annotator2": 2, "annotator3": 0}, "do", ("b", "a"), (0, 1)),
    ("LLMBar", {"input": "q", "output_1": "a", "output_2": "b", "label": 2}, "q", ("b", "a"), (0, 1)),
    ("question and answer", {"question": "q", "answer": "a"}, "q", ("a",), ()),
    ("pair with its question", {"question": "q", "chosen": "The cat sat", "rejected": "The cat ran"}, "q", ("The cat sat", "The cat ran"), (0, 1)),
    ("pair with its question", {"system": "be", "question": "q", "chosen": "a", "rejected": "b"}, (Message("system", "be"), user("q")), ("a", "b"), (0, 1)),
    ("pair with its question", {"system": "", "question": "q", "chosen": "a", "rejected": "b"}, (user("q"),), ("a", "b"), (0, 1)),
    ("pair with its input", {"input": "q", "chosen": "a", "rejected": "b"}, "q", ("a", "b"), (0, 1)),
    ("pair with its input", {"system": "be", "input": "Hi", "chosen": TALK, "rejected": TALK}, (Message("system", "be"), user("Hi")), (said("a"), said("a")), (0, 1)),
    ("pair", {"prompt": [SYSTEM], "chosen": TALK, "rejected": TALK}, (Message("system", "be"), user("Hi")), (said("a"), said("a")), (0, 1)),
    ("pair", {"prompt": [SYSTEM, TALK[0]], "chosen": TALK, "rejected": TALK}, (Message("system", "be"), user("Hi")), (said("a"), said("a")), (0, 1)),
    ("pair", {"prompt": [SYSTEM, *TALK, TALK[0]], "chosen": TALK, "rejected": TALK}, (Message("system", "be"), user("Hi"), *said("a"), user("Hi")), (said("a"), said("a")), (0, 1)),
    ("pair", {"prompt": [SYSTEM, TALK[0]], "chosen": [SYSTEM, *TALK], "rejected": [SYSTEM, *TALK]}, (Message("system", "be"), user("Hi")), (said("a"), said("a")), (0, 1)),
    ("pair", {"prompt": [SYSTEM, LATER[2]], "chosen": LATER, "rejected": LATER}, (Message("system", "be"), user("Hi"), *said("a"), user("So?")), (said("b"), said("b")), (0, 1)),
    ("pair", {"prompt": [SYSTEM, {"role": "user", "content": "Hi "}], "chosen": TALK, "rejected": TALK}, (Message("system", "be"), user("Hi")), (said("a"), said("a")), (0, 1)),
    ("pair", {"prompt": TALK, "chosen": LATER[2:], "rejected": LATER[2:]}, (user("Hi"), *said("a"), user("So?")), (said("b"), said("b")), (0, 1)),
    ("conversation with its prompt", {"prompt": "Hi", "prompt_id": "7", "messages": LATER}, (user("Hi"),), ((*said("a"), user("So?"), *said("b")),), ()),
    ("conversation with its prompt", {"prompt": "Hi", "messages": TALK, "label": True}, (user("Hi"),), (said("a"),), ()),
    ("LLaMA-Factory alpaca", {"instruction": "do", "output": "x", "chosen": "a", "rejected": "b"}, (user("do"),), (said("a"), said("b")), (0, 1)),
    ("conversation", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}], "label": False}, (user("Hi"),), (said("a"),), ()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "prompt", "answers", "ranks"), CASES)
def test_rows_of_other_tools_become_the_same_record(name, row, prompt, answers, ranks):
    assert name in format_of(row).name
    (example,) = parse_row(row, "here")
    assert (example.prompt, example.answers, example.ranks) == (prompt, answers, ranks)


def test_votes_become_agreement_and_steps_keep_their_labels():
    (panda,) = parse_row(CASES[8][1], "here")
    assert panda.agreement == pytest.approx(5 / 6)
    (steps,) = parse_row({"question": {"problem": "1+1"}, "label": PRM}, "here")
    assert (steps.info["steps"], steps.info["step_labels"]) == (["one", "2"], [1.0, 1.0])
    (mistake,) = parse_row({"input": "q", "steps": ["a", "b", "c"], "mistake_index": 1}, "here")
    assert mistake.info["step_labels"] == [1.0, 0.0]


def test_judged_solutions_become_judged_answers():
    row = {"question": "q", "ground_truth": "4", "small": {"is_correct": False, "solution": "3"}, "big": {"is_correct": True, "solution": "4"}}  # fmt: skip
    assert [(e.answers, e.label) for e in parse_row(row, "here")] == [(("3",), 0.0), (("4",), 1.0)]


def test_a_tree_becomes_a_ranking_for_every_prompt_with_ranked_replies():
    def reply(text, rank, *replies):
        return {"text": text, "role": "assistant", "rank": rank, "replies": list(replies)}

    again = {"text": "and?", "role": "prompter", "replies": [reply("c", 1), reply("d", 0)]}
    tree = {
        "message_tree_id": "t",
        "prompt": {"text": "q", "role": "prompter", "replies": [reply("b", 1), reply("a", 0, again)]},
    }
    first, second = parse_row(tree, "here")
    assert (first.prompt, first.answers, first.ranks) == ((user("q"),), (said("a"), said("b")), (0, 1))
    assert second.prompt == (user("q"), *said("a"), user("and?"))
    assert second.answers == (said("d"), said("c"))


@pytest.mark.parametrize(
    "row", [{"caption": "a cat", "label_0": 1, "label_1": 0}, {"model_a": "x", "model_b": "y", "winner": "model_a"}]
)
def test_what_text_methods_cannot_use_is_named(row):
    with pytest.raises(NotText, match="row 3: a"):
        parse_row(row, "row 3")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"instruction": 3, "output": "a"}, "'instruction' needs text; got 3"),
        ({"conversations": "Hi"}, "'conversations' needs a list"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "expected from in"),
        ({"prompt": "q", "answers": ["a"]}, "'answers' needs an object"),
        ({"info": "x", "summaries": [], "choice": 0}, "'info' needs an object"),
        ({"info": {"post": "p"}, "summaries": [{"text": "a"}], "choice": 4}, r"'choice' needs a finite number in \[0, 0\]"),
        ({"prompt": "p", "completions": ["a"], "labels": [True, False]}, "one label for each of 1"),
    ],
)  # fmt: skip
def test_wrong_rows_are_explained(row, says):
    with pytest.raises(ValueError, match=says):
        parse_row(row, "here")


REAL = {
    "formats/alpaca_en_demo.json": ("LLaMA-Factory alpaca", 999),
    "formats/dpo_en_demo.json": ("LLaMA-Factory sharegpt", 299),
    "formats/kto_en_demo.json": ("conversation", 300),
    "hh_rlhf/harmless-base.test.jsonl.gz": ("pair, prompt in common", 1837),
    "pandalm/testset-v1.json": ("PandaLM", 477),
    "llmbar/Adversarial_Manual.json": ("LLMBar", 46),
    "oasst/en_100_tree.jsonl": ("OASST", 167),
    "fine_grained_rlhf/dev_feedback.json": ("fine-grained RLHF", 345),
    "bigbench_mistake/dyck_languages.jsonl": ("BIG-Bench Mistake", 986),
    "gsm8k/example_model_solutions.jsonl": ("solutions judged", 4 * 660),
    "gsm8k/train.jsonl": ("question and answer", 7473),
    "humaneval/HumanEval.jsonl.gz": ("prompt", 164),
    "sentiment/stsa.binary.train": ("text", 6920),
    "sentiment/stsa.fine.dev": ("text", 1101),
    "mt_bench_judgments/question.jsonl": ("MT-bench", 80),
}


@pytest.mark.parametrize("file", REAL)
def test_real_files_are_recognised(file, shared_data):
    name, count = REAL[file]
    rows = list(read_rows(str(shared_data / file)))
    assert all(name in found for found in Counter(format_of(row).name for row in rows))
    assert sum(len(parse_row(row, file)) for row in rows) == count


VERL = {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": "1+1?"}], "ability": "math", "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"split": "train", "index": 7}}  # fmt: skip


def test_what_rewards_of_verl_see_are_columns():
    (example,) = parse_row(VERL, "here")
    assert example.prompt == (user("1+1?"),)
    assert example.info["ground_truth"] == "2"
    assert (example.info["data_source"], example.info["index"], example.info["extra_info"]["split"]) == (
        "openai/gsm8k",
        7,
        "train",
    )


@pytest.mark.parametrize(
    ("row", "prompt", "answers", "label"),
    [
        ({"input": "q", "output": "a"}, "q", ("a",), None),
        ({"input": "q", "output": "a", "label": True}, "q", ("a",), 1.0),
        ({"context_messages": [{"role": "user", "content": "q"}]}, (user("q"),), (), None),
        ({"question_id": 81, "turns": ["q", "and?"]}, "q", (), None),
        ({"text": "lovely .", "label": 1}, "", ("lovely .",), 1.0),
        ({"text": "lovely .", "label": "positive"}, "", ("lovely .",), None),
    ],
)
def test_columns_of_openrlhf_mt_bench_and_labelled_texts(row, prompt, answers, label):
    (example,) = parse_row(row, "here")
    assert (example.prompt, example.answers, example.label) == (prompt, answers, label)


def test_every_format_says_what_it_is():
    assert all(len(form.about) > 20 for form in FORMATS)
    assert len({form.about for form in FORMATS}) == len(FORMATS)


DESCRIBED = {
    "mine": {"file_name": "mine.json", "columns": {"prompt": "ask", "query": "with", "response": "say", "system": "who"}},
    "chats": {"file_name": "chats.json", "formatting": "sharegpt", "ranking": True, "columns": {"messages": "talk", "chosen": "good", "rejected": "ill"}, "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "customer", "assistant_tag": "clerk"}},
    "texts": {"file_name": "texts.json", "columns": {"prompt": "body"}},
}  # fmt: skip
FILES = {
    "mine.json": ({"ask": "do", "with": "it", "say": "done", "who": "be"}, "alpaca", (Message("system", "be"), user("do\nit")), (said("done"),)),
    "chats.json": ({"talk": [{"role": "customer", "content": "Hi"}], "good": {"role": "clerk", "content": "Ho"}, "ill": {"role": "clerk", "content": "Hm"}}, "sharegpt", (user("Hi"),), (said("Ho"), said("Hm"))),
    "texts.json": ({"body": "once"}, "text", "", ("once",)),
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_columns_are_meant_as_dataset_info_says(file, tmp_path):
    row, name, prompt, answers = FILES[file]
    (tmp_path / "dataset_info.json").write_text(json.dumps(DESCRIBED))
    (tmp_path / file).write_text(json.dumps([row]))
    (read,) = read_rows(str(tmp_path / file))
    assert name in format_of(read).name
    (example,) = parse_row(read, "here")
    assert (example.prompt, example.answers) == (prompt, answers)
    assert list(read_rows(str(tmp_path)))  # the folder's data, without dataset_info.json


def test_columns_can_be_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"q": "How?", "better": "So.", "worse": "No.", "prompt": 3}\n')
    source = Source(path=str(tmp_path / "x.jsonl"), columns={"prompt": "q", "chosen": "better", "rejected": "worse"})
    (example,) = load_examples(source)
    assert (example.prompt, example.answers, example.ranks) == ("How?", ("So.", "No."), (0, 1))
    with pytest.raises(ValueError, match=r"row 1: no column 'best' \(columns: q, better, worse, prompt\)"):
        load_examples(Source(path=source.path, columns={"chosen": "best"}))


def test_files_of_numbers_and_texts_are_read_as_latin_1_where_they_are_no_utf_8(tmp_path):
    (tmp_path / "x.train").write_bytes(b"1 a caf\xe9 .\n0 dull\n")
    assert list(read_rows(str(tmp_path / "x.train"))) == [
        {"text": "a café .", "label": 1},
        {"text": "dull", "label": 0},
    ]
    (tmp_path / "y.train").write_bytes(b"1 fine\nno label\n")
    with pytest.raises(ValueError, match="line 2: expected a number and a text"):
        list(read_rows(str(tmp_path / "y.train")))
