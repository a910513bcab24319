"""`clew export` and `clew chat`: what a run's model is good for once it is there."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.prompt import Prompt as Ask
from rich.table import Table

from clew.types import Message, Rollout, Sampling, Text, as_column

Checkpoint = Annotated[str, typer.Option(help="result, best on held-out rows or by `evaluate`, or a number of steps.")]


def export_run(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path | None, typer.Argument(help="A folder to write; RUN/export by default.")] = None,
    checkpoint: Checkpoint = "result",
    half: Annotated[bool, typer.Option("--half", help="Weights in bfloat16: half the size.")] = False,
) -> None:
    """Write a run's model as a folder that transformers loads, adapters merged, with a model card; and read it back."""
    from clew.export import export

    folder = export(run, out or run / "export", checkpoint=checkpoint, half=half)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    typer.echo(f"{folder}: {size / 1e6:.1f} MB; a fresh process loads it and it says the same")


def chat(
    models: Annotated[list[str], typer.Argument(help="One or two: run directories, model folders or hub names.")],
    checkpoint: Checkpoint = "result",
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 256,
    template: Annotated[str | None, typer.Option(help="transcript, chatml, or a Jinja file.")] = None,
    seed: int = 0,
    save: Annotated[Path | None, typer.Option(help="With two: ask which is better, and keep the pairs here.")] = None,
) -> None:
    """Talk to a model, or to two side by side. An empty line begins anew, Ctrl-D ends.

    Models without a chat template continue each line as it stands.
    """
    from clew.config import ConfigError
    from clew.speaker import speaker

    if len(models) > 2:
        raise ConfigError(f"one model to talk to, or two side by side; got {len(models)}")
    if save is not None and len(models) < 2:
        raise ConfigError("--save keeps which of two answers is better; name two models")
    screen = Console(highlight=False)
    speakers = [speaker(name, checkpoint=checkpoint, template=template) for name in models]
    histories: list[tuple[Message, ...]] = [() for _ in speakers]
    room = min(s.codec.encoding.max_length for s in speakers)
    sampling = Sampling(min(max_tokens, room // 2), temperature)
    for turn, line in enumerate(_lines(screen)):
        if not line.strip():
            histories = [() for _ in speakers]
            screen.print("[dim]a new conversation[/dim]")
            continue
        asked = [s.asked(past, line) for s, past in zip(speakers, histories, strict=True)]
        said = [s.answer(text, sampling, (seed, turn)) for s, text in zip(speakers, asked, strict=True)]
        panels = [Panel(escape(r.text), title=escape(s.name)) for s, r in zip(speakers, said, strict=True)]
        screen.print(_side_by_side(panels))
        if save is not None:  # the conversation goes on with the better answer
            better = Ask.ask("better", choices=["1", "2", "-"], default="-", console=screen)
            if better != "-" and said[0].text != said[1].text:
                _keep(save, asked[0], said if better == "1" else said[::-1])
            said = [said[better == "2"]] * 2
        histories = [
            (*text, Message("assistant", rollout.text.strip())) if isinstance(text, tuple) else ()
            for text, rollout in zip(asked, said, strict=True)
        ]


def _lines(screen: Console) -> Iterator[str]:
    while True:
        try:
            yield screen.input("[bold]> [/bold]")
        except EOFError:
            return


def _side_by_side(panels: Sequence[Panel]) -> Table:
    row = Table.grid(expand=True)
    for _ in panels:
        row.add_column(ratio=1)
    row.add_row(*panels)
    return row


def _keep(file: Path, prompt: Text, best_first: Sequence[Rollout]) -> None:
    """A row of preference data, as `clew preference` and `clew reward` read it."""
    answers: list[Any] = [rollout.text for rollout in best_first]
    if not isinstance(prompt, str):
        answers = [[Message("assistant", answer.strip()).as_row()] for answer in answers]
    row = {
        "prompt": as_column(prompt),
        "chosen": answers[0],
        "rejected": answers[1],
        "cut": [place for place, rollout in enumerate(best_first) if rollout.stop != "end"],
    }
    with file.open("a", encoding="utf-8") as rows:
        rows.write(json.dumps(row, ensure_ascii=False) + "\n")
