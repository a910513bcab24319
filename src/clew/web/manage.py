"""Routes of operators: projects and their tasks, people and their links, exports, what happened."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import Field

from clew.feedback.desk import Desk
from clew.feedback.events import Event
from clew.feedback.people import Person, Role, State
from clew.feedback.projects import ProjectState
from clew.feedback.schema import events
from clew.feedback.snapshots import ExportOptions, write_snapshot
from clew.web.access import Caller, TheDesk, ThePeople, ThePlace, now_ms
from clew.web.archive import FORMATS, exports_of, file_of, is_named
from clew.web.door import Body
from clew.web.errors import told
from clew.web.fill import checked, put
from clew.web.gate import API, Refused
from clew.web.limits import depth
from clew.web.tasks import Asked, tasks_of_row
from clew.web.work import Cursor, Id, Json

manage = APIRouter(prefix=API)
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)]
NDJSON = {"content": {"application/x-ndjson": {"schema": {"type": "object"}}}, "required": True}
DEPTH = 32
PAGE = 100


class NewProject(Body):
    name: Name
    kind: Annotated[str, Field(max_length=40)]
    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The other options of `ProjectConfig`."""


class ProjectChange(Body):
    state: ProjectState | None = None
    guidelines: Annotated[str, Field(max_length=100_000)] | None = None
    need: Annotated[int, Field(ge=1, le=1000)] | None = None
    gold_rate: Annotated[float, Field(ge=0, le=0.5)] | None = None
    config: dict[str, Any] = Field(default_factory=dict[str, Any])


class NewPerson(Body):
    role: Role
    name: Annotated[str, Field(max_length=200)] = ""
    group: Annotated[str, Field(max_length=100)] = ""


class StateChange(Body):
    state: State
    reason: Annotated[str, Field(max_length=1000)] = ""


class NewExport(Body):
    format: Annotated[str, Field(max_length=40)]
    include_identities: bool = False
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.25


@manage.post("/projects", status_code=201)
def add_project(new: NewProject, caller: Caller, desk: TheDesk, key: Key = None) -> Json:
    def make() -> Json:
        config = checked({**new.config, "kind": new.kind})
        return {"id": desk.projects.add(new.name, config, actor=caller.id, now=now_ms()).id}

    with told():
        return _once(desk, caller, "POST /projects", key, make)


@manage.patch("/projects/{project}")
def change_project(project: Id, change: ProjectChange, caller: Caller, desk: TheDesk, request: Request) -> Json:
    said = change.model_dump(exclude_none=True, exclude={"state", "config"}) | change.config
    with told():
        old = desk.projects.find(project)
        if said.get("kind", old.config.kind) != old.config.kind:
            raise ValueError("what a project asks for stays; make another project")
        config = checked({**old.config.model_dump(), **said}) if said else None
        new = desk.projects.change(project, config=config, state=change.state, actor=caller.id, now=now_ms())
    request.app.state.forms.forget()
    return {"id": new.id, "state": new.state}


async def _body(request: Request) -> bytes:
    return await request.body()


@manage.post("/projects/{project}/items", openapi_extra={"requestBody": NDJSON})
def add_items(project: Id, caller: Caller, desk: TheDesk, body: Annotated[bytes, Depends(_body)]) -> Json:
    """One JSON object a line, in any format that `clew data check` reads; what became of each line."""
    with told():
        kind = desk.projects.find(project).config.kind
        lines, found = list[Json](), list[Asked]()
        for number, line in enumerate(body.splitlines(), 1):
            if not line.strip():
                continue
            try:
                asked = tasks_of_row(_object(line), kind, f"line {number}")
            except (ValueError, UnicodeError) as error:
                lines.append({"line": number, "error": str(error)})
            else:
                found += asked
                lines.append({"line": number, "tasks": len(asked)})
        added = put(desk, desk.projects.find(project), found, actor=caller.id)
    return {"lines": lines, "added": added, "known": len(found) - added}


@manage.get("/people")
def people(caller: Caller, desk: TheDesk) -> Json:
    return {"people": [_person_json(person) for person in desk.people.all()]}


@manage.post("/people", status_code=201)
def add_person(new: NewPerson, caller: Caller, desk: TheDesk, place: ThePlace, key: Key = None) -> Json:
    """With a link that lets in once and is not shown again; a repeated request gets the person without it."""
    _check_rank(caller, new.role)
    link: list[str] = []

    def make() -> Json:
        person, token = desk.people.add(new.role, name=new.name, group=new.group, actor=caller.id, now=now_ms())
        link.append(f"{place.url}/#token={token}")
        return {"id": person.id}  # no name in what is kept: it must be possible to forget it

    with told():
        made = _once(desk, caller, "POST /people", key, make)
    return {**_person_json(_find(desk, made["id"])), "link": link[0] if link else None}


