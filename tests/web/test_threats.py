"""The threats of DESK 1.7, one after another, each with what the desk does about it."""

import json
import logging
import re
import sqlite3
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from clew.feedback.projects import Gold, ProjectConfig
from clew.feedback.records import Comparison, Item, Task
from clew.types import Message
from clew.web.access import now_ms
from clew.web.gate import Place
from clew.web.limits import Limits
from clew.web.media import keep
from clew.web.serve import place
from clew.web.tasks import Unfit, tasks_of_row
from tests.web.conftest import Office
from tests.web.test_render import HOSTILE

FIRST = {"kind": "comparison", "verdict": "first", "margin": 2}


# who comes in


def test_a_link_lets_in_once(office):
    _, token = office.person()
    assert office.stranger().post("/session", {"token": token}).status_code == 204
    assert office.stranger().post("/session", {"token": token}).status_code == 401


def test_tokens_are_long_random_and_kept_as_hashes(office):
    tokens = {office.person()[1] for _ in range(20)}
    anna = office.browser()
    secret = anna.cookies["clew_session"]
    assert len(tokens) == 20
    assert all(len(token) >= 43 for token in (*tokens, secret))
    content = b"".join(f.read_bytes() for f in office.folder.glob("desk.sqlite*"))
    assert not any(token.encode() in content for token in (*tokens, secret))


def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites(office):
    _, token = office.person()
    cookie = office.stranger().post("/session", {"token": token}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_behind_tls_cookies_are_secure_and_bound_to_the_host(tmp_path):
    office = Office(tmp_path, place=Place("https://desk.test", frozenset({"desk.test"})))
    _, token = office.person()
    reply = office.stranger().post("/session", {"token": token})
    assert reply.headers["set-cookie"].startswith("__Host-clew_session=")
    assert "; Secure" in reply.headers["set-cookie"]
    assert "max-age" in reply.headers["strict-transport-security"]


def test_a_session_that_was_there_before_login_is_not_taken_over(office):
    _, token = office.person()
    chosen = {"Cookie": "clew_session=chosen-by-the-attacker"}
    victim, thief = office.stranger(), office.stranger()
    assert victim.post("/session", {"token": token}, headers=chosen).status_code == 204
    assert victim.cookies["clew_session"] != "chosen-by-the-attacker"
    assert thief.get("/me", headers=chosen).status_code == 401


def test_guessing_tokens_is_slow(tmp_path):
    office = Office(tmp_path, limits=Limits(login_burst=5, login_rate=0.01))
    statuses = [office.stranger().post("/session", {"token": str(i)}).status_code for i in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    assert office.stranger(address="203.0.113.8").post("/session", {"token": "x"}).status_code == 401


def test_one_person_cannot_flood_the_desk(tmp_path):
    office = Office(tmp_path, limits=Limits(person_burst=5, person_rate=0.01))
    anna, ben = office.browser(), office.browser()
    replies = [anna.get("/me") for _ in range(7)]
    assert [r.status_code for r in replies] == [200] * 5 + [429] * 2
    assert int(replies[-1].headers["retry-after"]) >= 1
    assert ben.get("/me").status_code == 200


def test_one_address_cannot_flood_the_desk(tmp_path):
    office = Office(tmp_path, limits=Limits(address_burst=5, address_rate=0.01))
    assert [office.stranger().get("/me").status_code for _ in range(7)] == [401] * 5 + [429] * 2


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "desk.example.org"])
def test_strangers_are_not_served_without_a_word_about_tls(host):
    with pytest.raises(ValueError, match="--behind-proxy"):
        place(host, 8000, None)
    assert place(host, 8000, "https://desk.example.org").is_secure


