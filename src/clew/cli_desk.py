"""`clew desk`: people judge in the browser, and what they say is on disk when the page says so."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clew.cli_options import Columns, named
from clew.types import Message, Sampling

if TYPE_CHECKING:
    from clew.feedback.desk import Desk
    from clew.web.live import Reply

QUICKSTART = Path("runs/quickstart")


def desk(
    store: Annotated[
        str | None, typer.Argument(help="A .sqlite file, made where there is none, or postgresql://…")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Put these on the desk: anything `clew data check` reads.")] = None,
    kind: Annotated[str | None, typer.Option(help="What is asked of them: comparison, ranking, …")] = None,
    project: Annotated[str | None, typer.Option(help="Its name, or a YAML file that describes it.")] = None,
    columns: Columns = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8321,
    behind_proxy: Annotated[
        str | None, typer.Option(help="The address that people type, where a proxy with TLS stands before the desk.")
    ] = None,
    media: Annotated[Path | None, typer.Option(help="Folder of clips; STORE.media by default.")] = None,
    model: Annotated[str | None, typer.Option(help="Run, folder or hub name to hold conversations with.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Open on pairs of the quickstart.")] = False,
) -> None:
    """Open the labelling desk: prints the operator's one-time link and serves until Ctrl-C."""
    from clew.config import ConfigError

    if store is None and not demo:
        raise ConfigError("name a store: clew desk labels.sqlite; or look around: clew desk --demo")
    _check_installed()
    from clew.feedback.desk import Desk
    from clew.feedback.store import Store
    from clew.web import serve
    from clew.web.app import create_app
    from clew.web.limits import Limits

    opened = serve.listen(host, port)
    place = serve.place(host, opened.getsockname()[1], behind_proxy)
    where = store or "desk-demo.sqlite"
    the_desk = Desk(Store.open(where, serve=True))
    folder = media or Path("clew-media" if "://" in where else f"{where}.media")
    _fill(the_desk, tasks, kind, project, columns, folder, demo=demo)
    app = create_app(the_desk, place, reply=_model(model), media_folder=folder)
    typer.echo(f"The operator's link, good for one login:\n\n  {link(the_desk, place.url)}\n\nCtrl-C closes the desk.")
    try:
        serve.serve(app, opened, Limits(), is_behind_proxy=behind_proxy is not None)
    except KeyboardInterrupt:
        pass
    finally:
        the_desk.store.close()
    typer.echo(f"The desk is closed; every answer that was acknowledged is in {where}.")


def _fill(
    the_desk: "Desk",
    tasks: str | None,
    kind: str | None,
    project: str | None,
    columns: list[str] | None,
    media: Path,
    *,
    demo: bool,
) -> None:
    """Put what the command names before people."""
    from clew.web import fill

    if demo:
        fill.demo(the_desk, QUICKSTART)
    if tasks is None:
        if project is not None:
            fill.project_of(the_desk, project, kind, "")
        return
    renamed = named(columns)
    guessed = kind or (None if project else fill.kind_of_file(tasks, renamed))
    into = fill.project_of(the_desk, project, guessed, Path(tasks).name.partition(".")[0])
    asked, wrong = fill.read_tasks(tasks, into, renamed, media)
    typer.echo(f"{fill.put(the_desk, into, asked)} new of {len(asked)} tasks of {tasks} in project {into.name}")
    for says in wrong[:SHOWN]:
        typer.echo(f"left out: {says}", err=True)
    if len(wrong) > SHOWN:
        typer.echo(f"left out: {len(wrong) - SHOWN} rows more", err=True)


SHOWN = 5


def link(the_desk: "Desk", url: str) -> str:
    """The owner's, whom the first start makes; the token stands in the fragment, which no server and no log sees."""
    from clew.web.access import now_ms

    owner = next((p for p in the_desk.people.all() if p.role == "owner"), None)
    if owner is None:
        token = the_desk.people.add("owner", name="owner", actor="clew desk", now=now_ms())[1]
    else:
        token = the_desk.people.renew(owner.id, actor="clew desk", now=now_ms())
    return f"{url}/#token={token}"


def _model(name: str | None) -> "Reply | None":
    """Two replies a turn of a model in this process, one conversation after another."""
    if name is None:
        return None
    from itertools import count
    from threading import Lock

    from clew.speaker import speaker
    from clew.web.live import Reply

    one, turn, lock = speaker(name), count(), Lock()

    def speak(conversation: tuple[Message, ...]) -> tuple[str, str]:
        *past, last = conversation
        with lock:
            text = one.asked(tuple(past), last.content)
            sampling = Sampling(min(MOST_TOKENS, one.codec.encoding.max_length // 2), temperature=1.0)
            first, second = one.answers(text, sampling, (time.time_ns() % (1 << 31), next(turn)), n=2)
        return first.text.strip(), second.text.strip()

    return Reply(speak)


MOST_TOKENS = 256
"""Of a reply."""


def _check_installed() -> None:
    """One line instead of a traceback where the extra is missing."""
    from importlib.util import find_spec

    missing = [module for module in ("fastapi", "uvicorn", "httptools", "markdown_it", "nh3") if not find_spec(module)]
    if missing:
        raise ModuleNotFoundError(f"the desk needs {', '.join(missing)}; pip install 'clew[server]'")
