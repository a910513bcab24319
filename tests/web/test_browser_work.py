"""Work at the desk in a real browser: undo, the queue, keys, training, speed."""

import re
import statistics

import pytest

from clew.feedback.projects import Gold
from clew.feedback.records import Comparison
from tests.web.browsing import lease, on_screen, opened, press, project, replaced, saved
from tests.web.conftest import Office

PEOPLE = """undo undo-chain double offline closed lost keys typing training skip fast other views""".split()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("work"), _fill, PEOPLE) as site:
        yield site


def _fill(office: Office) -> dict[str, str]:
    many = project(office, "many", 60, need=50, texts=("left {} ![](http://evil.test/x.png)", "right {}"))
    taught = project(office, "taught", training=1)
    known = Gold(Comparison(verdict="first", margin=2), "The left one is **right**.")
    office.fill(taught, 1, prompt="lesson {}", gold=known, training=True)
    office.fill(taught, 2, prompt="work {}")
    return {"many": many.id, "taught": taught.id}


def test_undo_opens_the_last_answer_and_the_next_one_counts(site):
    page = site.worker("undo", "many")
    first = lease(page)
    press(page, "2", "Enter", "u")
    on_screen(page, re.compile(r"\.1$"))
    assert lease(page) == f"{first}.1"
    assert page.get_attribute(".degree-first.margin-2", "aria-pressed") == "true", "as it was answered"
    press(page, "8", "Enter")
    saved(page)
    assert [(r.revision, r.answer.verdict, r.answer.margin) for r in site.records("undo")] == [
        (0, "first", 2),
        (1, "second", 3),
    ]
    page.context.close()


def test_undo_goes_back_several_answers_and_survives_a_reload(site):
    page = site.worker("undo-chain", "many")
    first = lease(page)
    press(page, "1", "Enter", "2", "Enter")
    saved(page)
    page.reload()
    page.wait_for_selector("[data-lease]")
    press(page, "u")
    on_screen(page, re.compile(r"\.1$"))
    assert lease(page) != f"{first}.1"
    press(page, "u")
    on_screen(page, f"{first}.1")
    page.context.close()


def test_enter_twice_or_held_is_one_answer(site):
    page = site.worker("double", "many")
    press(page, "3", "Enter", "Enter")
    page.keyboard.down("Enter")
    page.keyboard.press("5")
    page.keyboard.down("Enter")  # the browser marks it as a repeat
    page.keyboard.up("Enter")
    saved(page)
    assert [r.answer.margin for r in site.records("double")] == [1.0]
    page.context.close()


def test_answers_given_while_the_server_is_away_are_kept_and_sent_once(site):
    page = site.worker("offline", "many")
    press(page, "1", "Enter")
    saved(page)
    page.wait_for_load_state("networkidle")
    site.stop()
    press(page, "2", "Enter", "3", "Enter", "4", "Enter")
    page.wait_for_selector("#banner:not([hidden])")
    assert page.text_content("#banner").startswith("3 unsaved")
    site.start()
    saved(page)
    assert not page.is_visible("#banner")
    page.wait_for_selector("[data-lease]")
    press(page, "5", "Enter")
    saved(page)
    records = site.records("offline")
    assert [r.answer.margin for r in records] == [3.0, 2.0, 1.0, 0.0, 0.0]
    assert len({r.task_id for r in records}) == 5
    page.context.close()


def test_a_page_closed_with_unsent_answers_sends_them_when_it_is_opened_again(site):
    page = site.worker("closed", "many")
    page.wait_for_load_state("networkidle")
    site.stop()
    press(page, "1", "Enter", "2", "Enter")
    page.wait_for_selector("#banner:not([hidden])")
    context = page.context
    page.close()
    site.start()
    again = context.new_page()
    again.goto(f"{site.server.url}/#project={site.projects['many']}")
    again.wait_for_selector("[data-lease]")
    saved(again)
    assert [r.answer.margin for r in site.records("closed")] == [3.0, 2.0]
    context.close()


def test_an_answer_whose_acknowledgement_was_lost_is_not_doubled(site):
    page = site.worker("lost", "many")
    lost = []

    def lose_the_first(route):
        if not lost:
            lost.append(route.fetch().status)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/answer", lose_the_first)
    with page.expect_response(lambda response: response.url.endswith("/answer")):
        press(page, "1", "Enter")
    saved(page)
    assert lost == [201]
    assert len(site.records("lost")) == 1
    page.context.close()


