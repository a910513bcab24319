"""`clew`: run pipelines and recipes, verify the mathematics, write reports.

A command imports what it needs when it is called: `clew --help` loads neither torch nor pydantic.
"""

import errno
import json
import logging
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from clew import __version__, cli_data, cli_desk, cli_models, cli_plan, cli_runs, cli_start

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Improve generative models with feedback: collect it, weigh it, learn a reward, optimise, prove it.",
)

app.command("init")(cli_start.init)
app.command("import-config")(cli_start.import_config)
app.add_typer(cli_data.app, name="data")
app.command("runs")(cli_runs.list_runs)
app.command("diff")(cli_runs.diff_runs)
app.command("export")(cli_models.export_run)
app.command("chat")(cli_models.chat)
app.command("plan")(cli_plan.plan)
app.command("desk")(cli_desk.desk)

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, dotted: learner.lr=1e-5")]
Show = Annotated[bool, typer.Option("--show", help="Print the resolved configuration and stop.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """What holds for every command."""


@app.command("run")
def run_pipeline(
    file: Annotated[str, typer.Argument(help="A pipeline file, or the name of one that comes with clew.")],
    overrides: Overrides = None,
    show: Show = False,
) -> None:
    """Run a pipeline: finished stages are skipped, an unfinished one goes on where it stopped."""
    from clew import pipeline

    described, stages = pipeline.load(pipeline.find(file), overrides or [])
    if show:
        import yaml

        typer.echo(yaml.safe_dump({s.name: s.config.model_dump(mode="json") for s in stages}, sort_keys=False))
        return
    pipeline.run(described, stages, typer.echo)
    for report in sorted(Path(described.out).glob("*/report.html")):
        typer.echo(f"\nThe report: {report}")


@app.command("loop")
def loop(
    file: Annotated[
        str, typer.Argument(help="A pipeline file with a `round`, or the name of one that comes with clew.")
    ],
    overrides: Overrides = None,
    show: Show = False,
) -> None:
    """Run a loop: learn from the answers, ask people or simulated raters what teaches most, and again."""
    from clew import pipeline
    from clew.config import ConfigError
    from clew.evaluate import report, rounds

    described, _ = pipeline.load(pipeline.find(file), overrides or [])
    if not described.round:
        raise ConfigError(f"{file} has no `round`; for a pipeline that runs once: clew run {file}")
    run_pipeline(file, overrides, show)
    for one in [] if show else rounds.rounds(report.find_runs(Path(described.out))):
        typer.echo(rounds.told(one))


@app.command("try")
def try_it(out: Annotated[str, typer.Option(help="Where to write.")] = "runs/quickstart") -> None:
    """From a model trained from scratch to a better one in some minutes, offline: the quickstart pipeline."""
    run_pipeline("quickstart", [f"out={out}"])


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's directory, or a directory of runs.")],
    out: Annotated[Path | None, typer.Option(help="The file; report.html in the run by default.")] = None,
) -> None:
    """Write one self-contained HTML file about a run."""
    from clew.evaluate.report import write_report

    typer.echo(write_report(run, out or run / "report.html"))


@app.command()
def verify(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Check every method against closed forms on enumerable worlds, and that known wrong variants miss them."""
    from clew.oracles.verify import print_table, verify_all

    results = verify_all()
    if as_json:
        typer.echo(json.dumps([r.as_dict() for r in results], indent=1))
    else:
        print_table(results)
    raise typer.Exit(0 if all(r.passed for r in results) else 1)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _add_recipe(name: str) -> None:
    def list_options(wanted: bool) -> None:
        if wanted:
            from clew import listing, pipeline

            typer.echo(listing.table(pipeline.recipe(name)[1]))
            raise typer.Exit

    def command(
        file: Annotated[Path, typer.Argument(help="The recipe's YAML file.")],
        overrides: Overrides = None,
        show: Show = False,
        options: Annotated[
            bool,
            typer.Option("--options", help="List all options and stop.", is_eager=True, callback=list_options),
        ] = False,
    ) -> None:
        from clew import pipeline
        from clew.config import apply_overrides, build, read_yaml

        values = apply_overrides(read_yaml(file), overrides or [])  # what is no YAML is told before torch loads
        start, kind = pipeline.recipe(name)
        config = build(kind, values, str(file))
        if show:
            import yaml

            typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        else:
            pipeline.check([pipeline.Stage(name, start, config, {})])
            start(config)

    app.command(name, help=RECIPE_HELP[name])(command)


RECIPE_HELP = {
    "prepare": "Write data files from functions.",
    "pretrain": "Pretrain a small model from scratch.",
    "sft": "Supervised fine-tuning.",
    "label": "Sample answers, let raters judge them, export pairs, rankings and scores.",
    "ask": "One round of asking: sample, choose the pairs that teach most, wait for the answers.",
    "reward": "Train a reward model.",
    "preference": "DPO and its family, KTO.",
    "online": "Online and iterative DPO from any reward, SPIN.",
    "nash": "Nash-MD, Nash-EMA and self-play from pairwise preferences.",
    "distill": "Context distillation: speak without a context as a teacher does with it.",
    "cgpo": "CGPO: tasks with rewards, constraint judges and optimisers of their own.",
    "reject": "Sample, filter, imitate: RAFT, rejection sampling, ReST-EM, best-of-n distillation.",
    "rl": "PPO, GRPO, RLOO, A2C from any reward.",
    "ilql": "ILQL: Q-learning on the tokens of answers that have rewards.",
    "evaluate": "Compare policies on held-out prompts: gold, win rate, KL, alarms.",
}
for _name in RECIPE_HELP:
    _add_recipe(_name)


INTERRUPTED = 130
"""What typer makes of Ctrl-C."""


def main() -> None:
    """The entry point: what users do wrong is told in a line or two, without a traceback."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # a user's own my_rewards.py lies where he is, as for python -m
    try:
        app()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            typer.echo(f"stopped; the same command goes on from there: {shlex.join(['clew', *sys.argv[1:]])}", err=True)
        raise
    except Exception as error:
        from clew.judges.call import Hangs

        if isinstance(error, Hangs):
            if "--debug" in sys.argv:
                traceback.print_exc()
            typer.echo(f"clew: {error}", err=True)
            _leave(2)
        ours = type(error).__module__.startswith(("clew.", "safetensors"))
        if "--debug" in sys.argv or not (ours or isinstance(error, (ValueError, OSError, ImportError))):
            raise
        typer.echo(f"clew: {error}{_advice(error)}", err=True)
        sys.exit(2)


def _leave(code: int) -> NoReturn:
    """End without waiting for what hangs; the run has ended its trackers, and everything else is written at once."""
    import multiprocessing

    try:
        for child in multiprocessing.active_children():
            child.kill()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _advice(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return f"; pip install 'clew[{EXTRAS[error.name]}]'"
    if os.strerror(errno.ENOSPC) in str(error):
        return "; free some space; the same command then goes on where it was"
    return ""


EXTRAS = {"torch": "train", "transformers": "train", "safetensors": "train", "matplotlib": "report"}