@manage.post("/people/{person}/rotate")
def rotate(person: Id, caller: Caller, desk: TheDesk, place: ThePlace, known: ThePeople) -> dict[str, str]:
    """A new link; the old one and all sessions end."""
    _check_rank(caller, _find(desk, person).role)
    with told():
        token = desk.people.rotate(person, actor=caller.id, now=now_ms())
    known.forget()
    return {"link": f"{place.url}/#token={token}"}


@manage.post("/raters/{person}/state", status_code=204)
def set_state(person: Id, change: StateChange, caller: Caller, desk: TheDesk, known: ThePeople) -> None:
    """Reversible: nothing of an excluded person is deleted."""
    _check_rank(caller, _find(desk, person).role)
    with told():
        desk.people.set_state(person, change.state, reason=change.reason, actor=caller.id, now=now_ms())
    known.forget()


@manage.delete("/people/{person}", status_code=204)
def erase(person: Id, caller: Caller, desk: TheDesk, known: ThePeople) -> None:
    """Forget who it was: name, token and sessions go; the pseudonym and the answers stay."""
    _check_rank(caller, _find(desk, person).role)
    with told():
        desk.people.erase(person, actor=caller.id, now=now_ms())
    known.forget()


@manage.get("/projects/{project}/exports")
def list_exports(project: Id, caller: Caller, desk: TheDesk) -> Json:
    with told():
        desk.projects.find(project)
    return {"exports": exports_of(desk, project)}


@manage.post("/projects/{project}/exports", status_code=201)
def make_export(project: Id, new: NewExport, caller: Caller, desk: TheDesk, request: Request, key: Key = None) -> Json:
    """A snapshot of what is in the store now. With names only for the owner, and that is in the log."""
    if new.include_identities and caller.role != "owner":
        raise Refused(403, "not_allowed", "exports with names are for the owner")
    if new.format not in FORMATS:
        raise Refused(422, "invalid", f"no format {new.format!r}; there are {', '.join(FORMATS)}")
    folder: Path = request.app.state.exports
    options = ExportOptions(
        formats=FORMATS[new.format], include_identities=new.include_identities, max_share=new.max_share
    )

    def make() -> Json:
        desk.projects.find(project)
        where = folder / f"{project}-{now_ms()}-{new.format}"
        made = write_snapshot(desk.store, where, options, project=project, actor=caller.id, now=now_ms())
        return next(row for row in exports_of(desk, project) if row["id"] == made.id)

    with told():
        return _once(desk, caller, f"POST /projects/{project}/exports", key, make)


@manage.get("/exports/{export}/file", response_class=Response)
def export_file(export: Id, caller: Caller, desk: TheDesk) -> Response:
    """All files of an export with their manifest, as one archive."""
    with told():
        if is_named(desk, export) and caller.role != "owner":
            raise Refused(403, "not_allowed", "exports with names are for the owner")
        name, content = file_of(desk, export)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type="application/zip", headers=headers)


@manage.get("/audit")
def audit(caller: Caller, desk: TheDesk, cursor: Cursor = None) -> Json:
    """What happened, newest first; `cursor` is the number of the last event that was seen."""
    query = sa.select(events).order_by(events.c.seq.desc()).limit(PAGE)
    if cursor:
        query = query.where(events.c.seq < cursor)
    with desk.store.read() as connection:
        found = [Event(*row) for row in connection.execute(query)]
    told = [
        {"seq": e.seq, "at_ms": e.at, "actor": e.actor, "type": e.type, "body": json.loads(cast("str", e.body))}
        for e in found
    ]
    return {"events": told, "next": found[-1].seq if len(found) == PAGE else None}


def _once(desk: Desk, caller: Person, route: str, key: str | None, make: Any) -> Json:
    """With an Idempotency-Key the same request again gets the same reply, and makes nothing."""
    if key is None:
        return make()
    before = desk.replied(key, caller.id, route)
    if before is not None:
        return json.loads(before[1])
    made = make()
    desk.remember(key, caller.id, route, 201, json.dumps(made), now=now_ms())
    return made


def _check_rank(caller: Person, role: Role) -> None:
    """Operators have to do with raters; with other operators and owners only an owner has."""
    if caller.role != "owner" and role not in ("annotator", "judge"):
        raise Refused(403, "not_allowed", f"only an owner may do this to a person of role {role}")


def _find(desk: Desk, person: str) -> Person:
    found = desk.people.find(person)
    if found is None:
        raise Refused(404, "not_found", f"nobody has the id {person!r}")
    return found


def _person_json(person: Person) -> Json:
    return {
        "id": person.id,
        "pseudonym": person.pseudonym,
        "name": person.name,
        "role": person.role,
        "group": person.group,
        "state": person.state,
        "created_ms": person.created,
    }


def _object(line: bytes) -> dict[str, Any]:
    if depth(line) > DEPTH:
        raise ValueError(f"JSON nests at most {DEPTH} levels")
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with named columns; got {type(row).__name__}")
    return row