def test_a_name_that_somebody_points_here_is_not_answered(office):
    browser = office.stranger()
    reply = browser.send("GET", "/api/v1/me", headers={"Host": "evil.example"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (421, "wrong_host")


# requests of other sites


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://desk.test.evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"X-Clew": "0"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://desk.test", "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_a_page_of_another_site_cannot_use_a_session(office, headers, status):
    project, anna = office.project(), office.browser()
    assert anna.post(f"/projects/{project.id}/leases", {"n": 1}, headers=headers).status_code == status


def test_other_sites_may_neither_frame_nor_read_anything(office):
    for path in ("/", "/api/v1/me", "/healthz", "/nothing"):
        headers = office.stranger().send("GET", path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control")]
    assert office.stranger().get("/me").headers["cache-control"] == "no-store"
    assert (
        office.stranger().send("OPTIONS", "/api/v1/projects", headers={"Origin": "http://evil.example"}).status_code
        >= 400
    )


# bodies


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"answer": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", 400),
        (b"{" + b" " * (257 << 10) + b"}", 413),
        (b"\xff\xfe", 422),
        (b"", 422),
        (b"null", 422),
        (b'{"answer": NaN}', 400),
        (b'{"answer": {"kind": "comparison", "verdict": "first", "margin": Infinity}}', 400),
        (b'{"answer": {"kind": "comparison", "verdict": "first", "margin": 1e999}}', 422),
        (b'{"answer": {"kind": "comparison", "verdict": "first"}, "client_ms": ' + b"9" * 5000 + b"}", 422),
        (b'{"answer": {"kind": "comparison", "verdict": "first"}, "client_ms": ' + b"9" * 400 + b"}", 422),
        (b'{"answer": {"kind": "comparison", "verdict": "first"}, "note": "\\ud800"}', 422),
        (b'{"answer": {"kind": "comparison", "verdict": "first"}, "person": "somebody"}', 422),
    ],
    ids=["deep", "deep objects", "large", "no utf-8", "empty", "null", "NaN", "Infinity", "1e999", "huge int", "large int", "surrogate", "extra"],
)  # fmt: skip
def test_bodies_that_hurt_are_refused(office, content, status):
    project, anna = office.project(), office.browser()
    (task,) = anna.lease(project.id)
    reply = anna.send("POST", f"/api/v1/leases/{task['lease']}/answer", content=content)
    assert reply.status_code in ((400, 422) if status == 422 else (status,))
    assert set(reply.json()["error"]) == {"code", "message", "details"}
    assert office.desk.store.feedback() == []


def test_a_body_without_an_announced_length_is_cut_off_too(office):
    async def drip():
        for _ in range(400):
            yield b"x" * 1024

    anna = office.browser()
    assert anna.send("POST", "/api/v1/session", content=drip()).status_code == 413


def test_items_may_be_ten_megabytes_and_no_more(office):
    project, operator = office.project(), office.browser("operator")
    line = json.dumps({"prompt": "p", "chosen": "a" * 100_000, "rejected": "b"}) + "\n"
    path = f"/api/v1/projects/{project.id}/items"
    assert (
        operator.send("POST", path, content=line * 50, headers={"Content-Type": "application/x-ndjson"}).status_code
        == 200
    )
    assert operator.send("POST", path, content=line * 110).status_code == 413


def test_bad_lines_of_an_upload_are_told_one_by_one(office):
    project, operator = office.project(num=0), office.browser("operator")
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    lines = [
        json.dumps(good),
        "{",
        "[" * 1000,
        "3",
        json.dumps({**good, "chosen": "b"}),
        json.dumps({"x": 1}),
        "",
        json.dumps(good),
    ]
    reply = operator.send("POST", f"/api/v1/projects/{project.id}/items", content="\n".join(lines))
    assert [line["line"] for line in reply.json()["lines"] if "error" in line] == [2, 3, 4, 5, 6]
    assert (reply.json()["added"], reply.json()["known"]) == (1, 1)


# texts of strangers


def test_what_strangers_write_is_only_ever_shown(office):
    prompt = tuple(Message("user", text) for text in HOSTILE)
    items = [Item(prompt=prompt, completion=text) for text in dict.fromkeys(HOSTILE)]
    task = Task(kind="ranking", prompt=prompt, items=tuple(item.id for item in items))
    project = office.project("ranking", 0, guidelines="\n\n".join(HOSTILE))
    office.desk.projects.put(project.id, [task], items=items, actor="test", now=now_ms())
    anna = office.browser()
    (seen,) = anna.lease(project.id)
    assert len(seen["prompt"]["turns"]) == len(HOSTILE)
    shown = [text["html"] for text in (*seen["prompt"]["turns"], *seen["slots"])]
    for html in (*shown, anna.get(f"/guidelines/{project.id}").json()["html"]):
        assert not re.search(
            r"<(script|img|svg|iframe|style|link|form|object|embed|base|meta|input)", html, re.IGNORECASE
        )
        assert not re.search(r"<[^>]*\s(on\w+|style|src)\s*=", html, re.IGNORECASE)
        assert not re.search(r"<a [^>]*href=\"(?!https?:|mailto:)", html, re.IGNORECASE)


def test_a_huge_text_is_cut_and_given_whole_when_asked_for(office):
    project = office.desk.projects.add("huge", ProjectConfig(kind="thumb"), actor="test", now=now_ms())
    office.fill(project, 1, texts=("word " * 100_000,))
    anna = office.browser()
    (task,) = anna.lease(project.id)
    (slot,) = task["slots"]
    assert (len(slot["text"]), slot["more"]) == (200_000, 300_000)
    whole = anna.get(f"/leases/{task['lease']}/slots/0").json()
    assert (len(whole["text"]), whole["more"]) == (500_000, 0)


# leases and answers


def test_double_enter_is_one_answer(office):
    project, anna = office.project(), office.browser()
    (task,) = anna.lease(project.id)
    statuses = {anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST}).status_code for _ in range(5)}
    assert statuses == {201, 200}
    assert len(office.desk.store.feedback(history=True)) == 1


