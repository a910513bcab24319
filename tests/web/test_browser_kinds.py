"""Every kind of task, done in a real browser by keyboard alone, at both sizes of screen."""

from pathlib import Path

import pytest

from clew.feedback.records import Item, Task
from clew.web.access import now_ms
from clew.web.media import keep
from tests.web.browsing import PHONE, WIDE, expect, lease, opened, press, project, saved, submitted
from tests.web.conftest import Office

NUM = 8
STEPS = ("First, l + w = 18.", "Then w = 6.", "So l = 14.", "The area is 84.")
TOWER = "The Tower 𝕏 was built in 1899.\nIt stands in Lyon."
"""Its 𝕏 is one code point and two of JavaScript's units."""

FORMS = {
    "comparison": {},
    "ranking": {},
    "rating": {},
    "thumb": {},
    "steps": {},
    "spans": {},
    "flaws": {},
    "demonstration": {"form": {"minimum_words": 3}},
    "prompt": {"form": {"topic": "cooking"}},
    "revision": {},
}
TEXTS = {
    "ranking": ("one {}", "two {}", "three {}", "four {}"),
    "steps": ("\n".join(STEPS) + " {}",),
    "spans": (TOWER + " {}",),
    "demonstration": (),
    "prompt": (),
}

CASES = {
    "comparison": [
        (["Tab", "s", "Shift+Digit2", "7"], {"verdict": "second", "margin": 2.0}),
        (["ArrowLeft"], {"verdict": "first", "margin": 2.0, "flaws": ((), ())}),
        (["Shift+Digit1", "1"], {"verdict": "first", "margin": 3.0, "flaws": (("false",), ())}),
        (["4"], {"verdict": "first", "margin": 0.0}),
        (["1", "t"], {"verdict": "tie"}),
        (["0"], {"verdict": "both_bad"}),
        (["9"], {"verdict": "unsure"}),
    ],
    "clips": [
        (["ArrowDown"], {"verdict": "tie"}),
        ([".", "ArrowUp"], {"verdict": "unsure"}),
        ([",", "ArrowRight"], {"verdict": "second", "margin": 2.0}),
    ],
    "ranking": [
        (["3", "1", "=", "4", "2"], {"groups": ((2, 0), (3,), (1,)), "not_rankable": ()}),
        (
            ["1", "2", "Backspace", "3", "4", "ArrowRight", "n"],
            {"groups": ((0,), (2,), (3,)), "not_rankable": (1,)},
        ),
    ],
    "rating": [
        (["6", "k", "7", "2", "5"], {"scales": {"helpfulness": 7.0, "honesty": 2.0, "harmlessness": 5.0}}),
    ],
    "thumb": [
        (["ArrowDown", "2", "1", "2"], {"up": False, "reasons": ("false",)}),
        (["y"], {"up": True, "reasons": ()}),
    ],
    "steps": [
        (["c", "x", "c", "z"], {"labels": (1, 0, 1, -1), "first_error": 3, "finish_reason": "found_error"}),
        (["c", "z"], {"labels": (1, -1), "first_error": 1, "finish_reason": "found_error"}),
        (["c", "c", "c", "c"], {"labels": (1, 1, 1, 1), "first_error": None, "finish_reason": "solution"}),
        (["c", "q"], {"labels": (1,), "first_error": None, "finish_reason": "give_up"}),
    ],
    "spans": [(["n"], {"spans": ()})],
    "flaws": [
        (
            ["y", "n", "j", "n", "0"],
            {"flaws": {"false": True, "harmful": False, "off_topic": False, "format": False, "refusal": False}},
        ),
    ],
}
"""Keys, and what they must have put into the record."""

