import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from clew.failure import NoSpace
from clew.feedback.records import Comparison, Feedback, Item, Rater, Task
from clew.feedback.schema import APPEND_ONLY
from clew.feedback.store import Conflict, Store

ITEMS = [Item(prompt="q", completion=c) for c in "ab"]
TASK = Task(kind="comparison", prompt="q", items=(ITEMS[0].id, ITEMS[1].id))


def vote(rater: str = "anna", verdict: str = "first", revision: int = 0, **others) -> Feedback:
    return Feedback(
        task_id=TASK.id,
        items=TASK.items,
        rater=Rater(id=rater, kind="person"),
        answer=Comparison(verdict=verdict),
        revision=revision,
        **others,
    )


@pytest.fixture
def asked(store):
    """A store with a task."""
    store.add_items(ITEMS)
    store.add_tasks([TASK])
    return store


def test_what_goes_in_comes_out(asked):
    asked.add_feedback([vote("anna"), vote("ben", "tie")])
    assert [f.rater.id for f in asked.feedback()] == ["anna", "ben"]
    assert asked.tasks("comparison") == [TASK]
    assert set(asked.items()) == set(TASK.items)
    assert [r.id for r in asked.raters()] == ["anna", "ben"]
    assert asked.feedback("thumb") == asked.tasks("thumb") == []


def test_adding_again_changes_nothing(asked):
    asked.add_feedback([vote()])
    asked.add_feedback([vote(), vote()])
    asked.add_items(ITEMS)
    asked.add_tasks([TASK])
    assert len(asked.feedback()) == 1
    assert len(asked.events()) == 1


def test_another_answer_under_the_same_id_is_a_conflict_and_nothing_of_it_is_kept(asked):
    asked.add_feedback([vote()])
    with pytest.raises(Conflict, match="says something else; send a new revision"):
        asked.add_feedback([vote("ben"), vote(verdict="second")])
    with pytest.raises(Conflict, match="says something else"):
        asked.add_feedback([vote("cleo"), vote("cleo", "second")])
    assert [f.rater.id for f in asked.feedback()] == ["anna"]


def test_the_latest_revision_counts_and_history_keeps_all(asked):
    asked.add_feedback([vote(), vote("ben"), vote(verdict="second", revision=1)])
    assert {f.rater.id: f.answer.verdict for f in asked.feedback()} == {"anna": "second", "ben": "first"}
    assert len(asked.feedback(history=True)) == 3


def test_planned_repeats_are_no_second_vote(asked):
    asked.add_feedback([vote(), vote(verdict="second", repeat=1)])
    assert [f.answer.verdict for f in asked.feedback()] == ["first"]
    assert [f.answer.verdict for f in asked.feedback(repeats=True)] == ["first", "second"]


def test_feedback_for_an_unknown_task_is_refused(store):
    with pytest.raises(ValueError, match="names a task that is not in the store"):
        store.add_feedback([vote()])
    assert store.feedback() == store.events() == []


def test_texts_of_every_script_and_control_characters_survive(store):
    odd = [Item(prompt=f"{i}", completion=c) for i, c in enumerate(("\x00\x1b[31m", "‮abc‬", "👩‍👩‍👧", "\u2028'\";--"))]
    store.add_items(odd)
    assert {i.completion for i in store.items().values()} == {i.completion for i in odd}


@pytest.mark.parametrize("table", APPEND_ONLY, ids=lambda t: t.name)
@pytest.mark.parametrize("statement", ["UPDATE {} SET body = 'x'", "DELETE FROM {}"])
def test_the_database_itself_refuses_changes(asked, table, statement):
    asked.add_feedback([vote()])
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), asked.write() as connection:
        connection.execute(sa.text(statement.format(table.name)))
    assert asked.damage() == []


def test_a_store_is_the_same_when_it_is_opened_again(asked, place):
    asked.add_feedback([vote()])
    again = Store.open(place)
    assert again.feedback() == asked.feedback()
    assert again.damage() == []
    again.close()


