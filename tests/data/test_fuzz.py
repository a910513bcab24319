"""Whatever a row holds, it becomes examples or a ValueError that names the row; never another error."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clew.data.check import as_row, problems, usable
from clew.data.formats import FORMATS, parse_row
from clew.data.sources import read_rows

from .test_exports import CASES as EXPORTS
from .test_formats import CASES, VERL

REPLIES = [{"text": t, "role": "assistant", "rank": i, "replies": []} for i, t in enumerate("ab")]
MORE = (
    {"message_tree_id": "t", "prompt": {"text": "q", "role": "prompter", "replies": REPLIES}},
    {"question": "q", **{f"prediction {i}": "p" for i in range(1, 5)}, "preference": [1, 2, 0, 1, 2, 0]},
    {"prompt": "q", "completions": ["a", "b", "c"], "ranks": [1, 0, 1], "cut": [2]},
    {
        "prompt": "q",
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    },
    {"input": "q", "steps": ["a", "b"], "mistake_index": 1},
    {
        "prompt": "q",
        "response_1": "a",
        "response_2": "b",
        "better.responses": ["response_1"],
        "better.responses.status": ["submitted"],
    },
    VERL,
    *(row for _, row, *_ in EXPORTS),
)
COLUMNS = sorted(
    {c for f in FORMATS for c in (*f.columns, *f.optional)} | {"weight", "cut", "annotator1", "prediction 2"}
)
INNER = [
    "role",
    "content",
    "from",
    "value",
    "text",
    "answer",
    "rank",
    "completion",
    "steps",
    "completions",
    "post",
    "replies",
]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=6),
    st.sampled_from(["user", "assistant", "human", "gpt", "prompter", "\n\nHuman: a\n\nAssistant: b"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=12,
)
ROWS = st.sampled_from(FORMATS).flatmap(
    lambda form: st.fixed_dictionaries(
        dict.fromkeys(form.columns, VALUES), optional=dict.fromkeys([*form.optional, "weight", "cut", "extra"], VALUES)
    )
) | st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=6)


def places(value, path=()):
    """Every place in a nested row."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


@st.composite
def almost_right(draw):
    """A row of a format with one thing in it replaced."""
    row = json.loads(json.dumps(draw(st.sampled_from([*MORE, *(case[1] for case in CASES)]))))
    *parents, last = draw(st.sampled_from(list(places(row))))
    at = row
    for key in parents:
        at = at[key]
    at[last] = draw(VALUES)
    return row


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ROWS | almost_right())
def test_any_row_is_read_or_refused(row):
    is_read_or_refused(row)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, derandomize=True)
@given(ROWS | almost_right())
def test_any_of_many_rows_is_read_or_refused(row):
    is_read_or_refused(row)


def is_read_or_refused(row):
    try:
        examples = parse_row(row, "row 1")
    except ValueError as error:
        assert "row 1" in str(error)
        return
    problems(examples)
    usable(examples)
    for example in examples:
        json.dumps(as_row(example))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80), st.sampled_from([".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv", ".tsv", ".txt"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, suffix):
    file = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    file.write_bytes(content)
    try:
        list(read_rows(str(file)))
    except ValueError as error:
        assert file.name in str(error)
