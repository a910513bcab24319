"""Routes of coming in and going out."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from clew import __version__
from clew.web.access import Caller, TheDesk, ThePeople, ThePlace, cookie_name, now_ms
from clew.web.gate import API, LOGIN, Refused

SESSION_S = 30 * 24 * 60 * 60
"""How long a browser stays logged in."""


class Body(BaseModel):
    """What requests bring: nothing that is not asked for."""

    model_config = ConfigDict(extra="forbid")


class Login(Body):
    token: Annotated[str, Field(max_length=200)]


class Me(BaseModel):
    pseudonym: str
    name: str
    role: str


anybody = APIRouter()
"""Without a session."""
door = APIRouter(prefix=API)


@anybody.get("/healthz")
async def healthz() -> dict[str, bool]:
    return {"ok": True}


@anybody.get("/version")
async def version() -> dict[str, str]:
    return {"version": __version__}


@anybody.post(LOGIN, status_code=204)
def log_in(login: Login, desk: TheDesk, place: ThePlace, response: Response) -> None:
    """Spends the token of a link for a session."""
    now = now_ms()
    found = desk.people.redeem(login.token, now=now, expires=now + 1000 * SESSION_S)
    if found is None:
        raise Refused(
            401, "no_such_token", "this link is not valid, or was used already; ask the operator for a new one"
        )
    response.set_cookie(
        cookie_name(place),
        found[1],
        max_age=SESSION_S,
        path="/",
        httponly=True,
        samesite="strict",
        secure=place.is_secure,
    )


@door.delete("/session", status_code=204)
def log_out(
    caller: Caller, desk: TheDesk, place: ThePlace, people: ThePeople, request: Request, response: Response
) -> None:
    desk.people.close_session(request.cookies[cookie_name(place)])
    people.forget()
    response.delete_cookie(cookie_name(place), path="/", httponly=True, samesite="strict", secure=place.is_secure)


@door.get("/me")
def me(caller: Caller) -> Me:
    return Me(pseudonym=caller.pseudonym, name=caller.name, role=caller.role)
