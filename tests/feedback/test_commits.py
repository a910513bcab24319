import threading
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from clew.feedback.commits import MOST, Commits


class Database:
    """A file with one table, and a count of its transactions; the first waits until it is let go."""

    def __init__(self, path):
        self.engine = sa.create_engine(f"sqlite:///{path}")
        self.begun, self.gate, self.fails = 0, threading.Event(), False
        with self.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE t (a INTEGER PRIMARY KEY)"))

    @contextmanager
    def begin(self):
        self.begun += 1
        if self.begun == 1:
            self.gate.wait(10)
        with self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            if self.fails:
                raise OperationalError("COMMIT", {}, Exception("disk full"))
            connection.exec_driver_sql("COMMIT")

    def rows(self):
        with self.engine.connect() as connection:
            return [a for (a,) in connection.execute(sa.text("SELECT a FROM t ORDER BY a"))]


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "t.sqlite")


def insert(a):
    return lambda connection: connection.execute(sa.text("INSERT INTO t VALUES (:a)"), {"a": a}).rowcount


def at_once(commits, database, operations):
    """What each of the threads got: a result or an error. All wait behind the first."""
    outcomes: dict[int, object] = {}

    def run(place, operation):
        try:
            outcomes[place] = commits.run(operation)
        except Exception as error:
            outcomes[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(operations)]
    threads[0].start()
    while database.begun == 0:
        pass
    for thread in threads[1:]:
        thread.start()
    while len(commits._waiting) < len(operations) - 1:
        pass
    database.gate.set()
    for thread in threads:
        thread.join(10)
    return outcomes


def test_writers_that_wait_share_a_transaction(database):
    outcomes = at_once(Commits(database.begin), database, [insert(a) for a in range(20)])
    assert outcomes == dict.fromkeys(range(20), 1)
    assert database.rows() == list(range(20))
    assert database.begun == 2


def test_a_crowd_is_committed_in_groups_of_bounded_size(database):
    at_once(Commits(database.begin), database, [insert(a) for a in range(MOST + 10)])
    assert database.begun == 3
    assert len(database.rows()) == MOST + 10


def test_the_error_of_one_undoes_its_own_changes_and_no_others(database):
    def fails(connection):
        insert(99)(connection)
        raise ValueError("mine")

    outcomes = at_once(Commits(database.begin), database, [insert(0), insert(1), fails, insert(1), insert(2)])
    kinds = [type(outcomes[place]).__name__ for place in range(5)]
    assert sorted(kinds) == ["IntegrityError", "ValueError", "int", "int", "int"]
    assert database.rows() == [0, 1, 2]


def test_nobody_is_acknowledged_when_the_commit_fails(database):
    database.fails = True
    outcomes = at_once(Commits(database.begin), database, [insert(a) for a in range(5)])
    assert all(isinstance(outcome, OperationalError) for outcome in outcomes.values())
    assert database.rows() == []


def test_an_error_of_the_database_ends_the_whole_group(database):
    def full(connection):
        raise OperationalError("INSERT", {}, Exception("disk full"))

    outcomes = at_once(Commits(database.begin), database, [insert(0), insert(1), full, insert(2)])
    assert outcomes[0] == 1
    assert all(isinstance(outcomes[place], OperationalError) for place in (1, 2, 3))
    assert database.rows() == [0]


def test_what_is_returned_is_on_disk(database):
    database.gate.set()
    assert Commits(database.begin).run(insert(7)) == 1
    assert Database.rows(database) == [7]
