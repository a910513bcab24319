"""Routes of raters: tasks, answers, skips, undo, what they did so far. People see their own work only."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from clew.feedback.answers import Receipt, Submission
from clew.feedback.desk import Desk, Given
from clew.feedback.people import Person
from clew.feedback.projects import Project
from clew.web.access import Caller, TheDesk, now_ms
from clew.web.door import Body
from clew.web.errors import told
from clew.web.gate import API, Refused
from clew.web.live import TheReply
from clew.web.remembered import Remembered
from clew.web.render import safe_html
from clew.web.schema import Schema, check_fits_form, schema_of
from clew.web.shown import Json, reply_json, slot_json, task_json


async def forms_of(request: Request) -> Remembered[Schema]:
    return request.app.state.forms


TheForms = Annotated[Remembered[Schema], Depends(forms_of)]
work = APIRouter(prefix=API)
DAY_MS = 24 * 60 * 60 * 1000
WAIT_S = 20
"""Until a page that got nothing asks again."""
Id = Annotated[str, Field(max_length=100)]
Cursor = Annotated[int | None, Query(ge=0, le=1 << 53)]


class Wanted(Body):
    n: Annotated[int, Field(ge=1, le=5)] = 1
    have: Annotated[tuple[Id, ...], Field(max_length=10)] = ()
    """Leases that the page has already: they count, and are not sent again."""


class Answered(Submission):
    """An answer, its places in terms of slots."""

    client_ms: Annotated[int, Field(ge=0, le=7 * DAY_MS)] | None = None
    note: Annotated[str, Field(max_length=20_000)] = ""


class Skipped(Body):
    reason: Annotated[str, Field(max_length=1000)] = ""


class Said(Body):
    """A turn of a conversation; `choice` is the reply of the turn before that it goes on from."""

    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    choice: Annotated[int, Field(ge=0, le=1)] | None = None


@work.get("/projects")
def projects(caller: Caller, desk: TheDesk) -> list[Json]:
    """Open ones; operators see all."""
    found = desk.projects.all()
    seen = [p for p in found if p.state == "open" or caller.role in ("operator", "owner")]
    return [_project_json(desk, caller, project) for project in seen]


@work.post("/projects/{project}/leases", responses={204: {"description": "Nothing to do now"}})
def lease(project: Id, wanted: Wanted, caller: Caller, desk: TheDesk, forms: TheForms) -> Response:
    """`tasks` held already, then new ones, up to `n` with those that the page has."""
    with told():
        leased = desk.lease(caller.id, project, wanted.n, known=wanted.have, now=now_ms())
    if not leased:
        return Response(status_code=204, headers={"retry-after": str(WAIT_S)})
    schema = _schema(desk, forms, project)
    return JSONResponse({"tasks": [task_json(each, schema) for each in leased]})


@work.post("/leases/{lease}/heartbeat")
def heartbeat(lease: Id, caller: Caller, desk: TheDesk) -> dict[str, int]:
    with told():
        return {"expires_ms": desk.heartbeat(caller.id, lease, now=now_ms())}


@work.post("/leases/{lease}/answer", status_code=201)
def answer(lease: Id, answered: Answered, caller: Caller, desk: TheDesk) -> Response:
    """201 once it is on disk; 200 for the same again; 410 where it was late, kept only where it was still wanted."""
    with told():
        receipt = desk.answer(caller.id, lease, answered, fits=check_fits_form, now=now_ms())
    if receipt.is_late:
        kept = "the time for this task had run out; the answer is kept all the same"
        raise Refused(410, "late", kept, details=_receipt_json(receipt))
    return JSONResponse(_receipt_json(receipt), status_code=201 if receipt.is_new else 200)


@work.post("/leases/{lease}/skip", status_code=204)
def skip(lease: Id, skipped: Skipped, caller: Caller, desk: TheDesk) -> None:
    with told():
        desk.skip(caller.id, lease, reason=skipped.reason, now=now_ms())


@work.get("/leases/{lease}/slots/{number}")
def slot(lease: Id, number: Annotated[int, Field(ge=0, le=100)], caller: Caller, desk: TheDesk) -> Json:
    """One slot without the cap of its length."""
    with told():
        items = desk.leased(caller.id, lease).items
    if number >= len(items):
        raise Refused(404, "not_found", f"the task has {len(items)} slots; got {number}")
    return slot_json(items[number], whole=True)


@work.post("/leases/{lease}/turn")
def turn(lease: Id, said: Said, caller: Caller, desk: TheDesk, reply: TheReply) -> Json:
    """Two replies to what the person said."""
    if reply is None:
        raise Refused(503, "no_model", "this desk has no model to talk to; start it with --model")
    with told():
        leased = desk.leased(caller.id, lease)
        if leased.kind != "conversation":
            raise ValueError(f"a {leased.kind} task has no turns")
        offers = reply.offer(leased, said.text, said.choice)
        number = desk.turn(caller.id, lease, said.text, offers, choice=said.choice, now=now_ms())
    return {"number": number, "slots": [reply_json(text) for text in offers]}


@work.post("/answers/{answer}/undo")
def undo(answer: Id, caller: Caller, desk: TheDesk, forms: TheForms) -> Json:
    """The task again, with what was said; it counts until another answer comes."""
    with told():
        leased = desk.undo(caller.id, answer, now=now_ms())
        return {"task": task_json(leased, _schema(desk, forms, leased.project))}


@work.get("/me/history")
def history(caller: Caller, desk: TheDesk, cursor: Cursor = None) -> Json:
    given = desk.history(caller.id, before=cursor)
    names = {project.id: project.name for project in desk.projects.all()}
    answers = [_given_json(each, names[each.project]) for each in given]
    return {"answers": answers, "cursor": given[-1].at if given else None}


@work.get("/me/stats")
def stats(caller: Caller, desk: TheDesk) -> dict[str, int]:
    mine = desk.projects.all()
    return {
        "answers_today": sum(desk.count(caller.id, p.id, since=_midnight()) for p in mine),
        "answers_in_all": sum(desk.count(caller.id, p.id) for p in mine),
    }


@work.get("/guidelines/{project}")
def guidelines(project: Id, caller: Caller, desk: TheDesk) -> dict[str, str]:
    with told():
        return {"html": safe_html(desk.projects.find(project).config.guidelines)}


def _schema(desk: Desk, forms: Remembered[Schema], project: str) -> Schema:
    def find(project: str) -> Schema:
        config = desk.projects.find(project).config
        return schema_of(config.kind, config.form)

    return forms.get(project, find)


def _project_json(desk: Desk, caller: Person, project: Project) -> Json:
    config = project.config
    told = {"guidelines": config.guidelines, "need": config.need, "gold_rate": config.gold_rate}
    return {
        **(told if caller.role in ("operator", "owner") else {}),
        "id": project.id,
        "name": project.name,
        "kind": config.kind,
        "state": project.state,
        "mine_today": desk.count(caller.id, project.id, since=_midnight()),
        "goal_today": config.daily_goal,
        "guidelines_html": safe_html(config.guidelines),
        "schema": schema_of(config.kind, config.form),
    }


def _receipt_json(receipt: Receipt) -> Json:
    lesson = receipt.lesson
    taught = lesson and {"correct": lesson.is_right, "explanation_html": safe_html(lesson.explanation)}
    return {"answer": receipt.answer, "undo_until_ms": receipt.undo_until, "training": taught}


def _given_json(given: Given, project: str) -> dict[str, Any]:
    return {
        "answer": given.answer,
        "project": project,
        "kind": given.kind,
        "made_ms": given.at,
        "undo_until_ms": given.undo_until,
        "said": given.said.model_dump(mode="json"),
    }


def _midnight() -> int:
    """When today began, where the server stands."""
    now = time.localtime()
    return int(time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1)) * 1000)
