import json
import time

import pytest

from clew.feedback.projects import Gold
from clew.feedback.records import Comparison, Thumb
from tests.web.conftest import Office

FIRST = {"kind": "comparison", "verdict": "first", "margin": 2}


def test_a_pair_is_leased_answered_and_in_the_store(office):
    project, anna = office.project(), office.browser()
    (task,) = anna.lease(project.id)
    reply = anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST, "client_ms": 1500, "note": "clearer"})
    assert reply.status_code == 201
    (record,) = office.desk.store.feedback()
    items = office.desk.store.items()
    assert [items[key].completion for key in record.items] == [slot["text"] for slot in task["slots"]]
    assert (record.answer, record.seconds, record.note) == (Comparison(verdict="first", margin=2.0), 1.5, "clearer")
    assert (record.rater.id, record.id) == (anna.person.id, reply.json()["answer"])


def test_the_same_again_is_the_same_and_another_answer_is_refused(office):
    project, anna = office.project(), office.browser()
    (task,) = anna.lease(project.id)
    path = f"/leases/{task['lease']}/answer"
    first, again = (anna.post(path, {"answer": FIRST, "client_ms": ms}) for ms in (10, 20))
    other = anna.post(path, {"answer": {**FIRST, "verdict": "second"}})
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json() == again.json()
    assert len(office.desk.store.feedback()) == 1


def test_tasks_are_held_ahead_and_given_again_until_they_are_answered(office):
    project, anna = office.project(num=8), office.browser()
    held = [task["lease"] for task in anna.lease(project.id, 3)]
    assert [task["lease"] for task in anna.lease(project.id, 3)] == held
    anna.post(f"/leases/{held[0]}/answer", {"answer": FIRST})
    assert [task["lease"] for task in anna.lease(project.id, 3)][:2] == held[1:]


def test_nothing_to_do_is_204_with_a_time_to_ask_again(office):
    project, anna = office.project(num=1), office.browser()
    (task,) = anna.lease(project.id)
    anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST})
    reply = anna.post(f"/projects/{project.id}/leases", {"n": 3})
    assert (reply.status_code, reply.content) == (204, b"")
    assert int(reply.headers["retry-after"]) > 0


def test_a_late_answer_is_told_and_kept_where_it_is_still_wanted(office):
    project, anna = office.project(num=1, lease_ms=1000), office.browser()
    (task,) = anna.lease(project.id)
    time.sleep(1.02)
    reply = anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST})
    assert (reply.status_code, reply.json()["error"]["code"]) == (410, "late")
    assert len(office.desk.store.feedback()) == 1


def test_a_late_answer_that_nobody_wants_any_more_is_gone(office):
    project, anna, ben = office.project(num=1, lease_ms=1000), office.browser(), office.browser()
    (task,) = anna.lease(project.id)
    time.sleep(1.1)
    (same,) = ben.lease(project.id)
    assert ben.post(f"/leases/{same['lease']}/answer", {"answer": FIRST}).status_code == 201
    reply = anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST})
    assert (reply.status_code, reply.json()["error"]["code"]) == (410, "expired")
    assert len(office.desk.store.feedback()) == 1


def test_a_heartbeat_holds_a_task_for_longer(office):
    project, anna = office.project(), office.browser()
    (task,) = anna.lease(project.id)
    time.sleep(0.01)
    assert anna.post(f"/leases/{task['lease']}/heartbeat").json()["expires_ms"] > task["expires_ms"]


def test_what_is_skipped_does_not_come_back(office):
    project, anna = office.project(num=1), office.browser()
    (task,) = anna.lease(project.id)
    assert anna.post(f"/leases/{task['lease']}/skip", {"reason": "not my field"}).status_code == 204
    assert anna.post(f"/projects/{project.id}/leases", {"n": 1}).status_code == 204


def test_undo_shows_the_task_again_with_the_answer_and_the_new_one_counts(office):
    project, anna = office.project(), office.browser()
    (task,) = anna.lease(project.id)
    given = anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST}).json()["answer"]
    again = anna.post(f"/answers/{given}/undo").json()["task"]
    assert again["answer"]["verdict"] == "first"
    assert [s["text"] for s in again["slots"]] == [s["text"] for s in task["slots"]]
    changed = anna.post(f"/leases/{again['lease']}/answer", {"answer": {**FIRST, "verdict": "second"}})
    assert changed.status_code == 201
    (record,) = office.desk.store.feedback()
    assert (record.answer.verdict, record.revision) == ("second", 1)


def test_own_work_is_counted_and_listed(office):
    project, anna = office.project(), office.browser()
    for task in anna.lease(project.id, 2):
        anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST})
    assert anna.get("/me/stats").json() == {"answers_today": 2, "answers_in_all": 2}
    history = anna.get("/me/history").json()
    assert [(a["kind"], a["project"], a["said"]["verdict"]) for a in history["answers"]] == [
        ("comparison", "comparison", "first")
    ] * 2
    assert anna.get(f"/me/history?cursor={min(a['made_ms'] for a in history['answers'])}").json()["answers"] == []
    assert anna.get("/projects").json()[0]["mine_today"] == 2