def test_nobody_answers_in_somebody_elses_name(office):
    project, anna, ben = office.project(), office.browser(), office.browser()
    (task,) = anna.lease(project.id)
    for action, body in (("answer", {"answer": FIRST}), ("skip", {}), ("heartbeat", {})):
        assert ben.post(f"/leases/{task['lease']}/{action}", body).status_code == 404
    given = anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST}).json()["answer"]
    assert ben.post(f"/answers/{given}/undo").status_code == 404
    assert {r.rater.id for r in office.desk.store.feedback()} == {anna.person.id}


def test_ids_are_random(office):
    project, anna = office.project(num=10), office.browser()
    leases = [task["lease"] for task in anna.lease(project.id, 5)]
    assert all(re.fullmatch(r"[0-9a-f]{20,}", lease) for lease in leases)
    assert len({lease[:6] for lease in leases}) == 5


def test_a_person_hoards_no_more_than_five_tasks(office):
    project, anna = office.project(num=20), office.browser()
    held = {task["lease"] for _ in range(4) for task in anna.lease(project.id, 5)}
    assert len(held) == 5
    assert anna.post(f"/projects/{project.id}/leases", {"n": 50}).status_code == 422


# what raters must not know


def test_nothing_tells_a_rater_who_wrote_an_answer_or_that_it_is_known(office):
    project = office.desk.projects.add("g", ProjectConfig(kind="comparison", gold_rate=0.5), actor="test", now=now_ms())
    office.fill(project, 30)
    office.fill(project, 20, prompt="known {}", gold=Gold(Comparison(verdict="first", margin=2.0), "because"))
    anna, shapes = office.browser(), set()
    ids = list(office.desk.store.items()) + [task.id for task in office.desk.store.tasks()]
    for _ in range(30):
        for task in anna.lease(project.id, 1):
            said = json.dumps(task)
            assert not [key for key in ids if key in said]
            assert not re.search(r"gpt-secret|gold|because|source|screening", said)
            reply = anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST})
            shapes.add((json.dumps(_shape(task)), json.dumps(_shape(reply.json())), reply.status_code))
    assert len(shapes) == 1
    assert {e.purpose for e in office.app._app.state.gatherer.of(project.id).said} == {"work", "gold"}


