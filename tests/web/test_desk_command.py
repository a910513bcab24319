import json
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from clew.feedback.store import Store
from tests.web.conftest import HEADERS


def clew(*arguments, cwd):
    command = [sys.executable, "-m", "clew", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


def test_the_demo_opens_on_pairs_and_ctrl_c_closes_it_cleanly(serve, tmp_path):
    server = serve("--demo")
    assert server.url.startswith("http://127.0.0.1:")
    client = server.client()
    (project,) = client.get("/api/v1/projects").json()
    assert (project["name"], project["kind"]) == ("quickstart", "comparison")
    (task,) = client.post(f"/api/v1/projects/{project['id']}/leases", json={"n": 1}).json()["tasks"]
    answer = {"answer": {"kind": "comparison", "verdict": "tie"}}
    assert client.post(f"/api/v1/leases/{task['lease']}/answer", json=answer).status_code == 201
    second = clew("desk", "desk-demo.sqlite", "--port", "0", cwd=tmp_path)
    assert (second.returncode, second.stderr.count("\n")) == (2, 1)
    assert "is served by another process" in second.stderr
    server.process.send_signal(signal.SIGINT)
    rest, _ = server.process.communicate(timeout=20)
    assert server.process.returncode == 0
    assert "every answer that was acknowledged is in desk-demo.sqlite" in rest
    assert "Traceback" not in (tmp_path / "errors.txt").read_text()
    store = Store.open(tmp_path / "desk-demo.sqlite")
    assert len(store.feedback()) == 1


def test_tasks_of_a_file_become_a_project_and_come_once(serve, tmp_path):
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "same", "rejected": "same"},
        {"prompt": "r", "chosen": "I am ChatGPT", "rejected": "b"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for new in (1, 0):
        server = serve("labels.sqlite", "--tasks", "pairs.jsonl", "--kind", "comparison")
        assert f"{new} new of 1 tasks of pairs.jsonl in project pairs" in "".join(server.lines)
        server.stop()
    errors = (tmp_path / "errors.txt").read_text()
    assert "row 2: two answers are the same" in errors
    assert "row 3: an answer names chatgpt" in errors


def test_a_project_is_described_by_a_yaml_file(serve, tmp_path):
    (tmp_path / "help.yaml").write_text(
        "name: helpfulness\nkind: rating\nneed: 2\nguidelines: Be **fair**.\n"
        "form: {scales: [{name: clear, label: Clear, low: 1, high: 5, help: Easy to read?}]}\n"
    )
    server = serve("labels.sqlite", "--project", "help.yaml")
    (project,) = server.client().get("/api/v1/projects").json()
    assert (project["name"], project["schema"]["scales"][0]["high"]) == ("helpfulness", 5)
    assert "<strong>fair</strong>" in project["guidelines_html"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("desk",), "name a store"),
        (("desk", "a.sqlite", "--host", "0.0.0.0", "--port", "0"), "--behind-proxy"),
        (("desk", "a.sqlite", "--behind-proxy", "nonsense", "--port", "0"), "https://HOST"),
        (("desk", "a.sqlite", "--tasks", "nope.jsonl", "--port", "0"), "does not exist"),
        (("desk", "a.sqlite", "--project", "nope", "--port", "0"), "there is no project 'nope' yet"),
        (("desk", "a.sqlite", "--project", "p", "--kind", "nonsense", "--port", "0"), "no kind 'nonsense'"),
        (("desk", "mysql://x/y", "--port", "0"), "postgresql://"),
    ],
)
def test_wrong_use_is_one_line(arguments, says, tmp_path):
    result = clew(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_told(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = clew("desk", "a.sqlite", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert result.returncode == 2
    assert "give another --port" in result.stderr


def test_a_missing_extra_is_one_line_of_advice(tmp_path):
    script = (
        "import sys, importlib.util; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'fastapi' else real(name, *a)\n"
        "sys.argv = ['clew', 'desk', 'a.sqlite']; from clew.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "clew: the desk needs fastapi; pip install 'clew[server]'\n"


def test_the_web_side_runs_without_torch():
    modules = "clew.web.app, clew.web.serve, clew.web.fill, clew.cli_desk"
    script = f"import sys, {modules}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_client_that_sends_no_headers_is_not_waited_for(serve):
    """Slow Loris: half a request, and then nothing."""
    server = serve("a.sqlite")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        connection.settimeout(15)
        assert connection.recv(100) == b""
    assert httpx.get(f"{server.url}/healthz", headers=HEADERS).json() == {"ok": True}
