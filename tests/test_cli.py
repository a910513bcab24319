import os
import signal
import subprocess
import sys
import time

import pytest

from clew.data.check import USES


def clew(*arguments: str, cwd=None, env=None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clew", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | (env or {}))


def test_the_commands_are_these():
    out = clew("--help").stdout
    for command in (
        "run",
        "try",
        "sft",
        "reward",
        "preference",
        "rl",
        "label",
        "evaluate",
        "pretrain",
        "verify",
        "report",
    ):
        assert command in out


@pytest.mark.parametrize(
    "module", ["clew", "clew.cli", "clew.pipeline", "clew.config", "clew.runs", "clew.track", "clew.types"]
    + [f"clew.feedback.{m}" for m in ("records", "store", "aggregate", "raters", "export")]
    + ["clew.data.sources", "clew.evaluate.winrate", "clew.evaluate.hacking"],
)  # fmt: skip
def test_the_feedback_side_runs_without_torch(module):
    script = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


SLOW = {
    "asyncio", "clew.config", "jinja2", "matplotlib", "numpy", "scipy", "sqlalchemy", "torch", "transformers", "yaml",
}  # fmt: skip
"""What takes 10 ms and more to import, and no help text needs. (pydantic is typer's own, where there are options.)"""


@pytest.mark.parametrize("arguments", [("--help",), ("version",), ("sft", "--help"), ("data", "check", "--help")])
def test_help_and_version_import_nothing_slow(arguments):
    script = (
        f"import sys; sys.argv = ['clew', *{arguments}]; from clew.cli import main\n"
        "try: main()\n"
        f"finally: print('imported', *sorted({SLOW} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "imported"


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "does not exist"), ("a: [", "is not YAML"), ("text", "expected keys with values")],
)
def test_a_recipe_file_that_cannot_be_read_is_told_before_torch_is_imported(content, says, tmp_path):
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
    script = "import sys; sys.modules['torch'] = None; sys.argv = ['clew', 'sft', 'c.yaml']; from clew.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert says in result.stderr


def test_the_help_of_data_check_names_every_method():
    assert f"One of {', '.join(USES)}." in clew("data", "check", "--help", env={"COLUMNS": "200"}).stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "nope"), "clew: no pipeline 'nope'"),
        (("sft", "nope.yaml"), "clew: nope.yaml does not exist"),
        (("report", "."), "clew: . holds no run"),
        (("nosuch",), "No such command 'nosuch'"),
        (("run",), "Missing argument"),
    ],
)
def test_wrong_use_is_one_line_without_a_traceback(arguments, says, tmp_path):
    result = clew(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_not_installed_is_named_with_the_extra_that_has_it(tmp_path):
    script = "import sys; sys.modules['torch'] = None; sys.argv = ['clew', 'verify']; from clew.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert "pip install 'clew[train]'" in result.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    overrides = ["out=runs", "base.steps=100000", "data.files.corpus.num=100", "data.files.demonstrations.num=10"]
    command = [sys.executable, "-m", "clew", "run", "quickstart", *overrides]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    metrics, deadline = tmp_path / "runs/base/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "base: saved after step" in errors
    assert f"stopped; the same command goes on from there: clew run quickstart {' '.join(overrides)}\n" in errors
    assert len(list(tmp_path.glob("runs/base/checkpoints/checkpoint-*"))) == 1


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in clew("--debug", "run", "nope", cwd=tmp_path).stderr


def test_show_prints_the_resolved_configuration(tmp_path):
    (tmp_path / "c.yaml").write_text("out: x\nmodel: m\ndata: {path: d.jsonl}\n")
    result = clew("sft", "c.yaml", "learner.lr=0.5", "--show", cwd=tmp_path)
    assert "lr: 0.5" in result.stdout
    assert "truncation: error" in result.stdout


def test_runs_are_listed_and_compared(tmp_path):
    for name, num in (("a", 3), ("b", 4)):
        config = f"out: runs/{name}\nfiles: {{p: {{name: 'clew.data.grammar:prompts', num: {num}, seed: 0}}}}\n"
        (tmp_path / "c.yaml").write_text(config)
        assert clew("prepare", "c.yaml", cwd=tmp_path).returncode == 0
    listed = clew("runs", cwd=tmp_path).stdout
    assert [line.split()[:3] for line in listed.splitlines()[1:]] == [
        ["a", "prepare", "finished"],
        ["b", "prepare", "finished"],
    ]
    assert clew("diff", "runs/a", "runs/b", cwd=tmp_path).stdout.strip() == "files.p.num: 3 -> 4"
    assert "runs/c is no run directory" in clew("diff", "runs/a", "runs/c", cwd=tmp_path).stderr


def test_the_options_of_a_recipe_are_listed_without_a_file(tmp_path):
    lines = clew("rl", "--options", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("kl")][:2] == ["kl", "kl.coefficient"]
    assert any(line.split()[:4] == ["learner.lr", "number", "1e-06", "(>"] for line in lines)
    assert "--options" in clew("rl", "--help").stdout


def test_a_file_that_is_not_there_is_told_with_the_folder_it_was_sought_in(tmp_path):
    (tmp_path / "hh").mkdir()
    (tmp_path / "hh" / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "hh" / "c.yaml").write_text("out: runs/sft\nmodel: gpt2\ndata: {path: hh/train.jsonl}\n")
    result = clew("sft", "c.yaml", cwd=tmp_path / "hh")
    assert result.returncode == 2
    assert f"hh/train.jsonl does not exist (paths are relative to the current folder, {tmp_path}/hh)" in result.stderr
    assert not (tmp_path / "hh" / "runs").exists()
