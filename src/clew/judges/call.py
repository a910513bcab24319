"""A user's function, called so that it cannot stop a run in silence: within a time, and with a look at where it is."""

import asyncio
import faulthandler
import inspect
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from clew.failure import Failure

GRACE_S = 30.0
STDERR = 2
_LOCK = threading.Lock()
_DEADLINES: list[float] = []
"""Of the calls under way; several threads may call."""
_LOOPS: list[asyncio.AbstractEventLoop] = []
"""The one for all calls, behind those that something has blocked."""


class Hangs(Failure):
    """A function has not returned in its time; the evidence holds the stacks of all threads and async tasks."""


def call_within(timeout_s: float | None, function: Callable[[], Any], asked: str) -> Any:
    """What the function returns; of an `async def`, what it comes to. None waits for ever, and calls it right here.

    A thread cannot be killed: a function that hangs is left behind in its own, and Hangs is raised here; an async one
    is cancelled. One that keeps the interpreter to itself (9**9**9) leaves nobody to raise anything: then the process
    prints its stacks and ends, as if killed, and can go on as after a kill.
    """
    if timeout_s is None:
        value = function()
        return _awaited(value).result() if inspect.isawaitable(value) else value
    until = time.monotonic() + timeout_s
    with _watchdog(timeout_s + GRACE_S):
        called = _called(function, asked)
        if _is_done(called, until):
            value = called.result()
            if not inspect.isawaitable(value):
                return value
            called = _awaited(value)
            if _is_done(called, until):
                return called.result()
    stacks = _stacks()
    called.cancel()
    _loop.cache_clear()  # an async function that blocks has it for itself
    says = f"{asked} has not returned after {timeout_s:g} s"
    raise Hangs(
        f"{says}; mend it, or raise timeout_s (null waits for ever). The same command goes on from the last checkpoint",
        {"hangs.txt": f"{says}\n\n{stacks}"},
    )


def _is_done(called: "Future[Any]", until: float) -> bool:
    wait([called], max(0.0, until - time.monotonic()))
    return called.done()


def _called(function: Callable[[], Any], asked: str) -> "Future[Any]":
    """In a thread of its own."""
    answer: Future[Any] = Future()
    answer.set_running_or_notify_cancel()

    def work() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:  # noqa: BLE001 (raised again where the answer is waited for)
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True, name=asked).start()
    return answer


def _awaited(value: Awaitable[Any]) -> "Future[Any]":
    async def come_to() -> Any:
        return await value

    return asyncio.run_coroutine_threadsafe(come_to(), _shared_loop())


def _shared_loop() -> asyncio.AbstractEventLoop:
    with _LOCK:
        return _loop()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all calls: the clients and semaphores that a function keeps between them belong to their loop."""
    loop = asyncio.new_event_loop()
    _LOOPS.append(loop)
    threading.Thread(target=_turn, args=(loop,), daemon=True, name="async functions").start()
    return loop


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        with suppress(SystemExit, KeyboardInterrupt):  # of a task: it leaves the loop, and reaches who awaits the task
            loop.run_forever()


@contextmanager
def _watchdog(timeout_s: float) -> Iterator[None]:
    """Needs no interpreter: a thread in C. There is but one, so it waits for the latest of the calls under way."""
    until = time.monotonic() + timeout_s
    with _LOCK:
        _DEADLINES.append(until)
        _set_watchdog()
    try:
        yield
    finally:
        with _LOCK:
            _DEADLINES.remove(until)
            _set_watchdog()


def _set_watchdog() -> None:
    if _DEADLINES:
        left = max(_DEADLINES) - time.monotonic()
        faulthandler.dump_traceback_later(max(left, GRACE_S), exit=True, file=STDERR)
    else:
        faulthandler.cancel_dump_traceback_later()


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = [
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    ]
    tasks = [task for loop in list(_LOOPS) for task in asyncio.all_tasks(loop)]
    return "\n".join([*threads, *(f"{task.get_name()}:\n{_awaits(task.get_coro())}" for task in tasks)])


def _awaits(coroutine: Any) -> str:
    """Of a task that waits, the lines at which it does, from the outermost on."""
    lines = ""
    while inspect.iscoroutine(coroutine):
        if coroutine.cr_frame is not None:
            lines += traceback.format_stack(coroutine.cr_frame, limit=1)[0]
        coroutine = coroutine.cr_await
    return lines