def test_training_explains_after_the_answer_and_only_there(office):
    gold = Gold(Thumb(up=True), "It **does** what was asked.")
    project = office.project("thumb", 0, training=1)
    office.fill(project, 1, texts=("text {}",), gold=gold, training=True)
    anna = office.browser()
    (task,) = anna.lease(project.id)
    assert task["mode"] == "training"
    assert "does" not in json.dumps(task)
    reply = anna.post(f"/leases/{task['lease']}/answer", {"answer": {"kind": "thumb", "up": False}}).json()
    assert reply["training"] == {
        "correct": False,
        "explanation_html": "<p>It <strong>does</strong> what was asked.</p>\n",
    }


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("comparison", {**FIRST, "margin": 7}),
        ("comparison", {**FIRST, "flaws": [["nonsense"], []]}),
        ("comparison", {**FIRST, "verdict": "A"}),
        ("comparison", {"kind": "thumb", "up": True}),
        ("comparison", {**FIRST, "extra": 1}),
        ("comparison", {"kind": "nonsense"}),
        ("ranking", {"kind": "ranking", "groups": [[0]]}),
        ("ranking", {"kind": "ranking", "groups": [[0], [5]]}),
        ("rating", {"kind": "rating", "scales": {"helpfulness": 5}}),
        ("rating", {"kind": "rating", "scales": {"helpfulness": 99, "honesty": 1, "harmlessness": 1}}),
        ("thumb", {"kind": "thumb", "up": True, "reasons": ["nonsense"]}),
        ("spans", {"kind": "spans", "spans": [{"start": 0, "end": 1, "text": "X", "category": "false"}]}),
        ("flaws", {"kind": "flaws", "flaws": {"nonsense": True}}),
        ("demonstration", {"kind": "demonstration", "text": " "}),
        ("revision", {"kind": "revision", "text": "left 0"}),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit_their_task_are_refused(office, kind, answer):
    num_texts = {"comparison": 2, "ranking": 2, "demonstration": 0}.get(kind, 1)
    project = office.project(kind, 1, texts=("left {}", "right {}")[:num_texts])
    anna = office.browser()
    (task,) = anna.lease(project.id)
    reply = anna.post(f"/leases/{task['lease']}/answer", {"answer": answer})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid")
    assert office.desk.store.feedback() == []


ANSWERS = {
    "comparison": {**FIRST, "flaws": [["false"], ["off_topic", "format"]]},
    "ranking": {"kind": "ranking", "groups": [[1], [0]]},
    "rating": {"kind": "rating", "scales": {"helpfulness": 5, "honesty": 7, "harmlessness": 1}},
    "thumb": {"kind": "thumb", "up": False, "reasons": ["false"]},
    "steps": {"kind": "steps", "labels": [1, -1], "first_error": 1, "finish_reason": "found_error"},
    "spans": {"kind": "spans", "spans": [{"start": 0, "end": 4, "text": "left", "category": "false"}]},
    "flaws": {"kind": "flaws", "flaws": {"false": True, "harmful": False}},
    "demonstration": {"kind": "demonstration", "text": "the ideal answer"},
    "prompt": {"kind": "demonstration", "text": "why is the sky blue?"},
    "revision": {"kind": "revision", "text": "better"},
    "clips": FIRST,
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_kind_is_asked_and_answered(office, kind):
    num_texts = {"comparison": 2, "clips": 2, "ranking": 2, "demonstration": 0, "prompt": 0}.get(kind, 1)
    project = office.project(kind, 0)
    steps = {"steps": ("one", "two", "three")} if kind == "steps" else {}
    office.fill(project, 1, texts=("left {}", "right {}")[:num_texts], **steps)
    anna = office.browser()
    (task,) = anna.lease(project.id)
    assert len(task["slots"]) == num_texts
    assert anna.post(f"/leases/{task['lease']}/answer", {"answer": ANSWERS[kind]}).status_code == 201
    assert len(office.desk.store.feedback()) == 1


def test_a_conversation_offers_two_replies_a_turn(tmp_path):
    from clew.web.live import Reply

    heard = []

    def speak(conversation):
        heard.append([(m.role, m.content) for m in conversation])
        return f"yes {len(heard)}", f"no {len(heard)}"

    office = Office(tmp_path, reply=Reply(speak))
    project, anna = office.project("conversation", 1, texts=()), office.browser()
    (task,) = anna.lease(project.id)
    path = f"/leases/{task['lease']}"
    one = anna.post(f"{path}/turn", {"text": "hello"}).json()
    assert [slot["text"] for slot in one["slots"]] == ["yes 1", "no 1"]
    assert anna.post(f"{path}/turn", {"text": "again"}).status_code == 422
    two = anna.post(f"{path}/turn", {"text": "why?", "choice": 1}).json()
    assert two["number"] == 1
    assert heard[1][-3:] == [("user", "hello"), ("assistant", "no 1"), ("user", "why?")]
    (again,) = anna.lease(project.id)
    assert [turn["choice"] for turn in again["turns"]] == [1, None]
    exchanges = [{"user": "hello", "choice": 1, "margin": 2}, {"user": "why?", "choice": 0, "margin": 0}]
    reply = anna.post(f"{path}/answer", {"answer": {"kind": "conversation", "exchanges": exchanges}})
    assert reply.status_code == 201
    assert [r.answer.kind for r in office.desk.store.feedback()] == ["conversation", "comparison", "comparison"]


def test_a_desk_without_a_model_says_so(office):
    project, anna = office.project("conversation", 1, texts=()), office.browser()
    (task,) = anna.lease(project.id)
    reply = anna.post(f"/leases/{task['lease']}/turn", {"text": "hello"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_model")
