"""Every kind of task, done in a real browser by keyboard alone, at both sizes of screen."""

import pytest

from tests.web.browsing import PHONE, WIDE, opened, press, project, saved
from tests.web.conftest import Office

NUM = 3
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

CASES = [
    ("comparison", ["Tab", "s", "Shift+Digit2", "7"], {"verdict": "second", "margin": 2.0}),
    ("comparison", ["ArrowLeft"], {"verdict": "first", "margin": 2.0, "flaws": ((), ())}),
    ("comparison", ["Shift+Digit1", "1"], {"verdict": "first", "margin": 3.0, "flaws": (("false",), ())}),
    ("comparison", ["4"], {"verdict": "first", "margin": 0.0}),
    ("comparison", ["1", "t"], {"verdict": "tie"}),
    ("comparison", ["0"], {"verdict": "both_bad"}),
    ("comparison", ["9"], {"verdict": "unsure"}),
    ("ranking", ["3", "1", "=", "4", "2"], {"groups": ((2, 0), (3,), (1,)), "not_rankable": ()}),
    (
        "ranking",
        ["1", "2", "Backspace", "3", "4", "ArrowRight", "n"],
        {"groups": ((0,), (2,), (3,)), "not_rankable": (1,)},
    ),
    ("rating", ["6", "k", "7", "2", "5"], {"scales": {"helpfulness": 7.0, "honesty": 2.0, "harmlessness": 5.0}}),
    ("thumb", ["ArrowDown", "2", "1", "2"], {"up": False, "reasons": ("false",)}),
    ("thumb", ["y"], {"up": True, "reasons": ()}),
    ("steps", ["c", "x", "c", "z"], {"labels": (1, 0, 1, -1), "first_error": 3, "finish_reason": "found_error"}),
    ("steps", ["c", "z"], {"labels": (1, -1), "first_error": 1, "finish_reason": "found_error"}),
    ("steps", ["c", "c", "c", "c"], {"labels": (1, 1, 1, 1), "first_error": None, "finish_reason": "solution"}),
    ("steps", ["c", "q"], {"labels": (1,), "first_error": None, "finish_reason": "give_up"}),
    ("spans", ["n"], {"spans": ()}),
    (
        "flaws",
        ["y", "n", "j", "n", "0"],
        {"flaws": {"false": True, "harmful": False, "off_topic": False, "format": False, "refusal": False}},
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    people = [f"{kind}-{place}" for place, (kind, _, _) in enumerate(CASES)] + [
        *FORMS,
        *(f"fit-{kind}" for kind in FORMS),
        "spans-of-words",
        "step-of-own",
    ]
    with opened(tmp_path_factory.mktemp("kinds"), _fill, people) as site:
        yield site


def _fill(office: Office) -> dict[str, str]:
    ids = {}
    for kind, config in FORMS.items():
        texts = TEXTS.get(kind, ("left {}",) if kind not in ("comparison", "ranking") else ("left {}", "right {}"))
        made = project(office, kind, kind=kind, need=50, **config)
        more = {"steps": STEPS} if kind == "steps" else {}
        office.fill(made, NUM, prompt="What about {}?", texts=texts, **more)
        ids[kind] = made.id
    return ids


@pytest.mark.parametrize(
    ("place", "case"), enumerate(CASES), ids=[f"{kind}-{place}" for place, (kind, _, _) in enumerate(CASES)]
)
def test_a_task_is_answered_by_keys_alone(site, place, case):
    kind, keys, expected = case
    page = site.worker(f"{kind}-{place}", kind)
    before = page.get_attribute("#task", "data-lease")
    press(page, "Enter")
    assert page.get_attribute("#task", "data-lease") == before, "an untouched task is no answer"
    press(page, *keys, "Enter")
    assert page.get_attribute("#task", "data-lease") != before
    saved(page)
    (record,) = site.records(f"{kind}-{place}")
    assert expected.items() <= record.answer.model_dump().items()
    page.context.close()


def test_spans_are_marked_by_keys_in_code_points(site):
    page = site.worker("spans-of-words", "spans")
    press(page, *["Control+ArrowRight"] * 7, "Shift+ArrowLeft", "Shift+ArrowLeft", "1")
    assert page.text_content(".span-item q") == "99"
    press(
        page,
        "Home",
        "Control+Shift+ArrowRight",
        "Control+Shift+ArrowRight",
        "3",
        "End",
        "Control+Shift+ArrowLeft",
        "2",
        "Delete",
        "Enter",
    )
    saved(page)
    (record,) = site.records("spans-of-words")
    marks = [(s.start, s.end, s.text, s.category) for s in record.answer.spans]
    assert marks == [(0, 9, "The Tower", "incomplete"), (27, 29, "99", "false")]
    page.context.close()


def test_a_wrong_step_may_be_written_anew(site):
    page = site.worker("step-of-own", "steps")
    press(page, "c", "c", "z", "w")
    page.keyboard.type("So l = 2w = 12.")
    press(page, "Control+Enter")
    saved(page)
    (record,) = site.records("step-of-own")
    assert (record.answer.labels, record.answer.own_step) == ((1, 1, -1), "So l = 2w = 12.")
    page.context.close()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("demonstration", "Boil it. <b>Slowly</b>\nThen wait."),
        ("prompt", "How do I boil an egg?"),
        ("revision", "better "),
    ],
)
def test_texts_are_written_and_submitted_from_within_the_box(site, kind, text):
    page = site.worker(kind, kind)
    page.keyboard.type(text)
    press(page, "Control+Enter")
    saved(page)
    (record,) = site.records(kind)
    written = record.answer.text
    assert text in written
    assert record.answer.kind == ("revision" if kind == "revision" else "demonstration")
    page.context.close()


def test_too_few_words_are_not_sent(site):
    page = site.worker("comparison", "demonstration")
    page.keyboard.type("Two words")
    press(page, "Control+Enter")
    assert page.text_content("#says") == "Write at least 3 words first."
    page.reload()
    page.wait_for_selector("[data-lease]")
    assert page.input_value("#writing") == "Two words", "what was written outlives a reload"
    page.context.close()


@pytest.mark.parametrize("kind", FORMS)
def test_a_kind_fits_on_both_screens_and_names_its_controls(site, kind):
    page = site.worker(f"fit-{kind}", kind)
    for size in (PHONE, WIDE):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.scrollHeight") <= WIDE["height"], "the controls do not scroll away"
    page.context.close()


UNNAMED = """[...document.querySelectorAll("button, input, textarea, select, video, [tabindex='0']")]
  .filter((one) => one.checkVisibility() && !one.innerText?.trim() && !one.ariaLabel && !one.labels?.length && !one.title)
  .map((one) => one.outerHTML)"""
