"""A conversation with a real, tiny model, by keyboard alone."""

from tests.web.browsing import expect, opened, press, project, saved
from tests.web.conftest import Office


def test_a_conversation_is_held_and_judged_turn_by_turn(tmp_path, new_module, tokenizer):
    model = tmp_path / "model"
    new_module().save_pretrained(model)
    tokenizer.save_pretrained(model)
    with opened(tmp_path, _fill, ["talker"], "--model", str(model)) as site:
        page = site.worker("talker", "talk")
        for message, key in (("how was the soup ?", "6"), ("and the room ?", "1")):
            page.keyboard.type(message)
            press(page, "Control+Enter")
            page.wait_for_selector(".replies .panel")
            expect(page.locator(".talk")).to_contain_text(message)
            press(page, key)
        press(page, "Enter")
        saved(page)
        (record,) = [r for r in site.records("talker") if r.answer.kind == "conversation"]
        said = [(turn.user, turn.choice, turn.margin, len(turn.replies)) for turn in record.answer.exchanges]
        assert said == [("how was the soup ?", 1, 1.0, 2), ("and the room ?", 0, 3.0, 2)]


def _fill(office: Office) -> dict[str, str]:
    return {"talk": project(office, "talk", 1, kind="conversation", texts=(), form={"turns": 2}).id}
