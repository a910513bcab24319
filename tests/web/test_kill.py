"""The server killed under load: what was acknowledged is there, once."""

import random
import threading
from collections import Counter

import httpx
import pytest

from clew.feedback.desk import Desk
from clew.feedback.store import Store
from clew.web.access import now_ms
from tests.web.conftest import HEADERS, Server

RATERS = 6
VERDICTS = ("first", "second", "tie")


class Load:
    """Raters who answer as fast as they can, send again what was not acknowledged, and remember what was."""

    def __init__(self, url, project, cookies):
        self.url, self.project = url, project
        self.acknowledged: dict[str, tuple[str, str]] = {}
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(c, n)) for n, c in enumerate(cookies)]

    def work(self, cookies, number):
        rng = random.Random(number)
        client = httpx.Client(base_url=f"{self.url}/api/v1", headers=HEADERS, cookies=cookies, timeout=5)
        while not self.stopping.is_set():
            try:
                reply = client.post(f"/projects/{self.project}/leases", json={"n": 3})
                for task in reply.json()["tasks"] if reply.status_code == 200 else []:
                    self.answer(client, task["lease"], rng.choice(VERDICTS))
            except httpx.TransportError:
                self.stopping.wait(0.05)

    def answer(self, client, lease, verdict):
        """The same body until the server says that it has it."""
        body = {"answer": {"kind": "comparison", "verdict": verdict, "margin": 0}}
        while not self.stopping.is_set():
            try:
                reply = client.post(f"/leases/{lease}/answer", json=body)
            except httpx.TransportError:
                self.stopping.wait(0.05)
                continue
            if reply.status_code in (200, 201):
                self.acknowledged[reply.json()["answer"]] = (lease, verdict)
            return


def killed_under_load(tmp_path, kills):
    file = tmp_path / "labels.sqlite"
    rows = "\n".join('{"prompt": "p%d", "chosen": "a", "rejected": "b"}' % i for i in range(4000))  # noqa: UP031
    (tmp_path / "pairs.jsonl").write_text(rows)
    server = Server(tmp_path, "labels.sqlite", "--tasks", "pairs.jsonl")
    owner = server.client()
    project = owner.get("/api/v1/projects").json()[0]["id"]
    links = [owner.post("/api/v1/people", json={"role": "annotator"}).json()["link"] for _ in range(RATERS)]
    cookies = [server.client(link.partition("#token=")[2]).cookies for link in links]
    port = int(server.url.rpartition(":")[2])
    load = Load(server.url, project, cookies)
    for thread in load.threads:
        thread.start()
    rng = random.Random(kills)
    for _ in range(kills):
        before = len(load.acknowledged)
        while len(load.acknowledged) < before + 10:
            load.stopping.wait(0.01)
        load.stopping.wait(rng.uniform(0, 0.1))
        server.process.kill()
        server.process.wait()
        server = Server(tmp_path, "labels.sqlite", port=port)
    load.stopping.set()
    for thread in load.threads:
        thread.join(20)
    server.stop()
    return file, load.acknowledged


def check(file, acknowledged):
    store = Store.open(file)
    kept = {record.id: record for record in store.feedback(history=True)}
    assert not set(acknowledged) - set(kept), "an acknowledged answer is lost"
    counts = Counter((record.task_id, record.rater.id) for record in kept.values())
    assert max(counts.values()) == 1, "an answer is doubled"
    assert store.damage() == []
    desk = Desk(store)
    (project,) = desk.projects.all()
    progress = desk.projects.progress(project.id)
    assert progress.votes == progress.answered == len(kept)
    assert desk.expire(now=now_ms() + project.config.lease_ms + 1) == progress.live
    store.close()


def test_five_kills_lose_and_double_nothing(tmp_path):
    file, acknowledged = killed_under_load(tmp_path, 5)
    assert len(acknowledged) >= 50
    check(file, acknowledged)


@pytest.mark.slow
def test_fifty_kills_lose_and_double_nothing(tmp_path):
    file, acknowledged = killed_under_load(tmp_path, 50)
    assert len(acknowledged) >= 500
    check(file, acknowledged)