def test_the_overlay_lists_the_keys_and_changes_them(site):
    page = site.worker("keys", "many")
    press(page, "?")
    rows = page.locator(".keys tr").all_inner_texts()
    assert any("Undo" in row and "U" in row for row in rows)
    assert any("Equally good" in row for row in rows)
    page.locator(".keys tr", has_text="Equally good").locator("button").press("Enter")
    press(page, "u")
    assert page.text_content("dialog [role=status]").startswith("That key already means: Undo")
    page.locator(".keys tr", has_text="Equally good").locator("button").press("Enter")
    press(page, "x", "Escape")
    page.reload()
    page.wait_for_selector("[data-lease]")
    press(page, "t", "Enter")
    assert page.text_content("#says") == "Choose which answer is better first."
    press(page, "x", "Enter")
    saved(page)
    assert [r.answer.verdict for r in site.records("keys")] == ["tie"]
    page.context.close()


def test_keys_do_nothing_while_writing_or_with_modifiers(site):
    page = site.worker("typing", "many")
    before = lease(page)
    press(page, "Alt+1", "Control+2", "Meta+3", "/")
    page.keyboard.type("1 u 2 g ? because")
    assert page.locator("[aria-pressed=true]").count() == 0
    assert page.locator("dialog").count() == 0
    press(page, "Escape", "6", "Enter")
    saved(page)
    (record,) = site.records("typing")
    assert (record.note, record.answer.margin, lease(page) != before) == ("1 u 2 g ? because", 1.0, True)
    page.context.close()


def test_training_explains_before_real_work(site):
    page = site.worker("training", "taught")
    assert page.text_content(".badge") == "Training"
    press(page, "9", "Enter")
    page.wait_for_selector("dialog[open]")
    assert page.text_content("dialog h2") == "✗ We see it differently"
    assert page.inner_html("dialog .passage").strip() == "<p>The left one is <strong>right</strong>.</p>"
    press(page, "Enter")
    page.wait_for_selector("[data-lease]")
    assert page.locator(".badge").count() == 0
    press(page, "1", "Enter")
    saved(page)
    assert [r.answer.margin for r in site.records("training")] == [3.0], "lessons are not feedback"
    page.context.close()


def test_a_task_is_skipped_with_a_reason_and_flagged_in_a_note(site):
    page = site.worker("skip", "many")
    first = lease(page)
    press(page, " ", "2")
    replaced(page, first)
    press(page, "f", "1", "0", "Enter")
    saved(page)
    (record,) = site.records("skip")
    assert (record.answer.verdict, record.note) == ("both_bad", "flag identity:")
    page.context.close()


def test_text_is_shown_rendered_raw_and_with_invisibles_and_lengths_only_on_demand(site):
    page = site.worker("views", "many")
    assert page.locator(".passage a").first.get_attribute("rel") == "noopener noreferrer nofollow ugc"
    assert not page.locator(".words").first.is_visible()
    press(page, "l", "r")
    assert page.locator(".words").first.is_visible()
    assert "![](http://evil.test/x.png)" in page.text_content(".panels")
    press(page, "r", "p")
    assert page.get_attribute(".prompt", "open") is None
    press(page, "g")
    assert page.text_content("dialog h2") == "Guidelines"
    page.context.close()


def test_the_next_task_is_on_screen_within_50_ms_of_the_key(site):
    page = site.worker("fast", "many")
    page.evaluate(WATCH)
    for _ in range(20):
        page.wait_for_timeout(60)
        press(page, "2", "Enter")
    page.wait_for_timeout(100)
    delays = page.evaluate("window.delays")
    assert len(delays) == 20
    assert statistics.median(delays) < 50, delays
    page.context.close()


WATCH = """() => {
  window.delays = [];
  const task = document.getElementById("task");
  let pressed = 0;
  addEventListener("keydown", (event) => { if (event.key === "Enter") pressed = event.timeStamp; }, { capture: true });
  new MutationObserver(() => requestAnimationFrame(() => {
    const painted = new MessageChannel();
    painted.port1.onmessage = () => window.delays.push(performance.now() - pressed);
    painted.port2.postMessage(null);
  })).observe(task, { attributes: true, attributeFilter: ["data-lease"] });
}"""
"""Milliseconds from the press to the first moment after the frame that shows another task."""
