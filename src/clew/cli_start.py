"""`clew init` and `clew import-config`: how somebody with data, or with another tool's configuration, begins."""

from pathlib import Path
from typing import Annotated

import typer

from clew import starter
from clew.cli_data import Columns, named


def init(
    file: Annotated[str, typer.Argument(help="Anything that `clew data check` reads.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub name of the model to start from.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the file's name when absent.")] = None,
    columns: Columns = None,
) -> None:
    """Write a commented pipeline for a file, with the method that fits, and a split by prompt."""
    folder = out or Path(Path(file).name.partition(".")[0])
    written, says = starter.start(file, folder, model, named(columns))
    typer.echo(says)
    typer.echo(f"\n{written} is ready; read it, then: clew run {written}")
