"""`clew data`: look at a file before training on it."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clew.config import ConfigError
from clew.data import check
from clew.data.formats import Example

AROUND = 24
"""Tokens shown on either side of the border between prompt and answer."""

app = typer.Typer(no_args_is_help=True, help="Look at a file before training on it.")


@app.command("check")
def check_file(
    file: Annotated[str, typer.Argument(help="JSONL, JSON, parquet, a folder of them, or a hub name.")],
    method: Annotated[str | None, typer.Option("--for", help=f"One of {', '.join(check.USES)}.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub name whose tokenizer shows what is learnt.")] = None,
    heldout: Annotated[
        str | None, typer.Option(help="A held-out file; its prompts should be no training prompts.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="transcript, chatml, or a Jinja file.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and answer together.")] = 512,
    truncation: Annotated[str, typer.Option(help="error, drop, truncate_prompt_left, truncate_completion.")] = "error",
    convert: Annotated[Path | None, typer.Option(help="Write the rows as JSONL in clew's own columns.")] = None,
) -> None:
    """Say what a file holds, which methods can use it, and what is wrong with it.

    Exits 1 when a row is wrong or the method asked for cannot use the file.
    """
    if method is not None and method not in check.USES:
        raise ConfigError(f"no method {method!r} (methods: {', '.join(check.USES)})")
    screen = Console(highlight=False)
    found = check.survey(file)
    for name, count in found.formats.most_common():
        screen.print(f"{count:7} rows  {name}")
    screen.print(f"{len(found.examples):7} examples, {len({e.id for e in found.examples})} different prompts\n")
    ways = check.usable(found.examples)
    _table(screen, "usable for", {f"{m}  [dim]needs {check.USES[m][0]}[/dim]": n for m, n in ways.items() if n})
    _table(screen, "worth a look", check.problems(found.examples))
    if heldout is not None:
        shared = check.leaks(found.examples, check.survey(heldout).examples)
        screen.print(f"{shared:7} prompts of {heldout} are training prompts too")
    for says in found.refused[: check.SHOWN]:
        screen.print(f"[red]wrong[/red]  {says}", soft_wrap=True)
    if len(found.refused) > check.SHOWN:
        screen.print(f"       … and {len(found.refused) - check.SHOWN} rows more")
    fitting = [e for e in found.examples if method is None or check.USES[method][1](e)]
    if model is not None:
        _tokens(screen, fitting, model, {"template": template, "max_length": max_length, "truncation": truncation})
    if convert is not None:
        screen.print(f"{check.convert(fitting, convert):7} rows written to {convert}")
    raise typer.Exit(1 if found.refused or not fitting else 0)


def _tokens(screen: Console, examples: list[Example], model: str, encoding: dict[str, object]) -> None:
    """What a method would see: counts of what happens to the rows, and the first ones token by token."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from clew.config import build
    from clew.data.chat import Codec, Encoding, TooLong

    logging.set_verbosity_error()  # rows that are too long are counted here
    codec = Codec(AutoTokenizer.from_pretrained(model), build(Encoding, encoding, "options"))
    counts: Counter[str] = Counter()
    lengths: list[int] = []
    shown = 0
    for example in examples:
        if not example.answers:
            continue
        try:
            rows = codec.encode(example)
        except TooLong:
            counts["rows longer than max_length"] += 1
            continue
        except ValueError as error:
            counts[str(error)[:120]] += 1
            continue
        for row in rows or []:
            lengths.append(len(row.tokens))
            if shown < check.SHOWN:
                names = [str(codec.tokenizer.convert_ids_to_tokens(token)) for token in row.tokens]
                screen.print(_line(names, row.mask))
                shown += 1
    screen.print("\n[green]learnt[/green] [dim]read only[/dim]")
    counts.update({k: v for k, v in codec.counts.items() if v})
    _table(screen, "after encoding", dict(counts))
    if lengths:
        ordered = sorted(lengths)
        half, most = ordered[len(ordered) // 2], ordered[-1]
        screen.print(f"tokens a row: median {half}, 95 % below {ordered[int(0.95 * len(ordered))]}, longest {most}")


def _line(names: list[str], learnt: list[bool]) -> Text:
    """A row's tokens around the border of prompt and answer, and its end."""
    first, last = learnt.index(True), len(names)
    parts = [(max(first - AROUND, 0), min(first + AROUND, last)), (max(first + AROUND, last - AROUND // 4), last)]
    line = Text("… " if parts[0][0] else "", style="dim")
    for number, (start, end) in enumerate(parts):
        line.append("… " if number and parts[0][1] < start < end else "", style="dim")
        for i in range(start, end):
            line.append(f"{names[i]} ", style="green" if learnt[i] else "dim")
    return line


def _table(screen: Console, title: str, counts: dict[str, int]) -> None:
    if not counts:
        return
    table = Table(title, "", box=None, title_justify="left", header_style="bold", pad_edge=False)
    for name, count in counts.items():
        table.add_row(f"  {name}", str(count))
    screen.print(table, "")
