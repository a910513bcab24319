"""LLaMA-Factory's `dataset_info.json`, which says what the columns of the files beside it mean."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clew.data.example import Row

NAME = "dataset_info.json"
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
SHAREGPT = {"messages": "conversations"}
BOTH = {c: c for c in ("system", "history", "tools", "chosen", "rejected", "kto_tag")}
TAGS = {
    "user_tag": "human", "assistant_tag": "gpt", "observation_tag": "observation", "function_tag": "function_call",
    "system_tag": "system",
}  # fmt: skip


def renaming(file: Path) -> Callable[[Row], Row] | None:
    """What turns a row of the file into alpaca's or sharegpt's columns; None where no entry beside it names it.

    Raises ValueError when `dataset_info.json` is no JSON object.
    """
    entries = {} if file.name == NAME else entries_of(file.parent)
    mine = [e for e in entries.values() if e.get("file_name") == file.name]
    return None if not mine else lambda row: _renamed(row, mine[0])


def path_of(entry: Mapping[str, Any], folder: Path) -> str | None:
    """The hub name (`owner/name[:split]`) or the file of a dataset described in a folder; None where it has neither."""
    hub, file = entry.get("hf_hub_url"), entry.get("file_name")
    if hub:
        return f"{hub}:{entry['split']}" if entry.get("split", "train") != "train" else str(hub)
    return str(folder / file) if file else None


def entries_of(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What a folder's dataset_info.json describes, by name; nothing where there is none."""
    described = folder / NAME
    if not described.exists():
        return {}
    try:
        entries = json.loads(described.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{described} is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{described}: expected an object of datasets by name; got {type(entries).__name__}")
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def _renamed(row: Row, entry: Mapping[str, Any]) -> Row:
    is_sharegpt = entry.get("formatting", "alpaca") == "sharegpt"
    theirs = dict(entry.get("columns") or {})
    if not is_sharegpt and set(theirs) == {"prompt"}:  # pretraining
        return {**row, "text": row.get(theirs["prompt"])}
    names = (SHAREGPT if is_sharegpt else ALPACA) | BOTH
    moved = {names[k]: row[c] for k, c in theirs.items() if k in names and c in row}
    found = {**{k: v for k, v in row.items() if k not in theirs.values()}, **moved}
    if is_sharegpt:
        tags = entry.get("tags") or {}
        found |= {c: _retagged(found[c], tags) for c in ("conversations", "chosen", "rejected") if c in found}
    return found


def _retagged(turns: Any, tags: Mapping[str, str]) -> Any:
    """Turns with the keys and speakers that sharegpt has by default."""
    if isinstance(turns, list):
        return [_retagged(turn, tags) for turn in turns]
    if not isinstance(turns, dict):
        return turns
    speakers = {tags.get(tag, usual): usual for tag, usual in TAGS.items()}
    speaker = str(turns.get(tags.get("role_tag", "from")))
    return {"from": speakers.get(speaker, speaker), "value": turns.get(tags.get("content_tag", "value"))}
