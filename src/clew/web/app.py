"""The desk as an application: its routes, pages and what stands before them."""

import time
from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from clew import __version__
from clew.feedback.desk import Desk
from clew.feedback.people import Person
from clew.web.door import anybody, door
from clew.web.errors import add_handlers
from clew.web.gate import API, Gate, Place
from clew.web.gathered import Gatherer
from clew.web.limits import Buckets, Limits
from clew.web.live import Reply
from clew.web.manage import manage
from clew.web.media import media
from clew.web.remembered import Remembered
from clew.web.schema import Schema
from clew.web.watch import watch
from clew.web.work import work

REMEMBER_S = 2.0
STATIC = Path(__file__).parent / "static"


def create_app(
    desk: Desk, place: Place, *, limits: Limits | None = None, reply: Reply | None = None, media_folder: Path
) -> Gate:
    """Everything that is served. `reply` is None where there is no model to talk to.

    Example: `create_app(Desk(store), place, media_folder=Path("labels.media"))`
    """
    limits = limits or Limits()
    app = api(desk, place, limits, reply, media_folder)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return Gate(app, place, limits)


def api(desk: Desk, place: Place, limits: Limits, reply: Reply | None, media_folder: Path) -> FastAPI:
    """The routes alone."""
    app = FastAPI(
        title="clew desk", version=__version__, openapi_url=f"{API}/openapi.json", docs_url=None, redoc_url=None
    )
    app.state.desk, app.state.place, app.state.reply, app.state.media = desk, place, reply, media_folder
    app.state.buckets = Buckets(limits.person_rate, limits.person_burst, time.monotonic)
    app.state.people = Remembered[Person | None](seconds=REMEMBER_S, clock=time.monotonic)
    app.state.forms = Remembered[Schema](seconds=REMEMBER_S, clock=time.monotonic)
    add_handlers(app)
    app.state.exports, app.state.gatherer = media_folder.with_suffix(".exports"), Gatherer(desk)
    for router in (anybody, door, work, media, manage, watch):
        app.include_router(router)
    return app
