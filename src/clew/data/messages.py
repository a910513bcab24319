"""Messages and tools of a row, as OpenAI, TRL and Hugging Face write them."""

import json
from collections.abc import Mapping
from typing import Any, cast, get_args

from clew.types import Message, Role


def as_message(message: Mapping[str, Any], column: str, where: str) -> Message:
    """One turn, with what was thought (`thinking` or `reasoning_content`) and which tools are called.

    Content may be a list of parts of text, and absent beside tool calls. Raises ValueError naming the column.
    """
    role, content = message.get("role"), _content(message.get("content"))
    calls = message.get("tool_calls")
    if content is None and calls:
        content = ""
    if role not in get_args(Role) or not isinstance(content, str):
        raise ValueError(
            f"{where}: column {column!r} has a message {dict(message)!r:.80}; expected role in {get_args(Role)} and "
            "content as text, as a list of {type: text, text}, or absent beside tool_calls"
        )
    if calls and role != "assistant":
        raise ValueError(
            f"{where}: column {column!r} has tool_calls in a turn of {role}; only the assistant calls tools"
        )
    others = {key: message.get(key) or "" for key in ("thinking", "reasoning_content", "name", "tool_call_id")}
    for key, value in others.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}: column {column!r} has a message with {key} {value!r:.80}; expected text")
    return Message(
        cast(Role, role),
        content,
        thinking=others["thinking"] or others["reasoning_content"],
        tool_calls=_calls(calls, column, where) if calls else "",
        name=others["name"],
        tool_call_id=others["tool_call_id"],
    )


def as_tools(value: Any, where: str) -> list[dict[str, Any]]:
    """The column `tools`: functions described by JSON schemas, in a list or in the JSON text of one."""
    tools = _loaded(value)
    if not isinstance(tools, list) or not all(isinstance(t, dict) and _function(t).get("name") for t in tools):
        raise ValueError(
            f"{where}: column 'tools' needs a list of functions {{type: function, function: {{name, parameters}}}}, or "
            f"its JSON text; got {value!r:.80}"
        )
    return tools


def tool_names(tools: list[dict[str, Any]]) -> list[str]:
    """Names of described or called functions."""
    return [str(_function(tool)["name"]) for tool in tools]


def _content(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        return "".join(part["text"] for part in value)
    return value


def _calls(value: Any, column: str, where: str) -> str:
    """Tool calls as one JSON text; arguments, which many files keep as JSON text, as objects."""
    calls = _loaded(value)
    found: list[dict[str, Any]] = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = _function(call) if isinstance(call, dict) else {}
        arguments = _loaded(function.get("arguments") or {})
        if not isinstance(function.get("name"), str) or not isinstance(arguments, dict):
            raise ValueError(
                f"{where}: column {column!r} has a tool call {call!r:.80}; expected {{function: {{name, arguments}}}} "
                "with arguments as an object or the JSON text of one"
            )
        named = {"id": call["id"]} if call.get("id") else {}
        found.append({**named, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return json.dumps(found, ensure_ascii=False)


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is described or called, which some files wrap in `function`."""
    return tool["function"] if isinstance(tool.get("function"), dict) else tool


def _loaded(value: Any) -> Any:
    """JSON text as what it says; what is no JSON as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value
