import threading
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from clew.feedback.commits import MOST, Commits


class Table:
    """A file with one table, and how many transactions it has had."""

    def __init__(self, path):
        self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
        self.num_commits, self.fails = 0, False
        sa.event.listen(self.engine, "connect", lambda connection, entry: setattr(connection, "isolation_level", None))
        sa.event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        sa.event.listen(self.engine, "commit", self._committed)
        with self.engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE t (a INTEGER PRIMARY KEY)"))
        self.num_commits = 0
        self.commits = Commits(self.engine.connect)

    def _committed(self, connection):
        if self.fails:
            raise OperationalError("COMMIT", {}, Exception("disk full"))
        self.num_commits += 1

    def insert(self, a):
        with self.commits.write() as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (:a)"), {"a": a})

    def rows(self):
        with self.engine.connect() as connection:
            return [a for (a,) in connection.execute(sa.text("SELECT a FROM t ORDER BY a"))]


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / "t.sqlite")


def at_once(table, actions):
    """What each of the threads got: None or an error. All others wait while the first writes."""
    outcomes: dict[int, BaseException | None] = {}

    def run(place, action):
        try:
            action()
            outcomes[place] = None
        except (ValueError, sa.exc.DBAPIError) as error:
            outcomes[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    with suppress(OperationalError), table.commits.write():
        for thread in threads:
            thread.start()
        while table.commits._num_waiting < len(threads):
            pass
    for thread in threads:
        thread.join(10)
    return [outcomes[place] for place in range(len(actions))]


def inserting(table, *values):
    return [lambda a=a: table.insert(a) for a in values]


def test_writers_that_wait_share_a_transaction(table):
    assert at_once(table, inserting(table, *range(20))) == [None] * 20
    assert table.rows() == list(range(20))
    assert table.num_commits == 1


def test_a_crowd_is_committed_in_groups_of_bounded_size(table):
    at_once(table, inserting(table, *range(MOST + 10)))
    assert len(table.rows()) == MOST + 10
    assert table.num_commits == 2


def test_who_is_alone_does_not_wait_for_others(table):
    table.insert(7)
    assert table.rows() == [7]
    assert table.num_commits == 1


def test_the_error_of_one_undoes_its_own_changes_and_no_others(table):
    def fails():
        with table.commits.write() as connection:
            connection.execute(sa.text("INSERT INTO t VALUES (99)"))
            raise ValueError("mine")

    outcomes = at_once(table, [*inserting(table, 0, 1), fails, *inserting(table, 1, 2)])
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["IntegrityError"] + ["NoneType"] * 3 + [
        "ValueError"
    ]
    assert table.rows() == [0, 1, 2]


def test_nobody_is_acknowledged_when_the_commit_fails(table):
    table.fails = True
    assert all(isinstance(outcome, OperationalError) for outcome in at_once(table, inserting(table, 0, 1, 2)))
    assert table.rows() == []
    table.fails = False
    table.insert(3)
    assert table.rows() == [3]


def test_an_error_of_the_database_ends_the_whole_group_and_the_next_begins_anew(table):
    def full():
        with table.commits.write():
            raise OperationalError("INSERT", {}, Exception("disk full"))

    with pytest.raises(OperationalError), table.commits.write():
        raise OperationalError("INSERT", {}, Exception("disk full"))
    outcomes = at_once(table, inserting(table, 0, 1, 2))
    assert outcomes == [None] * 3
    assert table.rows() == [0, 1, 2]
    lost = at_once(table, [*inserting(table, 10), full, *inserting(table, 11)])
    kept = {place for place, outcome in zip((10, None, 11), lost, strict=True) if outcome is None}
    assert kept == {a for a in table.rows() if a >= 10}
    assert isinstance(lost[1], OperationalError)


def test_many_threads_lose_and_double_nothing(table):
    errors: list[BaseException] = []

    def work(start):
        for a in range(start, start + 50):
            try:
                table.insert(a)
                table.insert(a)
            except IntegrityError as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(50 * k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert table.rows() == list(range(400))
    assert len(errors) == 400
