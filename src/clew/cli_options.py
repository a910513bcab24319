"""Options that several commands share."""

from typing import Annotated

import typer

Columns = Annotated[
    list[str] | None, typer.Option("--column", help="What a column of another name is: prompt=question.")
]


def named(columns: list[str] | None) -> dict[str, str]:
    """`prompt=question` as the name here and the name in the file. Raises ConfigError."""
    from clew.config import ConfigError

    for column in columns or []:
        if "=" not in column:
            raise ConfigError(f"--column {column!r} names nothing; expected name=column, as in prompt=question")
    return dict(column.split("=", 1) for column in columns or [])