def test_it_is_durable_sqlite(tmp_path):
    store = Store.open(tmp_path / "s.sqlite")
    with store.read() as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert connection.execute(sa.text("PRAGMA foreign_keys")).scalar() == 1


def test_a_store_of_another_schema_is_refused(place):
    Store.open(place).close()
    store = Store.open(place)
    with store.write() as connection:
        connection.execute(sa.text("UPDATE meta SET value = '99'"))
    with pytest.raises(ValueError, match="schema 99 and this clew knows 2: a newer version wrote it"):
        Store.open(place)


def test_another_kind_of_database_is_refused():
    with pytest.raises(ValueError, match="a SQLite file or a postgresql:// URL; got mysql://"):
        Store.open("mysql://user@host/name")


def test_a_store_of_schema_1_is_brought_here_without_loss_and_backed_up(tmp_path):
    file = tmp_path / "old.sqlite"
    old = sqlite3.connect(file)
    old.executescript((Path(__file__).parent / "schema_1.sql").read_text(encoding="utf-8"))
    old.close()
    store = Store.open(file)
    assert {f.rater.id: f.answer.verdict for f in store.feedback()} == {"anna": "second", "ben": "tie"}
    assert len(store.feedback(history=True)) == 3
    assert store.tasks() == [TASK]
    assert set(store.items()) == set(TASK.items)
    assert [e.type for e in store.events()] == ["migrated"]
    store.add_feedback([vote("cleo")])
    assert store.damage() == []
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), store.write() as connection:
        connection.execute(sa.text("DELETE FROM feedback"))
    backup = sqlite3.connect(tmp_path / "old.sqlite.schema-1.backup")
    assert backup.execute("SELECT value FROM meta").fetchone() == ("1",)
    assert backup.execute("SELECT count(*) FROM feedback").fetchone() == (3,)


