"""Killed at any moment, a run goes on and ends bit-identical to one that nobody disturbed."""

import json
import multiprocessing
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from clew.cli import app
from clew.config import Config
from clew.durable import read_lines
from clew.evaluate.report import write_report
from clew.runs import NoState, Run, RunExists

from .conftest import assert_same, configured, metrics, run_recipe

KILLS = 3


def in_child(name: str, out: Path, values: dict, kill_after_s: float | None = None) -> int:
    """Run a recipe in a forked process, killed after a while; its exit code."""
    child = multiprocessing.get_context("fork").Process(target=run_recipe, args=(name, out, values))
    child.start()
    child.join(kill_after_s)
    if child.is_alive():
        child.kill()
        child.join()
    assert child.exitcode in (0, -signal.SIGKILL), "the recipe failed"
    return child.exitcode


@pytest.mark.parametrize(
    ("name", "adapted"),
    [("pretrain", False), *((n, a) for n in ("sft", "reward", "preference", "rl") for a in (False, True))],
)
def test_killed_at_random_moments_it_ends_bit_identical(name, adapted, world, tmp_path, monkeypatch):
    monkeypatch.setattr("clew.recipes.reward.check_reload", lambda *a, **k: None)  # only reads
    values = configured(name, world, adapted=adapted)
    began = time.monotonic()
    assert in_child(name, tmp_path / "whole", values) == 0
    lasted = time.monotonic() - began
    rng = np.random.default_rng(sum(map(ord, name)))
    for _ in range(KILLS):  # each life is short enough that three of them do not reach the end
        assert in_child(name, tmp_path / "killed", values, float(rng.uniform(0.1, 0.33)) * lasted) == -signal.SIGKILL
    assert in_child(name, tmp_path / "killed", values) == 0
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_what_is_learnt_of_raters_survives_kills(world, tmp_path, monkeypatch):
    monkeypatch.setattr("clew.recipes.reward.check_reload", lambda *a, **k: None)
    values = configured("reward", world) | {"data": {"path": world["votes"]}, "loss": "crowd_bt", "save_every": 2}
    assert in_child("reward", tmp_path / "whole", values) == 0
    for after in (0.5, 0.8):
        in_child("reward", tmp_path / "killed", values, kill_after_s=after)
    assert in_child("reward", tmp_path / "killed", values) == 0
    assert_same(tmp_path / "whole", tmp_path / "killed")
    known = [
        json.loads((tmp_path / name / "model" / "clew.json").read_text())["raters"] for name in ("whole", "killed")
    ]
    assert known[0] == known[1]


def test_labels_survive_kills(world, tmp_path):
    values = configured("label", world) | {"batch": 4}
    assert in_child("label", tmp_path / "whole", values) == 0
    for after in (0.4, 0.6, 0.8):
        in_child("label", tmp_path / "killed", values, kill_after_s=after)
    assert in_child("label", tmp_path / "killed", values) == 0
    for export in ("pairs", "rankings", "scores"):
        assert (tmp_path / "whole" / f"{export}.jsonl").read_text() == (
            tmp_path / "killed" / f"{export}.jsonl"
        ).read_text()


def test_every_step_can_be_the_last(world, tmp_path, monkeypatch):
    """Interrupted right after each step in turn, deterministically: no metric row lost or doubled."""
    from clew.runs import Run

    values = configured("rl", world) | {"steps": 5, "save_every": 2}
    run_recipe("rl", tmp_path / "whole", values)
    log = Run._log
    for last in range(4):

        def stop(self, step, last=last):
            log(self, step)
            if step.number == last:
                raise RuntimeError("power cut")

        monkeypatch.setattr(Run, "_log", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            run_recipe("rl", tmp_path / "cut", values)
    monkeypatch.setattr(Run, "_log", log)
    run_recipe("rl", tmp_path / "cut", values)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_the_journal_is_read_not_sampled_again(world, tmp_path, monkeypatch):
    """Rollouts of a step that was not yet covered by a checkpoint come from the journal, remote scores with them."""
    from clew.recipes import rl

    values = configured("rl", world) | {"steps": 4, "save_every": 100}
    run_recipe("rl", tmp_path / "whole", values)
    steps: list[int] = []
    original = rl.drawn

    def counting(*args):
        steps.append(args[-1][1])
        if len(steps) == 4:
            raise RuntimeError("power cut")
        return original(*args)

    monkeypatch.setattr(rl, "drawn", counting)
    with pytest.raises(RuntimeError):
        run_recipe("rl", tmp_path / "cut", values)
    run_recipe("rl", tmp_path / "cut", values)
    assert steps == [0, 1, 2, 3, 3]
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_the_reference_of_rows_that_stay_is_asked_once_and_the_cache_changes_no_bit(world, tmp_path, monkeypatch):
    pairs = {"path": world["pairs"], "part": "train", "heldout": 0.3}
    values = configured("preference", world) | {"data": pairs, "heldout": {}, "cache": str(tmp_path / "cache")}
    run_recipe("preference", tmp_path / "without", values | {"cache": None})
    run_recipe("preference", tmp_path / "cold", values)
    asked = []
    monkeypatch.setattr("clew.models.remembered.row_logps", lambda *a, **k: asked.append(a))
    run_recipe("preference", tmp_path / "warm", values)
    assert not asked
    for folder in ("cold", "warm"):
        assert_same(tmp_path / "without", tmp_path / folder)
        result = [(tmp_path / f / "result.json").read_text() for f in ("without", folder)]
        assert result[0] == result[1]
    notes = (tmp_path / "warm" / "notes.jsonl").read_text()
    assert notes.count(" from the cache") == 2, "the rows to learn from, and those held out"
    monkeypatch.undo()
    run_interrupted("preference", tmp_path / "moved", values, after=3)
    run_recipe("preference", tmp_path / "moved", values | {"cache": str(tmp_path / "other")})
    assert_same(tmp_path / "without", tmp_path / "moved")


def test_a_damaged_checkpoint_is_left_for_an_older_one(world, tmp_path, monkeypatch):
    values = configured("sft", world) | {"keep": None}
    run_recipe("sft", tmp_path / "whole", values)
    run_recipe("sft", tmp_path / "hurt", values)
    newest = sorted((tmp_path / "hurt" / "checkpoints").iterdir())[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7] + b"garbage")
    info = tmp_path / "hurt" / "run.json"
    info.write_text(info.read_text().replace("finished", "running"))
    run_recipe("sft", tmp_path / "hurt", values)
    assert_same(tmp_path / "whole", tmp_path / "hurt")
    assert "is damaged (model.safetensors does not match its hash)" in (tmp_path / "hurt" / "notes.jsonl").read_text()


