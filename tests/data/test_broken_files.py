"""Files that people really have: each gets a message that names the file or the row, and no traceback."""

import gzip
import json
import sys

import pytest

from clew.cli import main


def rows(*found) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in found).encode()


USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("x.jsonl", b"", "no rows"),
    "only blank lines": ("x.jsonl", b"\n\n \n", "no rows"),
    "a list in lines": ("x.jsonl", b"[1, 2]\n", "expected an object with named columns; got list"),
    "a number in lines": ("x.jsonl", b"3\n", "expected an object with named columns; got int"),
    "half an object": ("x.jsonl", b'{"text": "a"}\n{"text": "b"', "line 2 is not JSON"),
    "single quotes": ("x.jsonl", b"{'text': 'a'}\n", "line 1 is not JSON"),
    "two objects in a line": ("x.jsonl", b'{"text": "a"} {"text": "b"}\n', "line 1 is not JSON"),
    "a trailing comma": ("x.json", b'[{"text": "a"},]', "is not JSON"),
    "a JSON object": ("x.json", b'{"data": [{"text": "a"}]}', "expected a list of objects; got dict"),
    "JSON lines named json": ("x.json", rows({"text": "a"}, {"text": "b"}), "is not JSON"),
    "a JSON list of texts": ("x.json", b'["a", "b"]', "expected an object with named columns; got str"),
    "latin-1": ("x.jsonl", '{"text": "Zürich"}\n'.encode("latin-1"), "or a damaged one"),
    "UTF-16": ("x.jsonl", '{"text": "a"}\n'.encode("utf-16"), "or a damaged one"),
    "a picture": ("x.jsonl", b"\x89PNG\r\n\x1a\n\x00\x00", "or a damaged one"),
    "zero bytes": ("x.jsonl", b"\x00" * 64, "is not JSON"),
    "no gzip": ("x.jsonl.gz", rows({"text": "a"}), "is no .jsonl.gz file"),
    "gzip cut short": ("x.jsonl.gz", gzip.compress(rows({"text": "a"}) * 500)[:-12], "is no .jsonl.gz file"),
    "no parquet": ("x.parquet", rows({"text": "a"}), "is no parquet file"),
    "an empty parquet": ("x.parquet", b"", "is no parquet file"),
    "an unknown ending": ("x.docx", b"PK", "unknown kind of file"),
    "a table without a second column": ("x.csv", b"prompt,completion\nonly\n", "row 1: expected 2 columns"),
    "a table with one column too many": ("x.csv", b"prompt,completion\na,b,c\n", "row 1: expected 2 columns"),
    "a table of other columns": ("x.csv", b"foo,bar\na,b\n", "columns ['bar', 'foo'] are of no known format"),
    "an unknown column": ("x.jsonl", rows({"question_text": "a"}), "['question_text'] are of no known format"),
    "a misspelt column": ("x.jsonl", rows({"chosen": "a", "rejcted": "b"}), "of no known format"),
    "an empty object": ("x.jsonl", b"{}\n", "columns [] are of no known format"),
    "null columns": ("x.jsonl", rows({"prompt": None, "completion": None}), "of no known format"),
    "a number for text": ("x.jsonl", rows({"prompt": "a", "completion": 3}), "column 'completion' needs text"),
    "true for text": ("x.jsonl", rows({"prompt": "a", "chosen": True, "rejected": "b"}), "column 'chosen' needs text"),
    "a list of texts": ("x.jsonl", rows({"messages": ["a", "b"]}), "column 'messages' needs text or a list"),
    "text for messages": ("x.jsonl", rows({"messages": "a"}), "column 'messages' needs a list of messages"),
    "no messages": ("x.jsonl", rows({"messages": []}), "column 'messages' needs text or a list"),
    "a message without role": ("x.jsonl", rows({"messages": [{"content": "a"}]}), "expected role in"),
    "an unknown role": ("x.jsonl", rows({"messages": [{"role": "bot", "content": "a"}]}), "expected role in"),
    "a message without content": ("x.jsonl", rows({"messages": [{"role": "user"}]}), "expected role in"),
    "content in parts": ("x.jsonl", rows({"messages": [{"role": "user", "content": [{"type": "text"}]}]}), "expected role in"),
    "text against messages": ("x.jsonl", rows({"chosen": "a", "rejected": [USER, BOT]}), "both be text or both messages"),
    "one answer to rank": ("x.jsonl", rows({"prompt": "a", "completions": ["b"]}), "at least two answers"),
    "too few ranks": ("x.jsonl", rows({"prompt": "a", "completions": ["b", "c"], "ranks": [0]}), "one integer for each of 2"),
    "ranks that are text": ("x.jsonl", rows({"prompt": "a", "completions": ["b", "c"], "ranks": ["1", "2"]}), "one integer for each"),
    "ranks that are no list": ("x.jsonl", rows({"prompt": "a", "completions": ["b", "c"], "ranks": 1}), "one integer for each"),
    "a label in words": ("x.jsonl", rows({"prompt": "a", "completion": "b", "label": "good"}), "column 'label' needs a finite number"),
    "a margin without end": ("x.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "c", "margin": Infinity}\n', "needs a finite number"),
    "agreement in percent": ("x.jsonl", rows({"prompt": "a", "chosen": "b", "rejected": "c", "agreement": 80}), "in [0, 1]"),
    "a negative weight": ("x.jsonl", rows({"text": "a", "weight": -1}), "of at least 0"),
    "a cut that is no place": ("x.jsonl", rows({"prompt": "a", "completion": "b", "cut": "yes"}), "column 'cut' needs a list"),
    "a transcript of nobody": ("x.jsonl", rows({"chosen": "Bob: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"}), "does not begin with Human"),
    "ShareGPT from elsewhere": ("x.jsonl", rows({"conversations": [{"from": "alien", "value": "a"}]}), "expected from in"),
    "ShareGPT without turns": ("x.jsonl", rows({"conversations": {}}), "needs a list with something in it"),
    "a history of single texts": ("x.jsonl", rows({"instruction": "a", "output": "b", "history": ["c"]}), "needs pairs of question and answer"),
    "steps without as many labels": ("x.jsonl", rows({"prompt": "a", "completions": ["b"], "labels": []}), "column 'labels' needs a list"),
    "labels of steps in words": ("x.jsonl", rows({"prompt": "a", "completions": ["b"], "labels": ["+"]}), "needs numbers"),
    "a choice out of range": ("x.jsonl", rows({"info": {"post": "a"}, "summaries": [{"text": "b"}], "choice": 7}), "column 'choice' needs"),
    "a tree of texts": ("x.jsonl", rows({"message_tree_id": "t", "prompt": "a"}), "column 'prompt' needs an object"),
    "a mistake in words": ("x.jsonl", rows({"input": "a", "steps": ["b"], "mistake_index": "none"}), "column 'mistake_index' needs"),
    "Nectar without ranks": ("x.jsonl", rows({"prompt": "a", "answers": [{"answer": "b"}, {"answer": "c"}]}), "column 'rank' needs"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gets_a_message(name, tmp_path, monkeypatch, capsys):
    file, content, says = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["clew", "data", "check", str(tmp_path / file)])
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as stop:
        main()
    told = "".join(capsys.readouterr())
    assert stop.value.code in (1, 2)
    assert says in told
    assert "Traceback" not in told


def test_there_are_many():
    assert len(BROKEN) >= 40