def _shape(value):
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items()}
    return [_shape(value[0])] if isinstance(value, list) and value else type(value).__name__


@pytest.mark.parametrize(
    "text", ["As ChatGPT, I think", "I am Claude, made by Anthropic", "trained by OpenAI", "GPT-4 says"]
)
def test_an_answer_that_names_its_model_is_not_put_before_people(text):
    with pytest.raises(Unfit, match="names"):
        tasks_of_row({"prompt": "who are you?", "chosen": text, "rejected": "a model"}, "comparison", "row 1")


@pytest.mark.parametrize("text", ["Claudette met Bernard by the barn", "a bardic tale", "openairs"])
def test_what_names_no_model_may_be_asked(text):
    assert len(tasks_of_row({"prompt": "p", "chosen": text, "rejected": "b"}, "comparison", "r")) == 1


# files


def test_clips_are_named_by_their_content_and_sent_in_parts(office, tmp_path):
    clip = tmp_path / "secret-model-name.mp4"
    clip.write_bytes(bytes(range(256)) * 4)
    name = keep(clip, office.media)
    assert re.fullmatch(r"[0-9a-f]{64}\.mp4", name)
    anna = office.browser()
    whole = anna.get(f"/media/{name}")
    part = anna.get(f"/media/{name}", headers={"Range": "bytes=10-19"})
    assert (whole.status_code, whole.headers["content-type"], len(whole.content)) == (200, "video/mp4", 1024)
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert anna.get(f"/media/{name}", headers={"Range": "bytes=5000-"}).status_code == 416


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fdesk.sqlite", "../desk.sqlite", "%2e%2e/desk.sqlite", "desk.sqlite", "..", "0" * 64, "0" * 64 + ".sqlite", "%00.mp4"],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["/api/v1/media/", "/", "/kinds/", "/kinds/../../"])
def test_no_path_leads_out_of_the_folders_that_are_served(office, prefix, name):
    reply = office.browser().send("GET", prefix + name)
    assert reply.status_code in (404, 405) or reply.headers["content-type"].startswith("text/html")
    assert b"SQLite format" not in reply.content


def test_the_server_takes_no_clips_from_an_upload(office):
    project, operator = office.project("clips", 0), office.browser("operator")
    line = json.dumps({"prompt": "p", "clips": ["/etc/passwd", "http://evil.example/a.mp4"]})
    reply = operator.send("POST", f"/api/v1/projects/{project.id}/items", content=line)
    assert (
        "clew desk --tasks" in reply.json()["lines"][0]["error"]
        or "no known format" in reply.json()["lines"][0]["error"]
    )


def test_only_clips_and_pictures_are_kept(tmp_path):
    (tmp_path / "a.html").write_text("<script>")
    with pytest.raises(ValueError, match="clips and pictures end in"):
        keep(tmp_path / "a.html", tmp_path / "media")


# secrets and people


def test_logs_have_no_bodies_no_tokens_and_no_queries(office, caplog):
    with caplog.at_level(logging.DEBUG):
        project, anna = office.project(), office.browser()
        (task,) = anna.lease(project.id)
        anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST, "note": "my private note"})
        anna.get("/me/history?cursor=12345678")
        office.stranger().post("/session", {"token": "a-wrong-token"})
        anna.post(f"/leases/{task['lease']}/answer", {"answer": "my malformed note"})
    logged = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith("httpx"))  # the client's own
    assert "/api/v1/me/history" in logged
    for secret in (anna.cookies["clew_session"], "my private note", "12345678", "a-wrong-token", "my malformed note"):
        assert secret not in logged


