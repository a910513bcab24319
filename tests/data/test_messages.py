import json

import pytest

from clew.data.formats import parse_row
from clew.data.messages import as_message, as_tools
from clew.feedback.records import Item
from clew.types import Message, as_string

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
TEXT = '[{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}]'
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def read(**message) -> Message:
    return as_message(message, "messages", "f row 1")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "developer", "content": "Be brief."}, Message("developer", "Be brief.")),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, Message("user", "ab")),
        ({"role": "assistant", "content": "a", "thinking": "t"}, Message("assistant", "a", thinking="t")),
        ({"role": "assistant", "content": "a", "reasoning_content": "t"}, Message("assistant", "a", thinking="t")),
        ({"role": "assistant", "content": "a", "tool_calls": None, "name": None}, Message("assistant", "a")),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, Message("assistant", "", tool_calls=TEXT)),
        ({"role": "assistant", "tool_calls": json.dumps([CALL])}, Message("assistant", "", tool_calls=TEXT)),
        (
            {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}]},
            Message("assistant", "", tool_calls=TEXT),
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "c1", "name": "weather", "arguments": {"city": "Zürich"}}]},
            Message("assistant", "", tool_calls=TEXT),
        ),
        (
            {"role": "tool", "content": "wet", "name": "weather", "tool_call_id": "c1"},
            Message("tool", "wet", name="weather", tool_call_id="c1"),
        ),
    ],
)  # fmt: skip
def test_messages_of_every_kind_are_read(message, expected):
    assert read(**message) == expected
    assert read(**expected.as_row()) == expected


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "robot", "content": "a"}, "expected role in .*developer"),
        ({"role": "user", "content": None}, "content as text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "list of {type: text, text}"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "only the assistant calls tools"),
        ({"role": "assistant", "tool_calls": ["weather"]}, r"a tool call 'weather'; expected {function: {name, arguments}}"),
        ({"role": "assistant", "tool_calls": [{"name": "weather", "arguments": "city=Oslo"}]}, "with arguments as an object"),
        ({"role": "assistant", "tool_calls": [{"name": "weather", "arguments": "[1]"}]}, "with arguments as an object"),
        ({"role": "assistant", "content": "a", "thinking": 3}, "with thinking 3; expected text"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused_with_its_row_and_column(message, says):
    with pytest.raises(ValueError, match=rf"f row 1: column 'messages' has .*{says}"):
        read(**message)


def test_tools_are_a_list_or_its_json():
    assert as_tools([WEATHER], "f row 1") == as_tools(json.dumps([WEATHER]), "f row 1") == [WEATHER]
    for wrong in ("weather", [{"type": "function"}], {"name": "weather"}):
        with pytest.raises(ValueError, match="f row 1: column 'tools' needs a list of functions"):
            as_tools(wrong, "f row 1")


def test_tools_of_a_conversation_travel_along_and_those_of_text_are_any_column():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (talk,) = parse_row({"messages": messages, "tools": json.dumps([WEATHER])}, "f row 1")
    assert talk.info["tools"] == [WEATHER]
    (text,) = parse_row({"text": "a", "tools": "hammer, nail"}, "f row 1")
    assert text.info["tools"] == "hammer, nail"


def test_plain_messages_keep_their_ids_and_different_ones_differ():
    plain = (Message("user", "q"), Message("assistant", "a"))
    assert as_string(plain) == '[["user", "q"], ["assistant", "a"]]'
    others = (
        Message("assistant", "a", thinking="x"), Message("assistant", "a", name="x"),
        Message("assistant", "a", tool_calls=TEXT), Message("assistant", "a", tool_call_id="x"),
    )  # fmt: skip
    assert len({as_string((plain[0], m)) for m in (plain[1], *others)}) == 5


def test_a_stored_prompt_keeps_what_its_messages_carry():
    item = Item(prompt=(Message("assistant", "", thinking="t", tool_calls=TEXT),), completion="a")
    assert Item.model_validate_json(item.model_dump_json()) == item