def test_a_migration_that_fails_leaves_the_old_store(tmp_path, monkeypatch):
    file = tmp_path / "old.sqlite"
    old = sqlite3.connect(file)
    old.executescript((Path(__file__).parent / "schema_1.sql").read_text(encoding="utf-8"))
    monkeypatch.setattr("clew.feedback.migrations._guard", lambda connection: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Store.open(file)
    assert old.execute("SELECT value FROM meta").fetchone() == ("1",)
    assert len(old.execute("SELECT * FROM feedback").fetchone()) == 7


def test_a_file_has_one_server_and_as_many_readers_as_like(tmp_path):
    serving = Store.open(tmp_path / "s.sqlite", serve=True)
    with pytest.raises(BlockingIOError, match=r"s\.sqlite is served by another process; stop it first"):
        Store.open(tmp_path / "s.sqlite", serve=True)
    assert Store.open(tmp_path / "s.sqlite").feedback() == []
    serving.close()
    Store.open(tmp_path / "s.sqlite", serve=True).close()


def test_a_damaged_file_is_not_served(tmp_path):
    store = Store.open(tmp_path / "s.sqlite")
    store.add_items([Item(prompt="q", completion="x" * 9000 + str(i)) for i in range(50)])
    with store.read() as connection:
        connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
    store.close()
    with (tmp_path / "s.sqlite").open("r+b") as file:
        file.seek(4096 * 30)
        file.write(b"\xff" * 4096 * 30)
    with pytest.raises((ValueError, sa.exc.DatabaseError), match=r"damaged|malformed"):
        Store.open(tmp_path / "s.sqlite", serve=True)


def test_a_backup_is_a_whole_store(tmp_path):
    store = Store.open(tmp_path / "s.sqlite")
    store.add_items(ITEMS)
    store.add_tasks([TASK])
    store.add_feedback([vote()])
    store.backup(tmp_path / "copy.sqlite")
    copy = Store.open(tmp_path / "copy.sqlite")
    assert copy.feedback() == store.feedback()
    assert copy.damage() == []


@pytest.fixture(params=["pages", "tmpfs"])
def small_store(request, tmp_path):
    """A store with room for little: by SQLite's own limit, and on a file system of 1 MB where we may mount one."""
    if request.param == "pages":
        store = Store.open(tmp_path / "s.sqlite")
        sa.event.listen(
            store._database.engine, "begin", lambda c: c.exec_driver_sql("PRAGMA max_page_count = 120").close()
        )
        yield store
        return
    folder = Path(tempfile.mkdtemp(prefix="clew-small-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("no right to mount a small file system")
    store = Store.open(folder / "s.sqlite")
    yield store
    store.close()
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_is_said_and_harms_nothing(small_store):
    small_store.add_items(ITEMS)
    small_store.add_tasks([TASK])
    kept = 0
    with pytest.raises(NoSpace, match=r"is full: nothing of this was kept, all before is whole"):
        for i in range(5000):
            small_store.add_feedback([vote(f"r{i}", note="x" * 500)])
            kept += 1
    assert kept > 10
    assert len(small_store.feedback()) == kept
    assert small_store.damage() == []


WRITER = r"""
import os, sys, threading
from pathlib import Path
from clew.feedback.answers import Submission
from clew.feedback.desk import Desk
from clew.feedback.records import Comparison
from clew.feedback.store import Store

desk = Desk(Store.open(Path(sys.argv[1]), serve=True))
project = desk.projects.all()[0].id
start = int(sys.argv[2])

def work(person, now):
    while True:
        now += 1
        for leased in desk.lease(person.id, project, 2, now=now):
            verdict = "first" if leased.items[0].completion == "good" else "second"
            receipt = desk.answer(person.id, leased.lease, Submission(answer=Comparison(verdict=verdict)), now=now)
            os.write(1, f"{receipt.answer} {leased.lease}\n".encode())  # at once, or lines of threads mix

for person in desk.people.all():
    threading.Thread(target=work, args=(person, start)).start()
"""


def test_no_acknowledged_answer_is_lost_or_doubled_when_the_writer_is_killed(tmp_path):
    kill_while_writing(tmp_path, times=5)


@pytest.mark.slow
def test_nothing_is_lost_in_fifty_kills(tmp_path):
    kill_while_writing(tmp_path, times=50)


def kill_while_writing(folder, times):
    from clew.feedback.desk import Desk
    from clew.feedback.projects import ProjectConfig

    desk = Desk(Store.open(folder / "s.sqlite"))
    project = desk.projects.add("p", ProjectConfig(kind="comparison", need=4, audit_share=0), actor="o", now=0)
    items = [Item(prompt=f"q{i}", completion=c) for i in range(1000) for c in ("good", "bad")]
    tasks = [
        Task(kind="comparison", prompt=a.prompt, items=(a.id, b.id))
        for a, b in zip(items[::2], items[1::2], strict=True)
    ]
    desk.projects.put(project.id, tasks, items=items, actor="o", now=0)
    for i in range(4):
        desk.people.add("annotator", name=str(i), actor="o", now=0)
    rng, acknowledged = random.Random(0), set()
    for round in range(times):
        command = [sys.executable, "-c", WRITER, str(folder / "s.sqlite"), str(round * 1_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            first = writer.stdout.readline()  # it is at work
            time.sleep(rng.uniform(0, 0.15))
            os.kill(writer.pid, signal.SIGKILL)
            lines = (first + writer.stdout.read()).split("\n")
        acknowledged |= {tuple(line.split()) for line in lines[:-1]}
    assert len(acknowledged) > times
    found = desk.store.feedback()
    assert {answer for answer, _ in acknowledged} <= {f.id for f in found}
    assert len({(f.task_id, f.rater.id) for f in found}) == len(found)
    good = {i.id for i in items if i.completion == "good"}
    assert all((f.items[0] in good) == (f.answer.verdict == "first") for f in found)
    assert desk.projects.progress(project.id).answered == len(found)
    assert desk.store.damage() == []
