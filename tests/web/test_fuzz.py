"""The API against requests made from its own description: nothing is a fault of the server."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.web.conftest import HEADERS, Office

API = "/api/v1"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A desk in use and an owner's cookies, so that requests reach the code behind the door."""
    office = Office(tmp_path_factory.mktemp("fuzz"))
    project = office.project(num=200)
    owner = office.browser("owner")
    tasks = owner.lease(project.id, 3)
    answer = owner.post(f"/leases/{tasks[0]['lease']}/answer", {"answer": {"kind": "comparison", "verdict": "tie"}})
    export = owner.post(f"/projects/{project.id}/exports", {"format": "votes"}).json()["id"]
    office.known = {
        "project": project.id,
        "lease": tasks[1]["lease"],
        "answer": answer.json()["answer"],
        "person": office.person()[0].id,
        "item": office.desk.store.tasks()[0].id,
        "export": export,
    }
    office.cookies = dict(owner.cookies)
    return office


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """A body of one line."""
    return json.dumps(value).encode()


def fuzz(office, examples):
    schema = schemathesis.openapi.from_asgi(f"{API}/openapi.json", office.app, headers={"Host": "desk.test"})
    found = []

    def ask(operation):
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case):
            for name, value in office.known.items():
                if name in (case.path_parameters or {}):
                    case.path_parameters[name] = value
            response = case.call(headers={**HEADERS, "Host": "desk.test"}, cookies=office.cookies)
            if response.status_code >= 500 and response.status_code != 503:  # no model to talk to
                found.append((operation.method, operation.path, response.status_code, case.body))

        check()

    for result in schema.get_all_operations():
        operation = result.ok()
        if (operation.method, operation.path) != ("delete", f"{API}/session"):  # that would be the end
            ask(operation)
    return found


def test_a_few_requests_of_every_kind(place):
    assert fuzz(place, 8) == []


@pytest.mark.slow
def test_many_requests_of_every_kind(place):
    assert fuzz(place, 500) == []


def test_the_check_sees_faults(place, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("broken")

    monkeypatch.setattr(place.desk, "history", fail)
    assert ("get", f"{API}/me/history", 500) in [found[:3] for found in fuzz(place, 1)]
