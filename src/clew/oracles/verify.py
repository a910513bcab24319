"""`clew verify`: every loss and recipe held to its closed form, and the known wrong variants to theirs."""

import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clew.oracles import cgpo, distillation, ilql, nash, online, policy, preference, recipes, reward, rl, selection
from clew.oracles.result import CAUGHT, Result


def verify_all() -> list[Result]:
    """All rows, on one thread, in about a minute; the same numbers every time on one machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            result
            for part in (reward, preference, rl, policy, recipes, online, nash, distillation, cgpo, ilql, selection)
            for result in part.checks()
        ]
    finally:
        torch.set_num_threads(threads)


def print_table(results: Sequence[Result]) -> None:
    """Methods first, then what is wrong and must show."""
    began = time.process_time()
    screen = Console()
    if not screen.is_terminal:
        screen = Console(width=140)
    for wrong in (False, True):
        title = f"wrong variants, each must miss by {CAUGHT:g} tolerances" if wrong else "methods"
        table = Table(title=title, title_justify="left", title_style="bold")
        for name in ("method", "should converge to"):
            table.add_column(name)
        for name in ("distance", "tolerance"):
            table.add_column(name, justify="right")
        table.add_column("caught" if wrong else "pass")
        for r in (r for r in results if r.wrong is wrong):
            mark = "[green]yes[/]" if r.passed else "[bold red]NO[/]"
            table.add_row(escape(r.method), escape(r.target), f"{r.distance:.2g}", f"{r.tolerance:g}", mark)
        screen.print(table)
    failed = [r.method for r in results if not r.passed]
    caught = sum(r.wrong and r.passed for r in results)
    right = sum(not r.wrong and r.passed for r in results)
    of_wrong = sum(r.wrong for r in results)
    screen.print(f"{right} of {len(results) - of_wrong} methods pass, {caught} of {of_wrong} wrong variants are caught")
    screen.print(f"{began:.0f} CPU-seconds")
    if failed:
        screen.print(f"[bold red]failed: {'; '.join(failed)}[/]")
