"""Every route with every role: who may pass is one table here, and a route that is not in it fails."""

import pytest

from clew.feedback.people import Role
from clew.web.access import ACCESS, OPEN
from tests.web.conftest import Office

API = "/api/v1"
R, OP, W = {"annotator", "judge", "operator", "owner"}, {"operator", "owner"}, {"owner"}
EXPECTED = {
    f"DELETE {API}/session": R,
    f"GET {API}/me": R,
    f"GET {API}/me/history": R,
    f"GET {API}/me/stats": R,
    f"GET {API}/projects": R,
    f"GET {API}/guidelines/{{project}}": R,
    f"GET {API}/media/{{name}}": R,
    f"POST {API}/projects/{{project}}/leases": R,
    f"POST {API}/leases/{{lease}}/heartbeat": R,
    f"POST {API}/leases/{{lease}}/answer": R,
    f"POST {API}/leases/{{lease}}/skip": R,
    f"POST {API}/leases/{{lease}}/turn": R,
    f"GET {API}/leases/{{lease}}/slots/{{number}}": R,
    f"POST {API}/answers/{{answer}}/undo": R,
    f"POST {API}/projects": OP,
    f"PATCH {API}/projects/{{project}}": OP,
    f"GET {API}/projects/{{project}}/progress": OP,
    f"GET {API}/projects/{{project}}/stats": OP,
    f"GET {API}/projects/{{project}}/agreement": OP,
    f"GET {API}/projects/{{project}}/raters": OP,
    f"GET {API}/projects/{{project}}/coverage": OP,
    f"GET {API}/projects/{{project}}/items": OP,
    f"POST {API}/projects/{{project}}/items": OP,
    f"GET {API}/projects/{{project}}/items/{{item}}/answers": OP,
    f"GET {API}/projects/{{project}}/exports": OP,
    f"POST {API}/projects/{{project}}/exports": OP,
    f"GET {API}/exports/{{export}}/file": OP,
    f"GET {API}/people": OP,
    f"POST {API}/people": OP,
    f"DELETE {API}/people/{{person}}": W,
    f"POST {API}/people/{{person}}/rotate": OP,
    f"POST {API}/raters/{{person}}/state": OP,
    f"GET {API}/audit": OP,
}
ANYBODY = {"GET /healthz", "GET /version", f"POST {API}/session"}
BODIES = {
    "answer": {"answer": {"kind": "comparison", "verdict": "first", "margin": 1}},
    "turn": {"text": "hello"},
    "leases": {"n": 1},
    "projects": {"name": "new", "kind": "thumb"},
    "people": {"role": "annotator"},
    "state": {"state": "paused"},
    "exports": {"format": "preference"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A desk in use: somebody else's lease and answer are there to be reached for."""
    office = Office(tmp_path_factory.mktemp("access"))
    project = office.project(num=30)
    other = office.browser()
    task, held = other.lease(project.id, 2)
    answer = other.post(f"/leases/{task['lease']}/answer", BODIES["answer"]).json()["answer"]
    owner = office.browser("owner")
    export = owner.post(f"/projects/{project.id}/exports", {"format": "votes", "include_identities": True}).json()["id"]
    office.foreign = {
        "project": project.id,
        "lease": held["lease"],
        "answer": answer,
        "person": office.person("owner")[0].id,
        "item": office.desk.store.tasks()[0].id,
        "export": export,
        "name": "0" * 64 + ".mp4",
        "number": "0",
    }
    office.browsers = {role: office.browser(role) for role in ("annotator", "judge", "operator", "owner")}
    return office


def routes(office):
    paths = office.app._app.openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_every_route_is_in_the_table_and_the_table_is_what_is_served(place):
    assert routes(place) == set(EXPECTED) | ANYBODY
    assert {f"{m} {p}": set(roles) for (m, p), roles in ACCESS.items()} == EXPECTED
    assert {f"{m} {p}" for m, p in OPEN} == ANYBODY


def call(office, browser, route):
    method, path = route.split()
    for name, value in office.foreign.items():
        path = path.replace(f"{{{name}}}", value)
    return browser.send(method, path, json=None if method in ("GET", "DELETE") else BODIES.get(path.split("/")[-1], {}))


@pytest.mark.parametrize("role", Role.__args__)
@pytest.mark.parametrize("route", [r for r in EXPECTED if "DELETE" not in r and "session" not in r])
def test_roles_pass_where_the_table_says_and_nowhere_else(place, route, role):
    status = call(place, place.browsers[role], route).status_code
    if role in EXPECTED[route]:
        assert (status not in (401, 405) and status < 500) or status == 503
    else:
        assert status == 403


@pytest.mark.parametrize("route", EXPECTED)
def test_nobody_passes_without_a_session(place, route):
    assert call(place, place.stranger(), route).status_code == 401


@pytest.mark.parametrize("role", Role.__args__)
@pytest.mark.parametrize("route", [r for r in EXPECTED if "{lease}" in r or "{answer}" in r])
def test_leases_and_answers_of_others_are_not_there_whoever_asks(place, route, role):
    reply = call(place, place.browsers[role], route)
    assert reply.status_code == (503 if "turn" in route else 404)


@pytest.mark.parametrize("what", ["rotate", "state"])
def test_an_operator_has_no_power_over_owners_and_operators(place, what):
    operator = place.browsers["operator"]
    for role in ("owner", "operator"):
        person = place.person(role)[0].id
        path = f"/people/{person}/rotate" if what == "rotate" else f"/raters/{person}/state"
        assert operator.post(path, BODIES.get(what)).status_code == 403
    assert operator.post("/people", {"role": "owner"}).status_code == 403
    assert operator.post("/people", {"role": "annotator"}).status_code == 201


def test_exports_with_names_are_for_the_owner(place):
    operator, owner = place.browsers["operator"], place.browsers["owner"]
    project, export = place.foreign["project"], place.foreign["export"]
    assert (
        operator.post(f"/projects/{project}/exports", {"format": "votes", "include_identities": True}).status_code
        == 403
    )
    assert operator.get(f"/exports/{export}/file").status_code == 403
    assert owner.get(f"/exports/{export}/file").status_code == 200


def test_a_session_ends_with_log_out_and_with_a_new_link(office):
    anna, owner = office.browser(), office.browser("owner")
    other = office.stranger()
    other.cookies = anna.cookies
    assert anna.send("DELETE", "/api/v1/session").status_code == 204
    assert other.get("/me").status_code == 401
    ben = office.browser()
    assert owner.post(f"/people/{ben.person.id}/rotate").status_code == 200
    assert ben.get("/me").status_code == 401


def test_raters_see_open_projects_alone_and_not_how_they_are_run(office):
    project, anna, operator = office.project(), office.browser(), office.browser("operator")
    (seen,) = anna.get("/projects").json()
    assert not {"gold_rate", "need"} & set(seen)
    operator.send("PATCH", f"/api/v1/projects/{project.id}", json={"state": "paused"})
    assert anna.get("/projects").json() == []
    assert len(operator.get("/projects").json()) == 1
