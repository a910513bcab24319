import hashlib
import json
import sqlite3

import pytest

from clew.feedback import events
from clew.feedback.events import GENESIS
from clew.feedback.store import Store
from tests.feedback.test_store import ITEMS, TASK, vote


@pytest.fixture
def file(tmp_path):
    """A SQLite store with three events, closed."""
    store = Store.open(tmp_path / "s.sqlite")
    store.add_items(ITEMS)
    store.add_tasks([TASK])
    for name in ("anna", "ben", "cleo"):
        store.add_feedback([vote(name)])
    store.close()
    return tmp_path / "s.sqlite"


def tamper(file, table, statement):
    """As somebody with the file in their hands might."""
    with sqlite3.connect(file) as raw:
        for verb in ("update", "delete"):
            raw.execute(f"DROP TRIGGER {table}_no_{verb}")
        raw.execute(statement)


def test_each_event_is_sealed_with_the_one_before(store):
    with store.write() as connection:
        numbers = [events.append(connection, "t", {"b": 2, "a": "é"}, actor="x", now=at) for at in (5, 6)]
    first, second = store.events()
    assert numbers == [1, 2]
    sealed = json.dumps([1, 5, "x", "t", '{"a":"\\u00e9","b":2}', GENESIS], separators=(",", ":"))
    assert first.hash == hashlib.sha256(sealed.encode()).hexdigest()
    assert (first.prev_hash, second.prev_hash) == (GENESIS, first.hash)
    assert first.body == {"a": "é", "b": 2}
    assert store.damage() == []


def test_events_can_be_read_in_part(store):
    with store.write() as connection:
        for number in range(6):
            events.append(connection, "even" if number % 2 == 0 else "odd", {}, actor="x", now=number)
    assert [e.seq for e in store.events(after=2, limit=2)] == [3, 4]
    assert [e.seq for e in store.events(types=["even"])] == [1, 3, 5]


def test_an_event_whose_transaction_failed_did_not_happen(store):
    with pytest.raises(ZeroDivisionError), store.write() as connection:
        events.append(connection, "t", {}, actor="x", now=0)
        1 / 0
    assert store.events() == []
    assert store.damage() == []


@pytest.mark.parametrize(
    ("table", "statement", "says"),
    [
        ("event", "UPDATE event SET actor = 'ben' WHERE seq = 2", "broken at event 2"),
        ("event", "UPDATE event SET at = at + 1 WHERE seq = 1", "broken at event 1"),
        ("event", "DELETE FROM event WHERE seq = 2", "broken at event 2"),
        ("event", "DELETE FROM event WHERE seq = 3", "broken at event 3"),
        ("feedback", "UPDATE feedback SET body = replace(body, 'first', 'tie') WHERE rater = 'ben'", "not what was written"),
        ("feedback", "DELETE FROM feedback WHERE rater = 'ben'", "is gone"),
        ("feedback", "INSERT INTO feedback SELECT 9, 'x', task, rater, kind, 1, body, purpose, late, at, event FROM feedback WHERE seq = 1", "not what was written"),
    ],
)  # fmt: skip
def test_who_changes_the_file_is_found_out(file, table, statement, says):
    assert Store.open(file).damage() == []
    tamper(file, table, statement)
    assert any(says in found for found in Store.open(file).damage())
