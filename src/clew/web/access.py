"""Who may call what: one table of routes and roles. A route that is not in it is nobody's."""

import hashlib
import time
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from clew.feedback.desk import Desk
from clew.feedback.people import Person
from clew.web.gate import API, LOGIN, Place, Refused
from clew.web.limits import Buckets
from clew.web.remembered import Remembered

RATERS = frozenset({"annotator", "judge", "operator", "owner"})
OPERATORS = frozenset({"operator", "owner"})
OWNERS = frozenset({"owner"})


async def desk_of(request: Request) -> Desk:
    return request.app.state.desk


async def place_of(request: Request) -> Place:
    return request.app.state.place


async def permitted(request: Request) -> Person:
    """The caller, where the table lets their role pass. Raises Refused: 401, 403 or 429."""
    state = request.app.state
    token = request.cookies.get(cookie_name(state.place))
    person = await _in_session(state.people, state.desk, token) if token else None
    if person is None:
        raise Refused(401, "no_session", "log in with the link that the operator gave you")
    route = (request.method, request.scope["route"].path)
    if person.role not in ACCESS.get(route, frozenset()):
        raise Refused(403, "not_allowed", f"a person of role {person.role} may not do this")
    buckets: Buckets = state.buckets
    if wait := buckets.take(person.id):
        raise Refused(429, "too_many", "too many requests of this person", retry_after_s=wait)
    return person


async def _in_session(people: Remembered[Person | None], desk: Desk, token: str) -> Person | None:
    key = hashlib.sha256(token.encode()).hexdigest()  # so that no secret stays in memory
    return people.known(key) or await run_in_threadpool(
        people.get, key, lambda _: desk.people.in_session(token, now=now_ms())
    )


async def people_of(request: Request) -> Remembered[Person | None]:
    return request.app.state.people


def now_ms() -> int:
    """UTC milliseconds: the desk's only clock, whatever the page's says."""
    return time.time_ns() // 1_000_000


def cookie_name(place: Place) -> str:
    """With the prefix that binds it to this host and to TLS, where there is TLS."""
    return "__Host-clew_session" if place.is_secure else "clew_session"


Caller = Annotated[Person, Depends(permitted)]
TheDesk = Annotated[Desk, Depends(desk_of)]
ThePlace = Annotated[Place, Depends(place_of)]
ThePeople = Annotated[Remembered[Person | None], Depends(people_of)]
"""To be forgotten when sessions, roles or states change."""

ACCESS = {
    ("DELETE", f"{API}/session"): RATERS,
    ("GET", f"{API}/me"): RATERS,
    ("GET", f"{API}/me/history"): RATERS,
    ("GET", f"{API}/me/stats"): RATERS,
    ("GET", f"{API}/projects"): RATERS,
    ("GET", f"{API}/guidelines/{{project}}"): RATERS,
    ("GET", f"{API}/media/{{name}}"): RATERS,
    ("POST", f"{API}/projects/{{project}}/leases"): RATERS,
    ("POST", f"{API}/leases/{{lease}}/heartbeat"): RATERS,
    ("POST", f"{API}/leases/{{lease}}/answer"): RATERS,
    ("POST", f"{API}/leases/{{lease}}/skip"): RATERS,
    ("POST", f"{API}/leases/{{lease}}/turn"): RATERS,
    ("GET", f"{API}/leases/{{lease}}/slots/{{number}}"): RATERS,
    ("POST", f"{API}/answers/{{answer}}/undo"): RATERS,
    ("POST", f"{API}/projects"): OPERATORS,
    ("PATCH", f"{API}/projects/{{project}}"): OPERATORS,
    ("GET", f"{API}/projects/{{project}}/progress"): OPERATORS,
    ("GET", f"{API}/projects/{{project}}/stats"): OPERATORS,
    ("GET", f"{API}/projects/{{project}}/agreement"): OPERATORS,
    ("GET", f"{API}/projects/{{project}}/raters"): OPERATORS,
    ("GET", f"{API}/projects/{{project}}/coverage"): OPERATORS,
    ("GET", f"{API}/projects/{{project}}/items"): OPERATORS,
    ("POST", f"{API}/projects/{{project}}/items"): OPERATORS,
    ("GET", f"{API}/projects/{{project}}/items/{{item}}/answers"): OPERATORS,
    ("GET", f"{API}/projects/{{project}}/exports"): OPERATORS,
    ("POST", f"{API}/projects/{{project}}/exports"): OPERATORS,
    ("GET", f"{API}/exports/{{export}}/file"): OPERATORS,
    ("GET", f"{API}/people"): OPERATORS,
    ("POST", f"{API}/people"): OPERATORS,
    ("DELETE", f"{API}/people/{{person}}"): OWNERS,
    ("POST", f"{API}/people/{{person}}/rotate"): OPERATORS,
    ("POST", f"{API}/raters/{{person}}/state"): OPERATORS,
    ("GET", f"{API}/audit"): OPERATORS,
}
"""Method and path -> roles. Foreign ids are the desk's affair: it answers 404 for what is not the caller's."""
OPEN = {("GET", "/healthz"), ("GET", "/version"), ("POST", LOGIN)}
"""Routes without a session; they tell nothing."""
