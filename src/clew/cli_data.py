"""`clew data`: look at a file before training on it, and keep what is well-formed."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from clew.cli_options import Columns, named

if TYPE_CHECKING:
    from clew.data.check import Survey

AROUND = 24
"""Tokens shown on either side of the border between prompt and answer."""

app = typer.Typer(no_args_is_help=True, help="Look at a file before training on it, and keep what is well-formed.")


@app.command("check")
def check_file(
    file: Annotated[str, typer.Argument(help="JSONL, JSON, parquet, a folder of them, or a hub name.")],
    method: Annotated[str | None, typer.Option("--for", help="One of pretrain, sft, reward, dpo, kto, rl.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub name whose tokenizer shows what is learnt.")] = None,
    heldout: Annotated[
        str | None, typer.Option(help="A held-out file; its prompts should be no training prompts.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="transcript, chatml, or a Jinja file.")] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and answer together.")] = 512,
    truncation: Annotated[str, typer.Option(help="error, drop, truncate_prompt_left, truncate_completion.")] = "error",
    columns: Columns = None,
    join: Annotated[str, typer.Option(help='Put before answers that run into their prompt, such as " ".')] = "",
    convert: Annotated[Path | None, typer.Option(help="Write the rows as JSONL in clew's own columns.")] = None,
) -> None:
    """Say what a file holds, which methods can use it, and what is wrong with it.

    Exits 1 when a row is wrong, the method asked for cannot use the file, or the model's tokenizer no row of it.
    """
    from clew.config import ConfigError
    from clew.data import check

    if method is not None and method not in check.USES:
        raise ConfigError(f"no method {method!r} (methods: {', '.join(check.USES)})")
    screen = Console(highlight=False)
    found = check.survey(file, named(columns), join=join)
    for name, count in found.formats.most_common():
        screen.print(f"{count:7} rows  {name}\n              [dim]{escape(found.about.get(name, UNKNOWN))}[/dim]")
    screen.print(f"{len(found.examples):7} examples, {len({e.id for e in found.examples})} different prompts\n")
    ways = check.usable(found.examples)
    _table(screen, "usable for", {f"{m}  [dim]needs {check.USES[m][0]}[/dim]": str(n) for m, n in ways.items() if n})
    odd = {name: [found.numbers[i] for i in places] for name, places in check.problems(found.examples).items()}
    odd |= {"rows without an example (nobody has answered)": found.silent} if found.silent else {}
    odd |= found.lacking
    _table(screen, "worth a look", {name: _rows(numbers) for name, numbers in odd.items()})
    if heldout is not None:
        shared = check.leaks(found.examples, check.survey(heldout, named(columns)).examples)
        screen.print(f"{shared:7} prompts of {heldout} are training prompts too")
    _refused(screen, found)
    fitting = check.fitting(found.examples, method) if method else list(range(len(found.examples)))
    usable = bool(fitting)
    if model is not None and fitting:
        encoding = {"template": template, "max_length": max_length, "truncation": truncation}
        usable = _tokens(screen, found, fitting, model, encoding, method)
    if convert is not None:
        screen.print(f"{check.convert((found.examples[i] for i in fitting), convert):7} rows written to {convert}")
    raise typer.Exit(0 if usable and not found.refused else 1)


@app.command("filter")
def filter_file(
    file: Annotated[str, typer.Argument(help="Anything that `clew data check` reads.")],
    out: Annotated[Path, typer.Argument(help="JSONL for the rows that are kept, in clew's own columns.")],
    skip: Annotated[list[str] | None, typer.Option(help="A heuristic not to use; may be given several times.")] = None,
    min_words: Annotated[int, typer.Option(help="Fewest words of an answer.")] = 1,
    max_words: Annotated[int, typer.Option(help="Most words of an answer.")] = 2000,
    columns: Columns = None,
) -> None:
    """Keep well-formed dialogues, and say what was dropped and why.

    A pair or ranking is dropped when one of its answers is ill-formed. Exits 1 when a row is wrong or none is kept.
    """
    from clew.data import check, wellformed

    screen = Console(highlight=False)
    found = check.survey(file, named(columns))
    bounds = wellformed.Bounds(least=min_words, most=max_words)
    result = wellformed.filtered(found.examples, bounds=bounds, skip=skip or [])
    screen.print(f"{check.convert(result.kept, out):7} of {len(found.examples)} examples written to {out}\n")
    for name, (about, _) in wellformed.HEURISTICS.items():
        if name in result.dropped:
            rows = _rows([found.numbers[place] for place in result.dropped[name]])
            screen.print(f"  [bold]{name}[/bold]  {rows}\n    {about}, such as: [dim]{escape(result.seen[name])}[/dim]")
    _refused(screen, found)
    raise typer.Exit(1 if found.refused or not result.kept else 0)


@app.command("binarise")
def binarise_file(
    file: Annotated[str, typer.Argument(help="Pairs, rankings, or answers with votes.")],
    out: Annotated[Path, typer.Argument(help="JSONL of pairs for `clew reward`.")],
    good: Annotated[str, typer.Option(help="The mark of the better answer of two.")] = "GOOD: ",
    bad: Annotated[str, typer.Option(help="The mark of the worse one.")] = "BAD: ",
    columns: Columns = None,
) -> None:
    """Pretrain a preference model: pairs of an answer with itself, marked as good and as bad.

    Train `clew reward` on them first, and on human comparisons from its model on.
    """
    from clew.data import binarised
    from clew.feedback.export import write_rows

    rows = list(binarised.rows(path=file, good=good, bad=bad, columns=named(columns)))
    typer.echo(f"{write_rows(out, rows):7} rows written to {out}")


def _refused(screen: Console, found: "Survey") -> None:
    """What is wrong with rows, once where it is the same."""
    from clew.data.check import SHOWN, rows_named

    alike: dict[str, list[int]] = {}
    for number, says in found.refused:
        alike.setdefault(says, []).append(number)
    for says, numbers in list(alike.items())[:SHOWN]:
        which = f"{len(numbers)} rows, " if len(numbers) > SHOWN else ""
        screen.print(f"[red]wrong[/red]  {which}{rows_named(numbers)}: {escape(says)}", soft_wrap=True)
    left = sum(len(numbers) for numbers in list(alike.values())[SHOWN:])
    screen.print(f"       … and {left} rows more" if left else "", end="\n" if left else "")


UNKNOWN = "columns that clew does not know; --column says what they are"


def _rows(numbers: list[int]) -> str:
    """How many rows, and the first of them."""
    from clew.data.check import rows_named

    return f"{len(numbers)}  [dim]{rows_named(numbers)}[/dim]"


def _tokens(
    screen: Console,
    found: "Survey",
    places: list[int],
    model: str,
    encoding: dict[str, object],
    method: str | None,
) -> bool:
    """What a method would see: the first rows token by token, and what happens to all of them. Whether any is left."""
    from transformers.utils import logging

    from clew.config import build
    from clew.data.chat import Codec, Encoding
    from clew.data.check import SHOWN
    from clew.data.example import best_alone
    from clew.data.look import look
    from clew.starter import read_tokenizer

    logging.set_verbosity_error()  # rows that are too long are counted here
    codec = Codec(read_tokenizer(model), build(Encoding, encoding, "options"))
    examples = [found.examples[i] for i in places]
    if method == "sft":
        examples = [best_alone(e) for e in examples]
    seen = look(examples, codec, prompts_only=method == "rl")
    plain = screen.color_system is None
    for row in seen.rows[:SHOWN]:
        names = [str(codec.tokenizer.convert_ids_to_tokens(token)) for token in row.tokens]
        screen.print(_line(names, row.mask, bracketed=plain))
    if seen.rows:
        screen.print("\n\\[[ learnt ]] read only" if plain else "\n[green]learnt[/green] [dim]read only[/dim]")
    _table(screen, "after encoding", {name: str(count) for name, count in codec.counts.items() if count})
    _table(
        screen,
        "wrong or cut",
        {escape(_as_option(says)): _rows([found.numbers[places[i]] for i in at]) for says, at in seen.odd.items()},
    )
    if seen.rows:
        ordered = sorted(len(row.tokens) for row in seen.rows)
        half, most = ordered[len(ordered) // 2], ordered[-1]
        screen.print(f"tokens a row: median {half}, 95 % below {ordered[int(0.95 * len(ordered))]}, longest {most}")
    return bool(seen.rows)


def _as_option(says: str) -> str:
    """What an error says of a YAML key, of the option of this command."""
    return re.sub(r"set encoding\.template to|set encoding\.template\b(?!_)", "try --template", says)


def _line(names: list[str], learnt: list[bool], *, bracketed: bool) -> Text:
    """A row's tokens around the border of prompt and answer, and its end; in brackets what is not in colour."""
    first, last = learnt.index(True) if any(learnt) else len(names), len(names)
    parts = [(max(first - AROUND, 0), min(first + AROUND, last)), (max(first + AROUND, last - AROUND // 4), last)]
    shown = {i for part in parts for i in range(*part)}
    line = Text("… " if parts[0][0] else "", style="dim")
    for number, (start, end) in enumerate(parts):
        line.append("… " if number and parts[0][1] < start < end else "", style="dim")
        for i in range(start, end):
            inside = {j for j in (i - 1, i + 1) if j in shown and learnt[j]}
            before = "[[ " if bracketed and learnt[i] and i - 1 not in inside else ""
            after = "]] " if bracketed and learnt[i] and i + 1 not in inside else ""
            line.append(f"{before}{names[i]} {after}", style="green" if learnt[i] else "dim")
    return line


def _table(screen: Console, title: str, lines: dict[str, str]) -> None:
    if not lines:
        return
    table = Table(title, "", box=None, title_justify="left", header_style="bold", pad_edge=False)
    for name, line in lines.items():
        table.add_row(f"  {name}", line)
    screen.print(table, "")
