import sqlite3
import subprocess
import sys
import textwrap

import pytest
import sqlalchemy as sa

from clew.feedback.schema import APPEND_ONLY
from clew.feedback.records import Comparison, Feedback, Item, Rater, Task
from clew.feedback.store import Conflict, Store

ITEMS = [Item(prompt="q", completion=c) for c in "ab"]
TASK = Task(kind="comparison", prompt="q", items=(ITEMS[0].id, ITEMS[1].id))


def vote(rater: str = "anna", verdict: str = "first", revision: int = 0) -> Feedback:
    return Feedback(
        task_id=TASK.id,
        items=TASK.items,
        rater=Rater(id=rater, kind="person"),
        answer=Comparison(verdict=verdict),
        revision=revision,
    )


@pytest.fixture
def store(tmp_path):
    store = Store.open(tmp_path / "s.sqlite")
    store.add_items(ITEMS)
    store.add_tasks([TASK])
    yield store
    store.close()


def test_what_goes_in_comes_out(store):
    store.add_feedback([vote("anna"), vote("ben", "tie")])
    assert [f.rater.id for f in store.feedback()] == ["anna", "ben"]
    assert store.tasks("comparison") == [TASK]
    assert set(store.items()) == set(TASK.items)
    assert [r.id for r in store.raters()] == ["anna", "ben"]
    assert store.feedback("thumb") == store.tasks("thumb") == []


def test_adding_again_changes_nothing(store):
    store.add_feedback([vote()])
    store.add_feedback([vote()])
    store.add_items(ITEMS)
    store.add_tasks([TASK])
    assert len(store.feedback()) == 1


def test_another_answer_under_the_same_id_is_a_conflict_and_nothing_of_it_is_kept(store):
    store.add_feedback([vote()])
    with pytest.raises(Conflict, match="says something else; send a new revision"):
        store.add_feedback([vote("ben"), vote(verdict="second")])
    assert [f.rater.id for f in store.feedback()] == ["anna"]


def test_the_latest_revision_counts_and_history_keeps_all(store):
    store.add_feedback([vote(), vote("ben"), vote(verdict="second", revision=1)])
    assert {f.rater.id: f.answer.verdict for f in store.feedback()} == {"anna": "second", "ben": "first"}
    assert len(store.feedback(history=True)) == 3


def test_feedback_for_an_unknown_task_is_refused(tmp_path):
    store = Store.open(tmp_path / "empty.sqlite")
    with pytest.raises(ValueError, match="names a task that is not in the store"):
        store.add_feedback([vote()])


@pytest.mark.parametrize("table", APPEND_ONLY[:3], ids=lambda t: t.name)
@pytest.mark.parametrize("statement", ["UPDATE {} SET body = 'x'", "DELETE FROM {}"])
def test_the_database_itself_refuses_changes(store, table, statement):
    store.add_feedback([vote()])
    with store.write() as connection, pytest.raises(sa.exc.IntegrityError, match="append-only"):
        connection.execute(sa.text(statement.format(table.name)))


def test_it_is_durable_sqlite(store, tmp_path):
    with store.read() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert connection.execute(sa.text("PRAGMA foreign_keys")).scalar() == 1


def test_a_store_of_another_schema_is_refused(tmp_path):
    Store.open(tmp_path / "s.sqlite").close()
    with sqlite3.connect(tmp_path / "s.sqlite") as raw:
        raw.execute("UPDATE meta SET value = '99'")
    with pytest.raises(ValueError, match="schema 99 and this clew knows 2"):
        Store.open(tmp_path / "s.sqlite")


def test_acknowledged_feedback_survives_kill_9(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from tests.feedback.test_store import ITEMS, TASK, vote
        from clew.feedback.store import Store
        store = Store.open(Path(sys.argv[1]))
        store.add_items(ITEMS); store.add_tasks([TASK])
        for i in range(5):
            store.add_feedback([vote(f"r{i}")])
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "s.sqlite")], check=False)
    assert len(Store.open(tmp_path / "s.sqlite").feedback()) == 5
