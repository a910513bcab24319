"""Makes the pictures of docs/desk.md: a desk with simulated raters, looked at in Chromium.

`python -m tools.desk_screenshots [FOLDER]` writes docs/images/desk-*.png, or into FOLDER every page at both sizes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, ViewportSize, sync_playwright

from clew.data import grammar
from clew.feedback.answers import Submission
from clew.feedback.desk import Desk, Leased
from clew.feedback.projects import ProjectConfig
from clew.feedback.records import Comparison, Item, Task
from clew.feedback.store import Store
from clew.web import fill

WIDE: ViewportSize = {"width": 1280, "height": 720}
PHONE: ViewportSize = {"width": 390, "height": 844}
HOUR_MS = 3_600_000
PAGES = ("overview", "agreement", "raters", "bias", "coverage", "review", "exports", "people", "project", "log")
IMAGES = Path(__file__).parent.parent / "docs" / "images"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "labels.sqlite"
        ids, tokens = filled(store)
        with served(store) as link, sync_playwright() as playwright:
            chromium = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            url = link.partition("/#")[0]
            operator = browser.new_page(viewport=WIDE)
            operator.goto(link)
            operator.wait_for_selector("[data-page=overview]")
            operator.select_option("#projects", ids["guest book"])
            raters: dict[str, Page] = {}
            for kind, token in tokens.items():
                raters[kind] = browser.new_page(viewport=WIDE)
                raters[kind].goto(f"{url}/#token={token}&project={ids[kind]}")
                raters[kind].wait_for_selector("[data-lease]")
            for name, page in every_page(raters, operator, url) if folder else of_the_manual(raters, operator, url):
                page.screenshot(path=(folder or IMAGES) / f"desk-{name}.png", animations="disabled")


def of_the_manual(raters: Mapping[str, Page], operator: Page, url: str) -> Iterator[tuple[str, Page]]:
    """Names and pages at the moment to take them."""
    rater = raters["comparison"]
    press(rater, "Shift+Digit3", "2")
    yield "comparison", rater
    press(rater, "?")
    yield "keys", rater
    press(rater, "Escape")
    rater.set_viewport_size(PHONE)
    yield "phone", rater
    press(raters["steps"], "c", "c", "z")
    yield "steps", raters["steps"]
    press(raters["spans"], *["Control+ArrowRight"] * 6, "Control+Shift+ArrowRight", "1")
    yield "spans", raters["spans"]
    for name in ("overview", "raters", "agreement"):
        tab(operator, url, name)
        yield name, operator


def every_page(raters: Mapping[str, Page], operator: Page, url: str) -> Iterator[tuple[str, Page]]:
    for size, suffix in ((WIDE, "wide"), (PHONE, "phone")):
        for kind, rater in raters.items():
            rater.set_viewport_size(size)
            yield f"{kind}-{suffix}", rater
        operator.set_viewport_size(size)
        for name in PAGES:
            tab(operator, url, name)
            yield f"{name}-{suffix}", operator


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab(page: Page, url: str, name: str) -> None:
    page.goto(f"{url}/operator.html#{name}")
    page.wait_for_selector(f"[data-page={name}]")


@contextmanager
def served(store: Path) -> Iterator[str]:
    """`clew desk` on a store; gives the operator's link."""
    command = [sys.executable, "-m", "clew", "desk", str(store), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield next(line.strip() for line in process.stdout if "#token=" in line)
        process.terminate()


def filled(store: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Projects of several kinds, one of them with simulated answers; and for each kind a rater's token."""
    desk = Desk(Store.open(store))
    now = time.time_ns() // 1_000_000
    ids: dict[str, str] = {}
    tokens: dict[str, str] = {}
    for (kind, (prompt, answers, more)), rater in zip(SAMPLES.items(), RATERS, strict=True):
        config = ProjectConfig(kind=kind, guidelines=GUIDELINES, daily_goal=40, gold_rate=0, **more)  # pyright: ignore[reportArgumentType]
        project = desk.projects.add(f"Helpful answers, {kind}", config, actor="tools", now=now)
        steps = STEPS if kind == "steps" else ()
        items = [Item(prompt=prompt, completion=answer, steps=steps) for answer in answers]
        asked = Task(kind=kind, prompt=prompt, items=tuple(item.id for item in items))  # pyright: ignore[reportArgumentType]
        desk.projects.put(project.id, [asked], items=items, actor="tools", now=now)
        ids[kind] = project.id
        tokens[kind] = desk.people.add("annotator", name=rater, actor="tools", now=now)[1]
    ids["guest book"] = labelled(desk, now)
    desk.store.close()
    return ids, tokens


def labelled(desk: Desk, now: int) -> str:
    """The quickstart's pairs, judged by six people over thirty hours: four careful, one of the left, one lazy."""
    rng = np.random.default_rng(7)
    config = ProjectConfig(
        kind="comparison",
        guidelines=fill.DEMO_GUIDELINES,
        need=3,
        gold_rate=0,
        hourly_cost=18.0,
        population={"north": 0.5, "south": 0.5},
    )
    project = desk.projects.add("guest book", config, actor="tools", now=now)
    for row in grammar.prompts(num=90, seed=0):
        texts = [grammar.answer(row["place"], rng, mood=rng.uniform(-1, 1), stray=0.25) for _ in range(2)]
        items = [Item(prompt=row["prompt"], completion=text) for text in dict.fromkeys(texts)]
        if len(items) == 2:
            asked = Task(kind="comparison", prompt=row["prompt"], items=tuple(item.id for item in items))
            desk.projects.put(project.id, [asked], items=items, actor="tools", now=now)
    people = [desk.people.add("annotator", name=name, group=group, actor="tools", now=now)[0] for name, group in PEOPLE]
    for step in range(200):
        place = int(rng.choice(len(people), p=[0.22, 0.2, 0.17, 0.15, 0.16, 0.1]))
        at = now - 30 * HOUR_MS + int(step / 200 * 30 * HOUR_MS)
        for leased in desk.lease(people[place].id, project.id, 1, now=at):
            answer = HABITS[place](leased, rng)
            ms = int(rng.gamma(4, 900 if place == 4 else 5500))
            desk.answer(people[place].id, leased.lease, Submission(answer=answer, client_ms=ms, note=""), now=at + ms)
    return project.id


def careful(leased: Leased, rng: np.random.Generator) -> Comparison:
    first, second = grammar.gold([str(leased.prompt)] * 2, [item.completion for item in leased.items])
    gap = first - second + rng.normal(0, 0.6)
    margin = int(np.searchsorted([0.4, 1.0, 2.0], abs(gap)))
    return Comparison(verdict="first" if gap > 0 else "second", margin=margin)


def takes_the_left(leased: Leased, rng: np.random.Generator) -> Comparison:
    return Comparison(verdict="first" if rng.random() < 0.93 else "second", margin=2)


def lazy(leased: Leased, rng: np.random.Generator) -> Comparison:
    return careful(leased, rng) if rng.random() < 0.5 else Comparison(verdict="first" if rng.random() < 0.5 else "tie")


HABITS: list[Callable[[Leased, np.random.Generator], Comparison]] = [
    careful,
    careful,
    careful,
    careful,
    takes_the_left,
    lazy,
]
PEOPLE = [
    ("Anna", "north"),
    ("Marek", "south"),
    ("Ines", "north"),
    ("Tomo", "north"),
    ("Lev", "north"),
    ("Ada", "south"),
]
RATERS = "Noor Emil Sofia Pavel Lucía Jonas Amara Hiro Greta Samir".split()
GUIDELINES = """Choose the answer that **helps more** with what was asked.

- What is true comes before how it is said.
- Length is no merit.
- If an answer could hurt somebody, mark it as *harmful*, however good it is otherwise.
"""
QUESTION = "How do I reverse a list in place in Python? Please say what it returns, too."
LONG = """You can reverse a list **in place** with its method `reverse()`:

```python
numbers = [3, 1, 2]
numbers.reverse()
print(numbers)  # [2, 1, 3]
```

It returns `None`, because it changes the list itself. For a new list use a slice: `numbers[::-1]`.

- `reverse()` takes O(n) time and O(1) memory
- the slice copies, so it takes O(n) memory
"""
SHORT = "Use `sorted(numbers, reverse=True)`. This reverses the list and is the most Pythonic way."
BRIEF = "Call `numbers.reverse()`. It works in place and returns nothing."
WRONG = "Lists cannot be reversed in place; copy it with `numbers[::-1]`."
STEPS = (
    "The perimeter is 2(l + w) = 36, so l + w = 18.",
    "The length is twice the width: l = 2w, so 3w = 18 and w = 6.",
    "Then l = 2w = 14.",
    "The area is l · w = 14 · 6 = 84.",
)
TOWER = (
    "The Eiffel Tower was finished in 1899 and is about 330 metres tall. It was built by the company of "
    "Gustave Eiffel, and it stands in Lyon. Paris is also famous for its bakeries."
)
SAMPLES = {
    "comparison": (QUESTION, [LONG, SHORT], {}),
    "ranking": (QUESTION, [LONG, SHORT, BRIEF, WRONG], {}),
    "rating": (QUESTION, [LONG], {}),
    "thumb": (QUESTION, [BRIEF], {}),
    "flaws": (QUESTION, [WRONG], {}),
    "steps": ("A rectangle is twice as long as wide, its perimeter is 36. What is its area?", ["\n".join(STEPS)], {}),
    "spans": ("Tell me about the Eiffel Tower.", [TOWER], {}),
    "demonstration": (QUESTION, [], {"form": {"minimum_words": 20}}),
    "prompt": ("", [], {"form": {"topic": "cooking for many"}}),
    "revision": (QUESTION, [SHORT], {}),
}

if __name__ == "__main__":
    main()
