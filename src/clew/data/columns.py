"""What a column of a row must hold. Every error names the row, the column, what was found and what was expected."""

from typing import Any

import numpy as np

from clew.data.example import Row
from clew.data.messages import as_message
from clew.types import Text


def as_text(value: Any, column: str, where: str) -> Text:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        return tuple(as_message(m, column, where) for m in value)
    raise ValueError(f"{where}: column {column!r} needs text or a list of messages; got {value!r:.80}")


def string(row: Row, column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise ValueError(f"{where}: column {column!r} needs text; got {value!r:.80}")
    return value


def number(
    row: Row, column: str, where: str, default: float | None, *, least: float = -np.inf, most: float = np.inf
) -> float:
    """A number of a column, or the default, which a column that must be there has not."""
    value = row[column] if row.get(column) is not None else default
    if isinstance(value, (int, float)) and np.isfinite(value) and least <= value <= most:
        return float(value)
    bounds = "" if least == -np.inf else f" of at least {least:g}" if most == np.inf else f" in [{least:g}, {most:g}]"
    raise ValueError(f"{where}: column {column!r} needs a finite number{bounds}; got {value!r:.80}")


def entries(row: Row, column: str, where: str) -> list[Any]:
    value = row.get(column)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: column {column!r} needs a list with something in it; got {value!r:.80}")
    return value


def as_object(value: Any, column: str, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: column {column!r} needs an object with named fields; got {value!r:.80}")
    return value


def cut_places(row: Row, where: str) -> tuple[int, ...]:
    """Places of the answers that were cut by length."""
    places = row["cut"] if row.get("cut") is not None else []
    if not isinstance(places, list) or not all(isinstance(p, int) for p in places):
        raise ValueError(f"{where}: column 'cut' needs a list of places, from 0; got {places!r:.80}")
    return tuple(places)
