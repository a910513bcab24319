"""A desk that is served for real, and a Chromium that people work at."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clew.feedback.people import Person
from clew.feedback.projects import ProjectConfig
from clew.feedback.records import Feedback
from clew.feedback.store import Store
from clew.web.access import now_ms
from tests.web.conftest import Office, Server

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("there is no chromium", allow_module_level=True)
expect = sync_api.expect
PATIENCE_MS = 20_000
"""How long a page may take on a busy machine; one that is ready is not waited for."""
expect.set_options(timeout=PATIENCE_MS)
OPTIONS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required""".split()
WIDE = {"width": 1280, "height": 720}
PHONE = {"width": 390, "height": 844}


class Site:
    """A running desk, a browser, and the store behind them."""

    def __init__(self, folder: Path, browser, *arguments: str, people: dict[str, tuple], projects: dict[str, str]):
        self.folder, self.browser, self.people, self.projects = folder, browser, people, projects
        self._arguments = ("desk.sqlite", "--media", "media", *arguments)
        self.server = Server(folder, *self._arguments)

    def open(self, person: str, project: str = "", *, size=WIDE):
        """A page of somebody who is logged in, in a browser of their own."""
        context = self.browser.new_context(viewport=size)
        context.set_default_timeout(PATIENCE_MS)
        context.add_cookies([{"name": "clew_session", "value": self.people[person][1], "url": self.server.url}])
        page = context.new_page()
        page.goto(f"{self.server.url}/#project={self.projects.get(project, '')}")
        return page

    def worker(self, person: str, project: str, **options):
        """A rater's page with a task on it."""
        page = self.open(person, project, **options)
        page.wait_for_selector("[data-lease]")
        return page

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        """The same desk again at the same address."""
        self.server = Server(self.folder, *self._arguments, port=int(self.server.url.rpartition(":")[2]))

    def records(self, person: str) -> list[Feedback]:
        """What is in the store of somebody's answers, every revision, oldest first."""
        store = Store.open(self.folder / "desk.sqlite")
        found = [record for record in store.feedback(history=True) if record.rater.id == self.people[person][0].id]
        store.close()
        return found


@contextmanager
def opened(
    folder: Path, fill: Callable[[Office], dict[str, str]], people: list[str], *arguments: str
) -> Iterator[Site]:
    """A site whose store `fill` fills; it gives the ids of its projects by name."""
    office = Office(folder)
    projects = fill(office)
    invited = {name: _with_session(office, name) for name in people}
    office.desk.store.close()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        site = Site(folder, browser, *arguments, people=invited, projects=projects)
        try:
            yield site
        finally:
            browser.close()
            if site.server.process.poll() is None:
                site.stop()


def _with_session(office: Office, name: str) -> tuple[Person, str]:
    """Somebody and the secret of their cookie: links are tried elsewhere, and only so many a minute."""
    person, _ = office.person(name=name)
    return person, office.desk.people.open_session(person.id, expires=now_ms() + 3_600_000)


def project(
    office: Office, name: str, num: int = 0, *, kind: str = "comparison", texts=("left {}", "right {}"), **config
):
    """A project in which nothing is drawn but the order of items."""
    options = {"gold_rate": 0.0, "repeat_rate": 0.0, "audit_share": 0.0, **config}
    made = office.desk.projects.add(name, ProjectConfig(kind=kind, **options), actor="test", now=now_ms())
    office.fill(made, num, texts=texts)
    return made


def press(page, *keys: str) -> None:
    """Keys, one after another, as a person's keyboard sends them."""
    for key in keys:
        page.keyboard.press(key)


def saved(page) -> None:
    """Waits until the server has everything."""
    expect(page.locator("#saved")).to_have_text("✓ Saved")


def lease(page) -> str:
    """Which task is on screen."""
    return page.get_attribute("#task", "data-lease")


def on_screen(page, expected) -> None:
    """Waits until this task, or one whose lease fits the pattern, is on screen."""
    expect(page.locator("#task")).to_have_attribute("data-lease", expected)


def replaced(page, before: str) -> None:
    """Waits until another task is on screen."""
    expect(page.locator("#task")).not_to_have_attribute("data-lease", before)


def submitted(page, *keys: str) -> None:
    """Answers the task on screen and waits for the next, or for the end of them."""
    before = lease(page)
    press(page, *keys, "Enter")
    replaced(page, before)
    page.wait_for_selector("[data-lease], .nothing")
