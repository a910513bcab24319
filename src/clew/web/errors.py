"""What goes wrong at the desk, as HTTP statuses."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from clew.failure import NoSpace
from clew.feedback.answers import Expired
from clew.feedback.store import Conflict
from clew.web.gate import Refused, error_body


@contextmanager
def told() -> Generator[None]:
    """Around calls of the desk: its exceptions as refusals. All others are faults of the server, and stay."""
    try:
        yield
    except KeyError as error:
        raise Refused(404, "not_found", str(error.args[0])) from error
    except Expired as error:
        raise Refused(410, "expired", str(error)) from error
    except Conflict as error:
        raise Refused(409, "conflict", str(error)) from error
    except NoSpace as error:
        raise Refused(507, "disk_full", "the disk is full; nothing of this was kept") from error
    except UnicodeEncodeError as error:
        raise Refused(422, "invalid", "text holds half of a surrogate pair") from error
    except ValueError as error:
        raise Refused(422, "invalid", str(error)) from error


def add_handlers(app: FastAPI) -> None:
    """Every error has the same form, whoever raised it."""
    handlers: dict[Any, Callable[[Request, Any], Awaitable[JSONResponse]]] = {
        Refused: _refused,
        RequestValidationError: _invalid,
        HTTPException: _http,
        Exception: _internal,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _refused(request: Request, error: Refused) -> JSONResponse:
    wait = error.retry_after_s
    headers = None if wait is None else {"retry-after": str(int(wait) + 1)}
    return _json(error.status, error.code, error.message, error.details, headers=headers)


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Where and what, never the value: it may be a token."""
    places = [{"at": ".".join(str(part) for part in e["loc"]), "says": e["msg"]} for e in error.errors()]
    first = f"{places[0]['at']}: {places[0]['says']}" if places else "the request"
    return _json(422, "invalid", first, places[:20])


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    return _json(error.status_code, CODES.get(error.status_code, "refused"), str(error.detail))


async def _internal(request: Request, error: Exception) -> JSONResponse:
    return _json(500, "internal", "the desk failed; its log has the place, by the id in X-Request-Id")


def _json(
    status: int, code: str, message: str, details: object = None, *, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(error_body(code, message, details), status_code=status, headers=headers)


CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
