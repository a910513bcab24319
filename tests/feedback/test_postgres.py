"""Several servers share one PostgreSQL store."""

import threading
from collections import Counter

import pytest
import sqlalchemy as sa

from clew.feedback.desk import Desk
from clew.feedback.store import Store
from tests.feedback.test_leases import at_once, first_of_task, start


@pytest.fixture(params=["postgres"])
def place(place):
    return place


def test_commits_wait_for_the_disk(store):
    with store.read() as connection:
        assert connection.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"


def test_two_servers_give_different_tasks_at_the_same_time(place):
    desks = [Desk(Store.open(place)) for _ in range(2)]
    project, people, _ = start(desks[0], 12, people=8, need=2)

    def work(i):
        desk = desks[i % 2]
        for _ in range(40):
            if desk.projects.progress(project).answered == 24:
                return
            for leased in desk.lease(people[i], project, 1, now=0):
                desk.answer(people[i], leased.lease, first_of_task(leased), now=0)

    at_once(8, work)
    found = desks[1].store.feedback()
    assert set(Counter(f.task_id for f in found).values()) == {2}
    assert len({(f.task_id, f.rater.id) for f in found}) == 24
    assert desks[0].store.damage() == []
    for desk in desks:
        desk.store.close()


def test_a_task_that_another_server_holds_is_passed_over_not_waited_for(place):
    one, two = (Desk(Store.open(place)) for _ in range(2))
    project, (anna,), _ = start(one, 2)
    found = []
    thread = threading.Thread(target=lambda: found.extend(two.lease(anna, project, 2, now=0)), daemon=True)
    with one.store.write() as connection:
        connection.execute(sa.text("SELECT id FROM entry ORDER BY place LIMIT 1 FOR UPDATE")).one()
        thread.start()
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert len(found) == 1
    assert len(two.lease(anna, project, 2, now=1)) == 2


def test_two_servers_that_start_at_once_make_one_schema(place):
    stores = []
    at_once(4, lambda i: stores.append(Store.open(place)))
    assert all(store.events() == [] for store in stores)
    for store in stores:
        store.close()
