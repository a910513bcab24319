"""What judges an evaluation: a reward model, a function, both, or nobody; and what is said of the judges."""

import json

import pytest

from clew.config import ConfigError
from clew.evaluate.report import write_report

from .conftest import configured, run_recipe

GOLD = "clew.data.grammar:gold"


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A policy that learnt from a function."""
    values = configured("rl", world) | {
        "reward": [{"function": GOLD}], "critic": None, "advantages": "group_mean", "group": 2, "steps": 1,
    }  # fmt: skip
    return str(run_recipe("rl", tmp_path_factory.mktemp("trained") / "grpo", values))


def evaluated(world, trained, out, **changes):
    values = {
        "baseline": world["model"], "policies": {"GRPO": trained}, "data": {"path": world["prompts"], "limit": 12},
        "max_tokens": 8, "encoding": {"max_length": 128},
    }  # fmt: skip
    run_recipe("evaluate", out, values | changes)
    return json.loads((out / "evaluation.json").read_text()), (out / "notes.jsonl").read_text()


def test_a_function_may_be_the_proxy_and_no_reward_model_is_needed(world, trained, tmp_path):
    found, notes = evaluated(world, trained, tmp_path / "run", proxy={"function": GOLD})
    point = found["points"][-1]
    assert point["proxy_gain"]["low"] <= point["proxy_gain"]["value"] <= point["proxy_gain"]["high"]
    states = {f["rule"]: f["state"] for f in point["findings"]}
    assert states["gap"] == states["disagreement"] == "not measured"
    assert found["judges"] == [f"Proxy is {GOLD}, the reward that GRPO learnt from."]
    assert "GRPO: no gold, the proxy says" in notes
    assert "<b>GRPO</b>: " in write_report(tmp_path / "run", tmp_path / "r.html").read_text()


def test_the_proxy_is_a_folder_a_function_or_a_sum_like_the_reward_of_rl(world, trained, tmp_path):
    means = {}
    for name, proxy in {
        "folder": world["reward"],
        "function": GOLD,
        "sum": [{"model": world["reward"]}, {"function": GOLD, "weight": 2.0}],
    }.items():
        found, _ = evaluated(world, trained, tmp_path / name, proxy=proxy)
        means[name] = found["points"][-1]["proxy"]["value"]
    assert means["sum"] == pytest.approx(means["folder"] + 2 * means["function"])


def test_nobody_need_judge(world, trained, tmp_path):
    found, notes = evaluated(world, trained, tmp_path / "run", heldout=[world["reward"]])
    assert found["judges"] == []
    assert found["points"][-1]["signs"]["proxy"] is None
    assert found["points"][-1]["signs"]["heldout"] is not None
    assert "GRPO: no judge was asked, KL" in notes
    assert "no judge was asked" in write_report(tmp_path / "run", tmp_path / "r.html").read_text()


def test_gold_that_was_trained_on_and_answers_that_were_cut_are_warned_of(world, trained, tmp_path):
    found, notes = evaluated(world, trained, tmp_path / "run", gold=GOLD, max_tokens=1)
    learnt, cut = found["warnings"]
    assert learnt == f"gold, {GOLD}, is what GRPO learnt from: no independent judge of GRPO"
    assert cut.startswith("most answers of baseline and GRPO were cut at max_tokens: 1; raise it, or look whether")
    assert all(f"warning: {warning}" in notes for warning in found["warnings"])
    assert "alarms: none (watch: cut" in notes


def test_a_proxy_that_is_neither_is_explained(world, trained, tmp_path):
    with pytest.raises(ConfigError, match="a reward is either a model or a function"):
        evaluated(world, trained, tmp_path / "run", proxy={"weight": 2.0})
