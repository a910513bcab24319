"""The database under the store: SQLite in a file, or PostgreSQL by URL. What was committed is on disk."""

import fcntl
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from clew.failure import NoSpace
from clew.feedback.commits import Commits

WRITES = {"clew_writes": True}
NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs")
"""File systems whose locks SQLite cannot rely on."""


class Database:
    """Transactions. In SQLite one writer at a time, those who wait together in one commit; readers see a snapshot."""

    def __init__(self, engine: Engine, *, file: Path | None = None, lock: IO[bytes] | None = None) -> None:
        self._engine = engine
        self.file = file
        """Of SQLite; None for a server."""
        self._lock = lock
        self._commits = Commits(lambda: engine.connect().execution_options(**WRITES))

    @property
    def engine(self) -> Engine:
        return self._engine

    @contextmanager
    def write(self) -> Generator[Connection]:
        """All of it, on disk when the block ends, or nothing. Raises NoSpace where the disk is full."""
        with _space(self._engine), self._engine.begin() if self.file is None else self._commits.write() as connection:
            yield connection

    @contextmanager
    def read(self) -> Generator[Connection]:
        """One state of the store, whatever is written meanwhile."""
        with self._engine.connect() as connection:
            yield connection

    def backup(self, to: Path) -> None:
        """A whole copy of a SQLite store, while others write. Raises ValueError for a server, which has pg_dump."""
        if self.file is None:
            raise ValueError("a PostgreSQL store is backed up by pg_dump, not by clew")
        building = to.with_name(to.name + ".partial")
        source, target = sqlite3.connect(self.file), sqlite3.connect(building)
        with source, target:
            source.backup(target)
        source.close()
        target.close()
        building.replace(to)

    def close(self) -> None:
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()


def open_file(file: Path, *, serve: bool) -> Database:
    """SQLite with WAL, synchronous=FULL. With `serve`, the only server of this file: BlockingIOError for a second."""
    file.parent.mkdir(parents=True, exist_ok=True)
    system = _file_system(file.parent.resolve())
    if serve and system.startswith(NETWORK):
        raise ValueError(
            f"{file} lies on a network file system ({system}), whose locks do not keep SQLite whole; put it on a "
            "local disk, or use PostgreSQL by its URL"
        )
    lock = _only_server(file) if serve else None
    engine = sa.create_engine(f"sqlite:///{file}", connect_args={"timeout": 10, "check_same_thread": False})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return Database(engine, file=file, lock=lock)


def open_url(url: str) -> Database:
    """`postgresql://user@host/name`, through psycopg 3; commits wait for the disk, whatever the server's default."""
    address = sa.make_url(url)
    if address.get_backend_name() != "postgresql":
        raise ValueError(f"a store is a SQLite file or a postgresql:// URL; got {address.get_backend_name()}://")
    try:
        engine = sa.create_engine(address.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("PostgreSQL needs psycopg; pip install 'clew[postgres]'") from error
    event.listen(engine, "connect", _configure_postgres)
    return Database(engine)


def _configure(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin where we say, see _begin
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _configure_postgres(connection: sa.engine.interfaces.DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("SET synchronous_commit = on")
    cursor.close()
    connection.commit()


def _begin(connection: Connection) -> None:
    """Writers take their lock at once: a reader that becomes a writer could be refused half way."""
    writes = connection.get_execution_options().get("clew_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _only_server(file: Path) -> IO[bytes]:
    handle = file.with_name(file.name + ".lock").open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise BlockingIOError(
            f"{file} is served by another process; stop it first, or use PostgreSQL, which several servers may share"
        ) from error
    return handle


def _file_system(folder: Path) -> str:
    """Its type as the kernel names it; empty where it does not say."""
    mounts = Path("/proc/mounts")
    found = ("", "")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, place, system, *_ = line.split()
        if folder.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, system)
    return found[1]


@contextmanager
def _space(engine: Engine) -> Generator[None]:
    try:
        yield
    except OperationalError as error:
        if _is_full(error):
            raise NoSpace(
                f"the disk of the store {engine.url.database} is full: nothing of this was kept, all before is whole; "
                "free some space and send it again"
            ) from error
        raise


def _is_full(error: OperationalError) -> bool:
    """SQLite's SQLITE_FULL, also while it writes its log (an I/O error), or PostgreSQL's disk_full."""
    name = getattr(error.orig, "sqlite_errorname", "") or ""
    return name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR") or getattr(error.orig, "sqlstate", "") == "53100"
