import asyncio
import importlib.util
import json
import signal
import socket
import subprocess
import sys

import pytest

from clew.cli import main
from clew.feedback.store import Store
from clew.web.app import create_app
from clew.web.gate import Place
from clew.web.limits import Limits
from clew.web.serve import listen, server_of


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
        "form: {scales: [{name: clear, label: Clear, low: 1, high: 5, help: Easy to read}]}\n"
    )
    server = serve("labels.sqlite", "--project", "help.yaml")
    (project,) = server.client().get("/api/v1/projects").json()
    assert (project["name"], project["schema"]["scales"][0]["high"]) == ("helpfulness", 5)
    assert "<strong>fair</strong>" in project["guidelines_html"]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """What the command says where it does not serve, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["clew", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run


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
def test_wrong_use_is_told_in_a_line(refused, arguments, says):
    told = refused(*arguments)
    assert says in told
    assert told.startswith("clew: ")
    assert "Traceback" not in told


def test_a_port_in_use_is_told(refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "give another --port" in refused("desk", "a.sqlite", "--port", str(taken.getsockname()[1]))


def test_a_missing_extra_is_one_line_of_advice(refused, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "fastapi" else real(name, *a))
    assert refused("desk", "a.sqlite") == "clew: the desk needs fastapi; pip install 'clew[server]'\n"


def test_the_web_side_runs_without_torch():
    modules = "clew.web.app, clew.web.serve, clew.web.fill, clew.cli_desk"
    script = f"import sys, {modules}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_client_that_does_not_finish_its_headers_is_not_waited_for(office):
    """Slow Loris: half a request, and then nothing; the second on a connection as the first."""
    place = Place("http://127.0.0.1", frozenset({"127.0.0.1"}))
    app = create_app(office.desk, place, media_folder=office.media)
    opened = listen("127.0.0.1", 0)
    server = server_of(app, Limits(header_timeout_s=0.3))

    async def attack(begin):
        reader, writer = await asyncio.open_connection(*opened.getsockname())
        writer.write(begin)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    async def run():
        serving = asyncio.create_task(server.serve(sockets=[opened]))
        while not server.started:
            await asyncio.sleep(0.01)
        whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        answers = [await attack(b""), await attack(whole[:30]), await attack(whole + whole[:30])]
        server.should_exit = True
        await serving
        return answers

    nothing, half, second = asyncio.run(run())
    assert (nothing, half) == (b"", b"")
    assert second.count(b"200 OK") == 1