def run_interrupted(name: str, out: Path, values: dict, *, after: int) -> None:
    """Run a recipe that gets Ctrl-C once it has logged a step."""
    log = Run._log

    def interrupt(self, step):
        log(self, step)
        if step.number == after:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "_log", interrupt)
        run_recipe(name, out, values)


def test_ctrl_c_finishes_the_step_saves_and_goes_on_later(world, tmp_path):
    values = configured("sft", world)
    run_recipe("sft", tmp_path / "whole", values)
    run_interrupted("sft", tmp_path / "stopped", values, after=10)
    assert (tmp_path / "stopped" / "checkpoints" / "checkpoint-000011").is_dir()
    run_recipe("sft", tmp_path / "stopped", values)
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_another_configuration_does_not_go_on_in_the_same_place(world, tmp_path):
    values = configured("sft", world)
    run_recipe("sft", tmp_path / "run", values)
    with pytest.raises(RunExists, match=r"holds a run of another configuration \(learner.lr: 0.003 -> 0.1\)"):
        run_recipe("sft", tmp_path / "run", values | {"learner": {"lr": 0.1}})


def test_a_run_that_failed_before_its_first_step_may_be_corrected(world, tmp_path):
    values = configured("sft", world)
    with pytest.raises(FileNotFoundError):
        run_recipe("sft", tmp_path / "run", values | {"data": {"path": "missing.jsonl"}})
    assert (run_recipe("sft", tmp_path / "run", values) / "model").is_dir()


def test_a_finished_run_is_not_done_again(world, tmp_path, monkeypatch):
    values = configured("sft", world)
    out = run_recipe("sft", tmp_path / "run", values)
    before = (out / "model" / "model.safetensors").stat().st_mtime_ns
    run_recipe("sft", tmp_path / "run", values)
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == before


def evaluation(world, **changes):
    policies = {"PPO": world["model"], "other": world["model"]}
    return {
        "baseline": world["model"], "policies": policies, "data": {"path": world["prompts"]}, "max_tokens": 8,
        "encoding": {"max_length": 128}, "proxy": world["reward"], "gold": "clew.data.grammar:gold", **changes,
    }  # fmt: skip


def test_an_interrupted_evaluation_keeps_what_it_measured(world, tmp_path):
    whole = run_recipe("evaluate", tmp_path / "whole", evaluation(world))
    run_interrupted("evaluate", tmp_path / "stopped", evaluation(world), after=1)
    stopped = run_recipe("evaluate", tmp_path / "stopped", evaluation(world))
    assert (stopped / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()
    assert (stopped / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()


def test_greedy_evaluation_has_numbers(world, tmp_path):
    out = run_recipe("evaluate", tmp_path / "greedy", evaluation(world, temperature=0))
    assert "NaN" not in (out / "evaluation.json").read_text()


def test_an_evaluation_without_gold_goes_by_proxy_kl_and_alarms(world, tmp_path):
    out = run_recipe("evaluate", tmp_path / "no_gold", evaluation(world, gold=None))
    assert [sorted(row) for row in metrics(out)] == [["kl", "proxy", "step"]] * 3
    assert "PPO" in write_report(out, tmp_path / "report.html").read_text()


def test_line_separators_in_texts_do_not_cut_rows(tmp_path):
    class Nothing(Config):
        out: str = ""

    run = Run(Nothing(), tmp_path, "none")
    for step in run.steps(2, NoState(), save_every=1, keep=1):
        step.samples([{"text": "a\u2028b\x85c"}])
    again = Run(Nothing(), tmp_path, "none")
    assert list(again.steps(2, NoState(), save_every=1, keep=1)) == []
    assert len(read_lines(tmp_path / "samples.jsonl")) == 2


def test_a_run_killed_in_its_first_write_begins_again(world, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml.partial").write_text("out: x")
    assert (run_recipe("sft", tmp_path / "run", configured("sft", world)) / "model").is_dir()


def test_the_state_of_a_run_says_how_it_ended(world, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    values = configured("sft", world)
    run_interrupted("sft", tmp_path / "stopped", values, after=2)
    with pytest.raises(FileNotFoundError):
        run_recipe("sft", tmp_path / "failed", values | {"data": {"path": "missing.jsonl"}})
    assert in_child("sft", tmp_path / "killed", values | {"epochs": 1000.0}, 3.0) == -signal.SIGKILL
    shown = CliRunner().invoke(app, ["runs", str(tmp_path)]).output
    assert re.search(r"stopped +sft +stopped", shown)
    assert re.search(r"failed +sft +failed: missing.jsonl", shown)
    assert re.search(r"killed +sft +killed", shown)
    run_recipe("sft", tmp_path / "stopped", values)
    assert re.search(r"stopped +sft +finished ", CliRunner().invoke(app, ["runs", str(tmp_path)]).output)
