"""Hostile texts on every page where texts of others are shown: nothing runs, nothing is loaded, nothing is spoofed."""

import httpx
import pytest

from clew.feedback.records import Item, Task
from clew.web.access import now_ms
from tests.web.browsing import lease, opened, press, project, submitted
from tests.web.conftest import HEADERS, Office
from tests.web.hostile import PAYLOADS

SIZE = 8
"""Payloads a task: one each in its answers."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("hostile"), _fill, ["reader", "writer"]) as site:
        yield site


def _fill(office: Office) -> dict[str, str]:
    ids = {}
    for kind in ("ranking", "comparison"):
        made = project(office, f"{kind} {PAYLOADS[6]}", kind=kind, guidelines="\n\n".join(PAYLOADS[:70]), need=9)
        ids[kind] = made.id
        size = SIZE if kind == "ranking" else 2
        for start in range(0, len(PAYLOADS), SIZE):
            prompt = "\n\n".join(PAYLOADS[start : start + 3])
            items = [Item(prompt=prompt, completion=text) for text in PAYLOADS[start : start + size]]
            task = Task(kind=kind, prompt=prompt, items=tuple(item.id for item in items))
            office.desk.projects.put(made.id, [task], items=items, actor="test", now=now_ms())
    for name in PAYLOADS[:12]:
        office.person(name=name, group=name)
    return ids


def watched(page) -> list[str]:
    """What goes wrong on a page from now on: dialogs, errors, requests to strangers."""
    wrong: list[str] = []
    page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: wrong.append(f"error {error}"))
    page.on("request", lambda request: "evil.test" in request.url and wrong.append(f"request {request.url}"))
    page.on("console", lambda line: line.type == "error" and wrong.append(f"console {line.text}"))
    page.add_init_script(LISTEN)
    return wrong


def test_there_are_enough_payloads_and_each_is_another():
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 60


def test_nothing_of_a_hostile_task_acts_on_the_labelling_page(site):
    page = site.open("reader", "ranking")
    wrong = watched(page)
    page.reload()
    page.wait_for_selector("[data-lease]")
    seen = set()
    for _ in range(-(-len(PAYLOADS) // SIZE)):
        for key in ("r", "r", "i", "i"):
            press(page, key)
            assert page.evaluate(AUDIT) == []
        num = page.locator(".panel").count()
        seen.add(lease(page))
        submitted(page, *map(str, range(1, num + 1)))
    press(page, "g")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate(AUDIT) == []
    assert len(seen) == -(-len(PAYLOADS) // SIZE)
    assert wrong == []
    page.context.close()


def test_nothing_that_raters_wrote_acts_on_the_operators_pages(site):
    _answer_with_hostile_notes(site)
    page = site.browser.new_page()
    wrong = watched(page)
    page.goto(site.server.link)
    page.wait_for_selector("[data-page=overview]")
    page.select_option("#projects", site.projects["comparison"])
    for name in (
        "overview",
        "agreement",
        "raters",
        "bias",
        "coverage",
        "exports",
        "people",
        "project",
        "log",
        "review",
    ):
        page.goto(f"{site.server.url}/operator.html#{name}")
        page.wait_for_selector(f"[data-page={name}]")
        assert page.evaluate(AUDIT) == [], name
    for place in range(page.locator("tbody tr").count()):
        page.locator("tbody tr").nth(place).get_by_role("button").click()
        page.wait_for_selector("dialog[open]")
        assert page.evaluate(AUDIT) == []
        press(page, "Escape")
    assert page.evaluate("window.pwned") is None
    assert wrong == []
    page.context.close()


def _answer_with_hostile_notes(site) -> None:
    """A rater whose notes are attacks, through the API."""
    cookies = {"clew_session": site.people["writer"][1]}
    with httpx.Client(base_url=f"{site.server.url}/api/v1", headers=HEADERS, cookies=cookies) as client:
        for note in PAYLOADS:
            reply = client.post(f"/projects/{site.projects['comparison']}/leases", json={"n": 1})
            if reply.status_code == 204:
                return
            lease = reply.json()["tasks"][0]["lease"]
            said = {"answer": {"kind": "comparison", "verdict": "first", "margin": 1}, "note": f"flag {note}"}
            client.post(f"/leases/{lease}/answer", json=said).raise_for_status()


LISTEN = """
addEventListener("securitypolicyviolation", (event) => console.error("CSP", event.violatedDirective, event.blockedURI));
"""

AUDIT = """() => {
  const wrong = window.pwned ? ["it ran"] : [];
  for (const one of document.querySelectorAll("*")) {
    const isOurs = one.closest("svg.plot");
    if ("IFRAME OBJECT EMBED BASE FORM IMG MATH STYLE TEMPLATE MARQUEE AUDIO".includes(one.tagName.toUpperCase()) && one.tagName.length > 2)
      wrong.push(one.outerHTML);
    if (one.tagName === "svg" && !isOurs) wrong.push(one.outerHTML);
    if (one.tagName === "SCRIPT" && !/^(desk|operator)\\.js$/.test(one.getAttribute("src"))) wrong.push(one.outerHTML);
    for (const { name, value } of one.attributes) {
      if (name.startsWith("on") || (name === "style" && one.closest(".passage"))) wrong.push(`${one.tagName} ${name}`);
      if (/^(href|src|action|formaction|xlink:href)$/.test(name) && /^\\s*(javascript|data|vbscript):/i.test(value)) wrong.push(value);
    }
  }
  for (const id of ["task", "saved", "banner", "page"])
    if (document.querySelectorAll(`#${id}`).length > 1) wrong.push(`two of #${id}`);
  for (const one of document.querySelectorAll(".passage, .name, .excerpt"))
    if (!one.classList.contains("raw") && !one.matches("bdi, .excerpt") && /[\\u202a-\\u202e\\u2066-\\u2069]/.test(one.textContent))
      wrong.push("unmarked direction");
  if (document.documentElement.scrollWidth > innerWidth) wrong.push(`page is ${document.documentElement.scrollWidth} wide`);
  return wrong;
}"""
"""What is on the page that should not be: active elements, handlers, links that run, clobbered ids, spoofed text."""
