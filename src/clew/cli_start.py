"""`clew init` and `clew import-config`: how somebody with data, or with another tool's configuration, begins."""

from pathlib import Path
from typing import Annotated

import typer

from clew.cli_options import Columns, named
from clew.peers.aliases import METHODS


def init(
    file: Annotated[str, typer.Argument(help="Anything that `clew data check` reads.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub name of the model to start from.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the file's name when absent.")] = None,
    columns: Columns = None,
) -> None:
    """Write a commented pipeline for a file, with the method that fits, and a split by prompt."""
    from clew import starter

    folder = out or Path(Path(file).name.partition(".")[0])
    written, says = starter.start(file, folder, model, named(columns))
    typer.echo(says)
    typer.echo(f"\n{written} is ready; read it, then: clew run {written}")


def import_config(
    file: Annotated[Path, typer.Argument(help="YAML of TRL or LLaMA-Factory.")],
    method: Annotated[str | None, typer.Option(help=f"Where the file does not say it: {', '.join(METHODS)}.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; the screen when absent.")] = None,
) -> None:
    """Translate a configuration of TRL or LLaMA-Factory; what has no counterpart is said in comments."""
    from clew.peers.translate import translate

    recipe, text = translate(file, method)
    if out is None:
        typer.echo(text, nl=False)
        return
    out.write_text(text.replace("THIS_FILE", str(out)), encoding="utf-8")
    typer.echo(f"{out} is ready; read it, then: clew {recipe} {out} --show")
