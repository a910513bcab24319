"""Routes of the dashboard: how far, how much people agree, who they are, what was said of one item."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request

from clew.web import figures
from clew.web.access import Caller, now_ms
from clew.web.errors import told
from clew.web.gate import API, Refused
from clew.web.gathered import Gathered
from clew.web.shown import prompt_json, slot_json
from clew.web.work import Id, Json

watch = APIRouter(prefix=API)


def gathered_of(project: Id, request: Request) -> Gathered:
    with told():
        return request.app.state.gatherer.of(project)


All = Annotated[Gathered, Depends(gathered_of)]


@watch.get("/projects/{project}/progress")
def progress(caller: Caller, gathered: All) -> Json:
    return figures.progress(gathered, now=now_ms())


@watch.get("/projects/{project}/stats")
def stats(caller: Caller, gathered: All) -> Json:
    return figures.stats(gathered)


@watch.get("/projects/{project}/agreement")
def agreement(caller: Caller, gathered: All) -> Json:
    return figures.agreement(gathered)


@watch.get("/projects/{project}/raters")
def raters(caller: Caller, gathered: All) -> Json:
    return {"raters": figures.raters(gathered)}


@watch.get("/projects/{project}/coverage")
def coverage(caller: Caller, gathered: All) -> Json:
    return figures.coverage(gathered)


@watch.get("/projects/{project}/items")
def items(
    caller: Caller, gathered: All, sort: Literal["disagreement", "skipped", "flagged", "late"] = "disagreement"
) -> Json:
    return {"items": figures.disagreement(gathered, sort=sort)}


@watch.get("/projects/{project}/items/{item}/answers")
def answers(item: Id, caller: Caller, gathered: All) -> Json:
    entry = gathered.entries.get(item)
    if entry is None:
        raise Refused(404, "not_found", f"the project has no item {item!r}")
    return {
        "prompt": {"turns": prompt_json(entry.task.prompt)},
        "slots": [slot_json(gathered.items[key]) for key in entry.task.items],
        "answers": figures.answers_of(gathered, item),
    }
