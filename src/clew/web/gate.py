"""What every request passes before any route: host, origin, rate, size, depth; and the headers of every response.

Written on bare ASGI, so that nothing of the framework runs for a request that is refused.
"""

import asyncio
import json
import logging
import secrets
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clew.web.limits import Buckets, Limits, depth, is_strict

log = logging.getLogger("clew.desk")

API = "/api/v1"
SAFE = {"GET", "HEAD", "OPTIONS"}
LOGIN = f"{API}/session"


class Refused(Exception):
    """A request that goes no further: status, code and message of the answer."""

    def __init__(
        self, status: int, code: str, message: str, *, details: object = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.details = status, code, message, details
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Place:
    """Where the desk is reached.

    Example: `Place("http://127.0.0.1:8000", frozenset({"127.0.0.1:8000", "localhost:8000"}))`
    """

    url: str
    """Begins links; https makes cookies Secure."""
    hosts: frozenset[str]
    """Host headers that are answered: any other is a name that somebody else pointed here (DNS rebinding)."""

    @property
    def is_secure(self) -> bool:
        return self.url.startswith("https:")


class Gate:
    """The outermost layer of the desk.

    Example: `Gate(app, place, Limits())`
    """

    def __init__(self, app: ASGIApp, place: Place, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._place, self._limits = app, place, limits
        self._addresses = Buckets(limits.address_rate, limits.address_burst, clock)
        self._logins = Buckets(limits.login_rate, limits.login_burst, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._headers(scope["path"]))
        try:
            self._check(scope)
            await self._app(scope, await self._whole(scope, receive), answer.send)
        except Refused as refused:
            await answer.refuse(refused)
        except Exception as error:  # noqa: BLE001 - the edge: recorded, and told as a 500
            log.error("%s", json.dumps({"request": answer.id, "error": type(error).__name__, "at": _where(error)}))
            await answer.refuse(Refused(500, "internal", f"the desk failed; its log names request {answer.id}"))
        finally:
            if log.isEnabledFor(logging.INFO):
                log.info("%s", json.dumps(answer.line(scope)))

    def _check(self, scope: Scope) -> None:
        """Raises Refused for what no route needs to see."""
        address = scope["client"][0] if scope.get("client") else ""
        if wait := self._addresses.take(address):
            raise Refused(429, "too_many", "too many requests from this address", retry_after_s=wait)
        headers = _named(scope)
        if headers.get("host", "") not in self._place.hosts:
            raise Refused(421, "wrong_host", f"this desk is at {self._place.url}")
        if scope["method"] in SAFE:
            return
        if scope["path"] == LOGIN and scope["method"] == "POST" and (wait := self._logins.take(address)):
            raise Refused(429, "too_many", "too many logins from this address", retry_after_s=wait)
        self._check_origin(headers)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("application/json", "application/x-ndjson"):
            raise Refused(415, "content_type", "send Content-Type: application/json")

    def _check_origin(self, headers: dict[str, str]) -> None:
        """A page of another origin can send no header of its own; one that tries is refused twice."""
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin)[:2] != urlsplit(self._place.url)[:2]:
            same_host = urlsplit(origin).netloc in self._place.hosts and not self._place.is_secure
            if not same_host:
                raise Refused(403, "wrong_origin", f"requests come from {self._place.url}; got another origin")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Refused(403, "wrong_origin", "requests of other sites are refused")
        if headers.get("x-clew") != "1":
            raise Refused(403, "no_header", "send the header X-Clew: 1")

    async def _whole(self, scope: Scope, receive: Receive) -> Receive:
        """The request with its body read to the end, within its size, depth and time. Raises Refused."""
        if scope["method"] in SAFE:
            return receive
        is_bulk = scope["path"].endswith("/items")
        most = self._limits.bulk if is_bulk else self._limits.body
        announced = _named(scope).get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise Refused(413, "too_large", f"a body has at most {most} bytes; got {announced}")
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                body = await _read(receive, most)
        except TimeoutError:
            raise Refused(408, "too_slow", f"the body took more than {self._limits.body_timeout_s} s") from None
        if not is_bulk and depth(body) > self._limits.depth:
            raise Refused(400, "too_deep", f"JSON nests at most {self._limits.depth} levels")
        if not is_strict(body):
            raise Refused(400, "not_json", "JSON has neither NaN nor Infinity")
        return _replay(body, receive)

    def _headers(self, path: str) -> list[tuple[bytes, bytes]]:
        secure = [HSTS] if self._place.is_secure else []
        return [*HEADERS, *secure, NO_STORE if path.startswith(API) else REVALIDATE]


@dataclass
class _Answer:
    """One response on its way out."""

    out: Send
    headers: list[tuple[bytes, bytes]]
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    began: float = field(default_factory=time.perf_counter)
    status: int = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name for name, _ in message["headers"]}
            added = [h for h in self.headers if h[0] not in own or h[0] != b"cache-control"]
            message["headers"] = [*message["headers"], *added, (b"x-request-id", self.id.encode())]
        await self.out(message)

    def line(self, scope: Scope) -> dict[str, object]:
        """Of the log: no query, no body, no header."""
        took = round(1e3 * (time.perf_counter() - self.began), 1)
        return {
            "request": self.id, "method": scope["method"], "path": scope["path"], "status": self.status, "ms": took
        }  # fmt: skip

    async def refuse(self, refused: Refused) -> None:
        if self.status:  # half of it is out: nothing can be said any more
            return
        body = json.dumps(error_body(refused.code, refused.message)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if refused.retry_after_s is not None:
            headers.append((b"retry-after", str(int(refused.retry_after_s) + 1).encode()))
        if refused.status in (408, 413):
            headers.append((b"connection", b"close"))  # what is left of the body is not read
        await self.send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def error_body(code: str, message: str, details: object = None) -> dict[str, object]:
    """What every error looks like."""
    return {"error": {"code": code, "message": message, "details": details}}


def _named(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def _read(receive: Receive, most: int) -> bytes:
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "disconnected", "the body ended early")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise Refused(413, "too_large", f"a body has at most {most} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _where(error: BaseException) -> str:
    """Places in the code, never what the error says: messages of databases hold the values of rows."""
    return " < ".join(f"{f.name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)[-6:]))


CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]
HSTS = (b"strict-transport-security", b"max-age=31536000")
NO_STORE = (b"cache-control", b"no-store")
REVALIDATE = (b"cache-control", b"no-cache")
