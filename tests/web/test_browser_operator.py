"""The operator's dashboard in a real browser."""

import json
import zipfile

import pytest

from tests.web.browsing import PATIENCE_MS, PHONE, WIDE, expect, opened, press, project, saved, submitted
from tests.web.conftest import Office

PAGES = ("overview", "agreement", "raters", "bias", "coverage", "review", "exports", "people", "project", "log")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("operator"), _fill, ["anna", "ben"]) as site:
        yield site


@pytest.fixture(scope="module")
def page(site):
    for person, keys in (("anna", "2272"), ("ben", "2722")):
        rater = site.worker(person, "pairs")
        for key in keys:
            submitted(rater, key)
        saved(rater)
        rater.context.close()
    page = site.browser.new_page(viewport=WIDE)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(site.server.link)
    page.wait_for_selector("[data-page=overview]")
    return page


def _fill(office: Office) -> dict[str, str]:
    made = project(office, "pairs", 4, need=2, texts=("a short answer {}", "an answer that is rather longer {}"))
    return {"pairs": made.id}


def show(page, site, name: str) -> None:
    page.goto(f"{site.server.url}/operator.html#{name}")
    page.wait_for_selector(f"[data-page={name}]")


def test_the_link_of_clew_desk_opens_the_dashboard_and_leaves_no_token_behind(page):
    assert page.url.endswith("/operator.html")
    assert "8" in page.locator(".figure", has_text="Answers").inner_text()
    assert "4 of 4" in page.locator(".figure", has_text="Items done").inner_text()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_every_page_is_drawn_and_fits(site, page, size):
    page.set_viewport_size(size)
    for name in PAGES:
        show(page, site, name)
        assert page.locator(".banner").count() == 0, name
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], name
    page.set_viewport_size(WIDE)


def test_disagreement_comes_first_and_shows_who_said_what(site, page):
    show(page, site, "review")
    page.locator("tbody tr").first.get_by_role("button").click()
    page.wait_for_selector("dialog[open]")
    assert page.locator(".said").count() == 2
    said = page.locator(".said").all_inner_texts()
    assert any("Answer 1 is better" in text for text in said) or any("Answer 2 is better" in text for text in said)
    press(page, "Escape")


def test_a_rater_is_paused_and_resumed(site, page):
    show(page, site, "raters")
    page.get_by_role("button", name="Pause").first.click()
    page.wait_for_selector("text=Now paused")
    expect(page.locator("td .badge.warn", has_text="paused")).to_have_count(1)
    page.get_by_role("button", name="Resume").first.click()
    page.wait_for_selector("text=Now active")


def test_somebody_is_invited_by_a_link_that_lets_in_once(site, page):
    show(page, site, "people")
    page.get_by_label("Name").fill("Carla")
    page.get_by_role("button", name="Make a link").click()
    link = page.input_value(".one-time")
    press(page, "Escape")
    expect(page.locator("td", has_text="Carla")).to_have_count(1)
    for expected in ("No tasks", "Open your personal link"):
        visitor = site.browser.new_page()
        visitor.goto(link)
        expect(visitor.locator("#task")).to_contain_text(expected)
        visitor.context.close()


def test_an_export_is_made_and_downloaded(site, page):
    show(page, site, "exports")
    page.get_by_role("button", name="Export", exact=True).click()
    page.wait_for_selector("text=Export made")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        (file,) = [name for name in archive.namelist() if name.endswith(".jsonl") and "event" not in name]
        rows = [json.loads(line) for line in archive.read(file).splitlines()]
    assert {"prompt", "chosen", "rejected"} <= rows[0].keys()


def test_a_project_is_made_and_given_items(site, page, tmp_path):
    show(page, site, "project")
    page.locator(".card", has_text="New project").get_by_label("Name").fill("thumbs")
    page.get_by_label("Task").select_option("thumb")
    page.get_by_role("button", name="Make it").click()
    page.wait_for_selector("text=Project made")
    file = tmp_path / "items.jsonl"
    file.write_text('{"prompt": "Hi?", "completion": "Hello."}\nnot json\n')
    page.get_by_label("File").set_input_files(file)
    page.get_by_role("button", name="Add items").click()
    expect(page.locator("#says")).to_have_text("Items added")
    told = page.locator(".card", has_text="Items").get_by_role("status").inner_text()
    assert told.startswith("1 items added, 1 lines refused. Line 2:")
