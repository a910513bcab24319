"""Group commit: writers that wait at the same time share one transaction, and one trip to the disk.

On a disk that takes 5 ms for a commit, a hundred waiting answers need two of them instead of a hundred.
"""

import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

MOST = 64
"""Writers in one transaction, so that the first of a crowd does not wait for all of it."""


class Commits:
    """One writer at a time. Who leaves while others wait leaves the commit to them, and waits for it.

    Example: `with Commits(engine.connect).write() as connection: connection.execute(insert)`
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        self._num_waiting = 0
        self._group: _Group | None = None

    @contextmanager
    def write(self) -> Generator[Connection]:
        """A transaction that is on disk when the block has ended. What the block raises undoes its own changes only.

        An error of the database (full disk) undoes the whole transaction: everybody in it gets that error, and
        nothing of it was acknowledged.
        """
        self._wait(1)
        with self._turn:
            self._wait(-1)
            group = self._group = self._group or _Group(self._connect())
            try:
                yield from group.run()
            finally:
                if self._num_waiting == 0 or group.is_full or group.ended.is_set():
                    self._group = None
                    group.commit()
        group.ended.wait()
        if group.error is not None:
            raise group.error

    def _wait(self, change: int) -> None:
        with self._counting:
            self._num_waiting += change


class _Group:
    """A transaction and the writers in it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        try:
            self._transaction = connection.begin()
        except BaseException:
            connection.close()
            raise
        self._size = 0
        self.ended = threading.Event()
        self.error: BaseException | None = None

    @property
    def is_full(self) -> bool:
        return self._size >= MOST

    def run(self) -> Generator[Connection]:
        """One writer's changes. What it did wrong itself is undone; what the database did wrong ends the group."""
        self._size += 1
        self._say("SAVEPOINT writer")
        try:
            yield self._connection
            self._say("RELEASE writer")
        except BaseException as error:
            if isinstance(error, (DBAPIError, sqlite3.Error)) and not isinstance(error, IntegrityError):
                self._end(error)  # SQLite may have rolled all of it back by itself, the savepoint too
            else:
                self._say("ROLLBACK TO writer")
            raise

    def _say(self, statement: str) -> None:
        """To SQLite itself: through SQLAlchemy it would take as long as a writer's own statements."""
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection), "commits are shared in SQLite alone"
        driver.execute(statement)

    def commit(self) -> None:
        """Ends the group, with an error where the disk did not take it; its writers find that in `error`."""
        if self.ended.is_set():
            return
        try:
            self._transaction.commit()
        except BaseException as error:
            self._end(error)
            if not isinstance(error, DBAPIError):
                raise
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self.error = error
        try:
            if error is not None:
                self._connection.invalidate()  # a connection that failed to commit may still be in its transaction
            self._connection.close()
        finally:
            self.ended.set()
