"""A user's function, called so that it cannot stop a run in silence: within a time, and with a look at where it is."""

import asyncio
import faulthandler
import inspect
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from clew.failure import Failure

GRACE_S = 30.0
STDERR = 2


class Hangs(Failure):
    """A function has not returned in its time; the evidence holds the stacks of all threads."""


def call_within(timeout_s: float | None, function: Callable[[], Any], asked: str) -> Any:
    """What the function returns; of an `async def`, what it comes to. None waits for ever, and calls it right here.

    A thread cannot be killed: a function that hangs is left behind in its own, and Hangs is raised here. One that
    keeps the interpreter to itself (9**9**9) leaves nobody to raise anything: then the process prints its stacks and
    ends, as if killed, and can go on as after a kill.
    """
    if timeout_s is None:
        return _value(function)
    answer: Future[Any] = Future()
    thread = threading.Thread(target=_work, args=(function, answer), daemon=True, name=asked)
    with _watchdog(timeout_s + GRACE_S):
        thread.start()
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            if answer.done():  # the function's own
                return answer.result()
    raise Hangs(
        f"{asked} has not returned after {timeout_s:g} s; mend it, or raise timeout_s (null waits for ever). The same "
        "command goes on from the last checkpoint",
        {"hangs.txt": _stacks()},
    )


def _work(function: Callable[[], Any], answer: "Future[Any]") -> None:
    try:
        answer.set_result(_value(function))
    except BaseException as error:  # noqa: BLE001 (raised again where the answer is waited for)
        answer.set_exception(error)


def _value(function: Callable[[], Any]) -> Any:
    value = function()
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


@contextmanager
def _watchdog(timeout_s: float) -> Iterator[None]:
    """Needs no interpreter: a thread in C."""
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