def test_a_failure_of_the_server_tells_nothing_and_is_logged_by_place_alone(office, caplog, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("SELECT token_sha256 FROM person")

    monkeypatch.setattr(office.desk.people, "in_session", fail)
    anna = office.browser()
    reply = anna.get("/me")
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal")
    assert "token_sha256" not in reply.text + caplog.text
    assert reply.headers["x-request-id"] in caplog.text


def test_errors_do_not_repeat_what_was_sent(office):
    reply = office.stranger().post("/session", {"token": "secret" * 100})
    assert reply.status_code == 422
    assert "secret" not in reply.text


def test_links_carry_their_token_in_the_fragment_where_no_server_sees_it(office):
    link = office.browser("owner").post("/people", {"role": "annotator", "name": "Anna"}).json()["link"]
    assert re.fullmatch(r"http://desk\.test/#token=[\w-]{43}", link)


def test_a_repeated_invitation_makes_one_person_and_shows_no_link_again(office):
    owner = office.browser("owner")
    before = len(owner.get("/people").json()["people"])
    first, again = (
        owner.post("/people", {"role": "annotator"}, headers={"Idempotency-Key": "k1"}).json() for _ in range(2)
    )
    assert first["id"] == again["id"]
    assert (first["link"] is None, again["link"]) == (False, None)
    assert len(owner.get("/people").json()["people"]) == before + 1


def test_exports_hold_no_names_no_times_and_no_ids_of_people(office):
    project, anna, owner = office.project(), office.browser(name="Anna Secret"), office.browser("owner")
    for task in anna.lease(project.id, 3):
        anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST, "client_ms": 987_654})
    made = owner.post(f"/projects/{project.id}/exports", {"format": "votes"}).json()
    reply = owner.get(f"/exports/{made['id']}/file")
    with zipfile.ZipFile(BytesIO(reply.content)) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
        rows = [json.loads(line) for line in archive.read("votes.jsonl").splitlines()]
    assert len(rows) == made["rows"] == 3
    for secret in ("Anna Secret", anna.person.id, "987.654", "203.0.113.7"):
        assert secret.encode() not in content


def test_a_person_can_be_forgotten(office):
    owner, anna, project = office.browser("owner"), office.browser(name="Anna Secret"), office.project()
    (task,) = anna.lease(project.id)
    anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST})
    assert owner.send("DELETE", f"/api/v1/people/{anna.person.id}").status_code == 204
    assert anna.get("/me").status_code == 401
    assert "Anna Secret" not in owner.get("/people").text
    assert "Anna Secret" not in owner.get("/audit").text
    assert len(office.desk.store.feedback()) == 1
    office.desk.store.close()
    with sqlite3.connect(office.folder / "desk.sqlite") as connection:
        connection.execute("VACUUM")
    assert b"Anna Secret" not in (office.folder / "desk.sqlite").read_bytes()


def test_what_excluded_people_said_leaves_numbers_and_exports_and_can_come_back(office):
    project, anna, owner = office.project(), office.browser(), office.browser("owner")
    for task in anna.lease(project.id, 3):
        anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST})

    def votes():
        return owner.get(f"/projects/{project.id}/progress").json()["votes"]

    owner.post(f"/raters/{anna.person.id}/state", {"state": "excluded", "reason": "test"})
    assert votes() == 0
    owner.post(f"/raters/{anna.person.id}/state", {"state": "active"})
    assert votes() == 3


def test_a_full_disk_is_told_and_nothing_of_it_is_kept(office, monkeypatch):
    from clew.failure import NoSpace

    project, anna = office.project(), office.browser()
    (task,) = anna.lease(project.id)

    def full():
        raise NoSpace("full")

    monkeypatch.setattr(office.desk.store, "write", full)
    reply = anna.post(f"/leases/{task['lease']}/answer", {"answer": FIRST})
    assert (reply.status_code, reply.json()["error"]["code"]) == (507, "disk_full")


def test_a_page_that_does_not_exist_is_404_without_a_path_of_this_machine(office):
    reply = office.stranger().send("GET", "/no/such/page")
    assert reply.status_code == 404
    assert str(Path(__file__).parents[2]) not in reply.text
