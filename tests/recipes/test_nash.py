"""Nash learning, run for real on a small model: what it learns, keeps and refuses; preference models that it needs."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from clew.config import ConfigError, build
from clew.recipes.nash import Nash
from clew.recipes.reward import RewardConfig

from .conftest import assert_same, configured, metrics, run_recipe, write
from .test_resume import run_interrupted


def fewer_words(prompts, completions, opponents):
    """Fewer words win, the more surely the fewer."""
    return [1 / (1 + 2.0 ** (len(a.split()) - len(b.split()))) for a, b in zip(completions, opponents, strict=True)]


@pytest.mark.parametrize(
    "options",
    [
        {"opponent": "mixture", "mixture": 0.25},
        {"opponent": "mixture", "mixture": 0.0},
        {"opponent": "average", "decay": 0.5},
    ],
    ids=["mixture", "self-play", "average"],
)
def test_it_wins_against_the_reference_and_not_against_itself(options, world, tmp_path):
    values = configured("nash", world) | options | {
        "steps": 12, "prompts": 8, "learner": {"lr": 2e-2, "schedule": "constant"}, "save_every": 12, "tau": 0.001,
    }  # fmt: skip
    rows = metrics(run_recipe("nash", tmp_path / "run", values))
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["val/ratio"] == pytest.approx(1, abs=1e-3)
    assert rows[-1]["preference/reference"] > 0.75
    assert rows[-1]["objective/kl"] > 0.1
    assert rows[-1]["preference/opponent"] < rows[-1]["preference/reference"]
    assert "exploitability/lower_bound" in rows[-1]
    assert "preference/reference" not in rows[0]
    ledger = json.loads((tmp_path / "run" / "run.json").read_text())["ledger"]
    assert ledger["tokens_generated"] > 1.5 * sum(16 * row["completions/mean_length"] for row in rows)
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    sample = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[0])
    assert sample["completion"] != sample["opponent"]


@pytest.mark.parametrize("adapted", [False, True])
def test_the_average_survives_an_interruption_and_may_be_the_result(adapted, world, tmp_path):
    values = configured("nash", world, adapted=adapted) | {
        "result": "average",
        "save_every": 2,
        "steps": 4,
        "prompts": 2,
    }
    run_recipe("nash", tmp_path / "whole", values)
    run_interrupted("nash", tmp_path / "stopped", values, after=2)
    saved = tmp_path / "stopped" / "checkpoints" / "checkpoint-000003"
    name = "adapter_model.safetensors" if adapted else "model.safetensors"
    now, average = load_file(saved / name), load_file(saved / "average" / name)
    assert any(not now[key].equal(average[key]) for key in now)
    run_recipe("nash", tmp_path / "stopped", values)
    assert_same(tmp_path / "whole", tmp_path / "stopped")
    if not adapted:
        last = tmp_path / "whole" / "checkpoints" / "checkpoint-000004" / "average" / "model.safetensors"
        result = load_file(tmp_path / "whole" / "model" / "model.safetensors")
        assert all(result[key].equal(value) for key, value in load_file(last).items())


def test_the_average_is_that_of_the_weights_at_every_step(world, tmp_path):
    values = configured("nash", world) | {"steps": 3, "save_every": 1, "keep": None}
    out = run_recipe("nash", tmp_path / "run", values)
    average = load_file(Path(world["model"]) / "model.safetensors")
    for step in (1, 2, 3):
        saved = out / "checkpoints" / f"checkpoint-{step:06}"
        now = load_file(saved / "model.safetensors")
        average = {key: 0.8 * value + 0.2 * now[key] for key, value in average.items()}
    stored = load_file(saved / "average" / "model.safetensors")
    for key, value in average.items():
        torch.testing.assert_close(stored[key], value, atol=1e-7, rtol=1e-6)


CIRCLE = [" good", " bad", " lovely"]
"""Each beats the next, the last the first."""


def test_a_preference_model_learns_what_goes_in_a_circle_and_a_reward_model_cannot(world, tmp_path, monkeypatch):
    monkeypatch.setattr("clew.recipes.reward.check_reload", lambda *a, **k: None)
    pairs = [{"prompt": "how was the soup ?", "chosen": CIRCLE[i], "rejected": CIRCLE[(i + 1) % 3]} for i in range(3)]
    file = {"path": write(tmp_path / "pairs.jsonl", pairs * 8)}
    values = configured("reward", world) | {
        "data": file, "heldout": file, "epochs": 20, "batch": 24, "save_every": 100,
        "learner": {"lr": 5e-3, "schedule": "constant"},
    }  # fmt: skip
    found = {}
    for reads in ("pairs", "answers"):
        out = run_recipe("reward", tmp_path / reads, values | {"reads": reads})
        found[reads] = json.loads((out / "result.json").read_text())["heldout"]["accuracy"]
        assert json.loads((out / "model" / "clew.json").read_text())["reads_pairs"] == (reads == "pairs")
    assert found["pairs"] == 1.0
    assert found["answers"] <= 2 / 3 + 1e-6
    against = configured("nash", world) | {"preference": str(tmp_path / "pairs" / "model"), "steps": 1}
    (row,) = metrics(run_recipe("nash", tmp_path / "nash", against))
    assert 0 < row["preference/opponent"] < 1


def test_a_preference_model_resumes_bit_identical(world, tmp_path, monkeypatch):
    monkeypatch.setattr("clew.recipes.reward.check_reload", lambda *a, **k: None)
    values = configured("reward", world) | {"reads": "pairs", "epochs": 0.6, "save_every": 2}
    run_recipe("reward", tmp_path / "whole", values)
    run_interrupted("reward", tmp_path / "stopped", values, after=3)
    run_recipe("reward", tmp_path / "stopped", values)
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_single_answers_are_nothing_to_prefer(world, tmp_path):
    values = configured("reward", world) | {"reads": "pairs", "data": {"path": world["ratings"]}}
    with pytest.raises(
        ConfigError, match=r"reads: pairs compares answers; .*ratings.jsonl has no two of which one is better"
    ):
        run_recipe("reward", tmp_path / "run", values)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"result": "average"}, "result: average needs opponent: average, .* got opponent: mixture"),
        ({"mixture": 1.5}, "nash: mixture: .* less than or equal to 1; got 1.5"),
        ({"tau": 0}, "nash: tau: .* greater than 0; got 0"),
        ({"preference": {}}, "a preference is either a model or a function"),
        ({"preference": {"function": "no_place"}}, "'no_place' names no function; expected importable_module:name"),
        ({"opponent": "ema"}, "nash: opponent: .*'mixture' or 'average'; got 'ema'"),
    ],
)
def test_what_does_not_go_together_is_told(changes, says):
    values = {"out": "x", "model": "m", "data": {"path": "p.jsonl"}, "preference": "a.py:f", **changes}
    with pytest.raises(ConfigError, match=says):
        build(Nash, values, "nash")


@pytest.mark.parametrize("changes", [{"loss": "thumbs"}, {"centring": 0.1}, {"reference": {"path": "r.jsonl"}}])
def test_a_preference_model_has_no_offset(changes):
    values = {"out": "x", "model": "m", "data": {"path": "p.jsonl"}, "reads": "pairs", **changes}
    with pytest.raises(ConfigError, match=r"reads: pairs learns from comparisons.*take bradley_terry and leave"):
        build(RewardConfig, values, "reward")
