"""Runs the desk in this process until Ctrl-C."""

import asyncio
import gc
import ipaddress
import logging
import socket
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clew.web.gate import Gate, Place
from clew.web.limits import Limits

MOST_CONNECTIONS = 1000


def place(host: str, port: int, behind_proxy: str | None) -> Place:
    """Where the desk is reached. Raises ValueError for an address that strangers reach, unless a proxy is named."""
    if behind_proxy is not None:
        url = urlsplit(behind_proxy)
        if url.scheme not in ("http", "https") or not url.netloc or url.path not in ("", "/"):
            raise ValueError(
                f"--behind-proxy needs the address that people type: https://HOST[:PORT]; got {behind_proxy!r}"
            )
        return Place(f"{url.scheme}://{url.netloc}", frozenset({url.netloc}))
    if not _is_loopback(host):
        raise ValueError(
            f"--host {host} is reached from outside, where tokens and cookies would travel unencrypted; put a proxy "
            "with TLS before the desk and say so: --behind-proxy https://ADDRESS-THAT-PEOPLE-TYPE"
        )
    shown = f"[{host}]" if ":" in host else host
    return Place(f"http://{shown}:{port}", frozenset({f"{shown}:{port}", f"localhost:{port}"}))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, whose port is known before anybody is told of it; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(128)  # who is told of it and comes before the server runs waits, and is not refused
    except OSError as error:
        opened.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}; give another --port") from error
    return opened


def serve(app: Gate, opened: socket.socket, limits: Limits, *, is_behind_proxy: bool) -> None:
    """Answers requests until SIGINT or SIGTERM; requests under way are answered first."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    _spare_the_collector()
    server_of(app, limits, is_behind_proxy=is_behind_proxy).run(sockets=[opened])


def _spare_the_collector() -> None:
    """What is loaded stays; the slowest answers were those that waited while it was looked through for garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 1000)


def server_of(app: Gate, limits: Limits, *, is_behind_proxy: bool = False) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=_patient(limits.header_timeout_s),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # the gate writes one line a request, without what a query may hold
        server_header=False,
        proxy_headers=is_behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def _patient(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which waits for a request's headers only so long."""

    class Patient(HttpToolsProtocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self._waiting = self.loop.call_later(header_timeout_s, transport.close)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._stop_waiting()
            self._waiting = self.loop.call_later(header_timeout_s, self.transport.close)

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()

    return Patient
