"""A desk in this process, with a project and people of every role."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from clew.feedback.desk import Desk
from clew.feedback.projects import ProjectConfig
from clew.feedback.records import Item, Task
from clew.feedback.store import Store
from clew.web.access import now_ms
from clew.web.app import create_app
from clew.web.gate import Place
from clew.web.limits import Limits

HEADERS = {"X-Clew": "1", "Content-Type": "application/json"}
PLACE = Place("http://desk.test", frozenset({"desk.test"}))
FREE = Limits(address_rate=1e6, address_burst=1e6, person_rate=1e6, person_burst=1e6, login_rate=1e6, login_burst=1e6)
"""So that only the tests of rates meet them."""


class Browser:
    """Talks to the application of a desk as a page does, with its cookies, without a network."""

    def __init__(self, app, *, url="http://desk.test", address="203.0.113.7"):
        self._app, self._url, self._address = app, url, address
        self.cookies = httpx.Cookies()

    def send(self, method, path, *, headers=None, **options):
        async def call():
            transport = httpx.ASGITransport(self._app, client=(self._address, 1), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=self._url, cookies=self.cookies) as client:
                reply = await client.request(method, path, headers={**HEADERS, **(headers or {})}, **options)
                self.cookies = client.cookies
                return reply

        return asyncio.run(call())

    def get(self, path, **options):
        return self.send("GET", f"/api/v1{path}", **options)

    def post(self, path, json=None, **options):
        return self.send("POST", f"/api/v1{path}", json={} if json is None else json, **options)

    def lease(self, project, n=1):
        return self.post(f"/projects/{project}/leases", {"n": n}).json()["tasks"]


class Office:
    """A desk and what tests do with it."""

    def __init__(self, folder: Path, *, limits=FREE, reply=None, place=PLACE):
        self.folder = folder
        self.desk = Desk(Store.open(folder / "desk.sqlite"))
        self.media = folder / "media"
        self.app = create_app(self.desk, place, limits=limits, reply=reply, media_folder=self.media)
        self.place = place

    def project(self, kind="comparison", num=5, *, texts=("left {}", "right {}"), **config):
        """Of its kind, with so many tasks; nothing is drawn but the order of items."""
        config = ProjectConfig(kind=kind, **{"gold_rate": 0.0, "repeat_rate": 0.0, "audit_share": 0.0, **config})
        project = self.desk.projects.add(kind, config, actor="test", now=now_ms())
        self.fill(project, num, texts=texts)
        return project

    def fill(
        self, project, num=5, *, prompt="prompt {}", texts=("left {}", "right {}"), gold=None, training=False, **item
    ):
        for i in range(num):
            asked = prompt.format(i)
            items = [Item(prompt=asked, completion=t.format(i), source="gpt-secret", **item) for t in texts]
            task = Task(kind=project.config.kind, prompt=asked, items=tuple(each.id for each in items))
            known = {task.id: gold} if gold else {}
            self.desk.projects.put(
                project.id, [task], items=items, gold=known, training=training, actor="test", now=now_ms()
            )

    def person(self, role="annotator", **options):
        return self.desk.people.add(role, name=options.pop("name", role), actor="test", now=now_ms(), **options)

    def browser(self, role="annotator", **options):
        """Of a new person who is logged in."""
        browser = Browser(self.app, url=self.place.url)
        browser.person, token = self.person(role, **options)
        assert browser.post("/session", {"token": token}).status_code == 204
        return browser

    def stranger(self, **options):
        return Browser(self.app, url=self.place.url, **options)


@pytest.fixture
def office(tmp_path):
    office = Office(tmp_path)
    yield office
    office.desk.store.close()


class Server:
    """`clew desk` as a process of its own."""

    def __init__(self, folder: Path, *arguments: str, port: int = 0):
        command = [sys.executable, "-m", "clew", "desk", *arguments, "--port", str(port)]
        self.errors = (folder / "errors.txt").open("ab")
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.lines: list[str] = []
        while not any("#token=" in line for line in self.lines):
            line = self.process.stdout.readline()
            assert line, (folder / "errors.txt").read_text()
            self.lines.append(line)
        self.link = next(line.strip() for line in self.lines if "#token=" in line)
        self.url, _, self.token = self.link.partition("/#token=")
        self.wait()

    def wait(self):
        for _ in range(500):
            try:
                return httpx.get(f"{self.url}/healthz")
            except httpx.TransportError:
                time.sleep(0.02)
        raise TimeoutError(self.url)

    def client(self, token=None):
        client = httpx.Client(base_url=self.url, headers=HEADERS)
        client.post("/api/v1/session", json={"token": token or self.token}).raise_for_status()
        return client

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.errors.close()


@pytest.fixture
def serve(tmp_path):
    started: list[Server] = []

    def start(*arguments, **options):
        started.append(Server(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(20)
