"""Group commit: writers that wait at the same time share one transaction, and one trip to the disk.

On a disk that takes 5 ms for a commit, a hundred waiting answers need one of them instead of a hundred.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

T = TypeVar("T")

MOST = 64
"""Operations in one transaction, so that the last of a crowd does not wait for all of it."""


class Commits:
    """Runs operations one after another, acknowledged only when they are on disk.

    Example: `Commits(engine.begin).run(lambda connection: connection.execute(insert))`
    """

    def __init__(self, begin: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._begin = begin
        self._waiting: deque[_Operation] = deque()
        self._leading = threading.Lock()

    def run(self, operation: Callable[[Connection], T]) -> T:
        """What `operation` returns, after its commit. What it raises undoes its own changes and no other's.

        An error of the database (full disk, lost connection) undoes the whole transaction: everybody in it gets
        that error, and nothing of it was acknowledged.
        """
        mine = _Operation(operation)
        self._waiting.append(mine)
        with self._leading:  # whoever comes in first commits for all who wait behind it
            while not mine.is_done:
                self._commit([self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))])
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _commit(self, group: "list[_Operation]") -> None:
        try:
            with self._begin() as connection:
                for each in group:
                    each.attempt(connection)
        except BaseException as error:
            for each in group:
                each.error = each.error or error
            if not isinstance(error, DBAPIError):
                raise
        finally:
            for each in group:
                each.is_done = True


class _Operation:
    """Something to be written, and what came of it."""

    def __init__(self, run: Callable[[Connection], Any]) -> None:
        self._run = run
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_done = False

    def attempt(self, connection: Connection) -> None:
        """Raises what ends the whole transaction; what only this operation did wrong is kept for its writer."""
        try:
            with connection.begin_nested():
                self.result = self._run(connection)
        except IntegrityError as error:
            self.error = error
        except DBAPIError:
            raise  # SQLite may have rolled all of it back by itself: nothing after this is safe
        except Exception as error:  # noqa: BLE001 - raised again in the thread of its writer
            self.error = error