WRITTEN = {
    "demonstration": "Boil it. <b>Slowly</b>\nThen wait.",
    "prompt": "How do I boil an egg?",
    "revision": "better ",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    people = [*CASES, *WRITTEN, "marker", "solver", "writer"]
    with opened(tmp_path_factory.mktemp("kinds"), _fill, people) as site:
        yield site


def _fill(office: Office) -> dict[str, str]:
    ids = {"clips": _clips(office)}
    for kind, config in FORMS.items():
        texts = TEXTS.get(kind, ("left {}",) if kind not in ("comparison", "ranking") else ("left {}", "right {}"))
        made = project(office, kind, kind=kind, need=50, **config)
        more = {"steps": STEPS} if kind == "steps" else {}
        office.fill(made, NUM, prompt="What about {}?", texts=texts, **more)
        ids[kind] = made.id
    return ids


def _clips(office: Office) -> str:
    made = project(office, "clips", kind="clips", need=50)
    for asked in ("Run left.", "Run right.", "Stand still.", "Jump."):
        files = [keep(Path(__file__).with_name(f"{side}.webm"), office.media) for side in ("left", "right")]
        items = [Item(prompt=asked, completion="", media=file) for file in files]
        task = Task(kind="clips", prompt=asked, items=tuple(item.id for item in items))
        office.desk.projects.put(made.id, [task], items=items, actor="test", now=now_ms())
    return made.id


@pytest.mark.parametrize("kind", CASES)
def test_tasks_are_answered_by_keys_alone(site, kind):
    page = site.worker(kind, kind)
    fits(page)
    before = lease(page)
    press(page, "Enter")
    assert lease(page) == before, "an untouched task is no answer"
    for keys, _ in CASES[kind]:
        submitted(page, *keys)
    saved(page)
    found = [record.answer.model_dump() for record in site.records(kind)]
    assert [{key: said[key] for key in expected} for said, (_, expected) in zip(found, CASES[kind], strict=True)] == [
        expected for _, expected in CASES[kind]
    ]
    page.context.close()


@pytest.mark.parametrize("kind", WRITTEN)
def test_texts_are_written_and_submitted_from_within_the_box(site, kind):
    page = site.worker(kind, kind)
    fits(page)
    page.keyboard.type(WRITTEN[kind])
    press(page, "Control+Enter")
    saved(page)
    (record,) = site.records(kind)
    assert WRITTEN[kind] in record.answer.text
    assert record.answer.kind == ("revision" if kind == "revision" else "demonstration")
    page.context.close()


def test_too_few_words_are_not_sent_and_outlive_a_reload(site):
    page = site.worker("writer", "demonstration")
    page.keyboard.type("Two words")
    press(page, "Control+Enter")
    assert page.text_content("#says") == "Write at least 3 words first."
    page.reload()
    page.wait_for_selector("[data-lease]")
    assert page.input_value("#writing") == "Two words"
    page.context.close()


def test_spans_are_marked_by_keys_in_code_points(site):
    page = site.worker("marker", "spans")
    press(page, *["Control+ArrowRight"] * 7, "Shift+ArrowLeft", "Shift+ArrowLeft", "1")
    assert page.text_content(".span-item q") == "99"
    press(page, "Home", "Control+Shift+ArrowRight", "Control+Shift+ArrowRight", "3")
    press(page, "End", "Control+Shift+ArrowLeft", "2", "Delete", "Enter")
    saved(page)
    (record,) = site.records("marker")
    marks = [(s.start, s.end, s.text, s.category) for s in record.answer.spans]
    assert marks == [(0, 9, "The Tower", "incomplete"), (27, 29, "99", "false")]
    page.context.close()


def test_a_wrong_step_may_be_written_anew(site):
    page = site.worker("solver", "steps")
    press(page, "c", "c", "z", "w")
    page.keyboard.type("So l = 2w = 12.")
    press(page, "Control+Enter")
    saved(page)
    (record,) = site.records("solver")
    assert (record.answer.labels, record.answer.own_step) == ((1, 1, -1), "So l = 2w = 12.")
    page.context.close()


def test_clips_play_together_and_slower(site):
    page = site.worker("solver", "clips")
    expect(page.locator("video").nth(1)).to_have_js_property("paused", False)
    assert page.evaluate("[...document.querySelectorAll('video')].map((v) => v.videoWidth)") == [32, 32]
    press(page, ",")
    assert page.evaluate("[...document.querySelectorAll('video')].map((v) => v.playbackRate)") == [0.5, 0.5]
    page.context.close()


def fits(page) -> None:
    """Nothing is cut off on either screen, and every control has a name."""
    for size in (PHONE, WIDE):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.scrollHeight") <= WIDE["height"], "the controls do not scroll away"


UNNAMED = """[...document.querySelectorAll("button, input, textarea, select, video, [tabindex='0']")]
  .filter((one) => one.checkVisibility() && !one.innerText?.trim() && !one.ariaLabel && !one.labels?.length && !one.title)
  .map((one) => one.outerHTML)"""
