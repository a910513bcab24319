"""Data files from functions: each file is one function's rows, written as JSONL."""

from clew.config import Config, Function, import_function
from clew.feedback.export import write_rows
from clew.runs import Run
from clew.track import Console


class Prepare(Config):
    """Example: `files: {prompts: {name: "clew.data.grammar:prompts", num: 1000, seed: 0}}` writes prompts.jsonl."""

    out: str
    files: dict[str, Function]
    """Name of a file -> `module:function` that yields its rows, with the function's options."""


def run(config: Prepare) -> None:
    with Run(config, config.out, "prepare", [Console()]) as run:
        if run.is_finished:
            return
        for name, choice in config.files.items():
            rows = import_function(choice.name)(**choice.options)
            run.ledger[f"rows/{name}"] = write_rows(run.folder / f"{name}.jsonl", rows)
        run.finish()
