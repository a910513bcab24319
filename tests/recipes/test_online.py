"""Online and iterative DPO and SPIN, run for real on a small model: what they learn, keep and refuse."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from clew.config import ConfigError, build
from clew.data.sources import Source
from clew.recipes.online import Online

from .conftest import assert_same, metrics, run_recipe, write
from .test_resume import run_interrupted

WORDS = [{"function": "tests.recipes.test_online:fewest_words"}]
ROUNDS = {"round": 3, "sampler": "round", "anchor": "round"}


def configured(world, **options):
    return {
        "model": world["model"], "encoding": {"max_length": 128}, "data": {"path": world["prompts"]}, "max_tokens": 16,
        "steps": 6, "prompts": 8, "learner": {"lr": 1e-3, "schedule": "constant"}, "save_every": 2, "reward": WORDS, **options,
    }  # fmt: skip


def fewest_words(prompts, completions):
    return [-float(len(c.split())) for c in completions]


def spin(world, **options):
    data = {"path": world["demonstrations"]}
    return configured(world, opponent="data", data=data, reward=[], answers=1, **ROUNDS, **options)


def test_online_dpo_raises_a_reward_that_a_tiny_model_can_raise(world, tmp_path):
    values = configured(world, steps=12, answers=4, learner={"lr": 1e-2, "schedule": "constant"})
    rows = metrics(run_recipe("online", tmp_path / "run", values))
    assert sum(r["objective/scores"] for r in rows[-4:]) > sum(r["objective/scores"] for r in rows[:4]) + 8
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["objective/kl"] > 0.1
    ledger = json.loads((tmp_path / "run" / "run.json").read_text())["ledger"]
    assert ledger["tokens_generated"] > 500
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")


@pytest.mark.parametrize("anchor", ["start", "round"])
def test_the_reference_is_kept_or_moves_when_a_round_begins(anchor, world, tmp_path):
    values = configured(world, round=3, sampler="round", anchor=anchor, learner={"lr": 5e-3, "schedule": "constant"})
    rows = metrics(run_recipe("online", tmp_path / "run", values))
    at_start = [step for step, row in enumerate(rows) if abs(row["rewards/margins"]) < 1e-5]
    assert at_start == ([0] if anchor == "start" else [0, 3])
    kls = [round(row["objective/kl"], 4) for row in rows]  # the sampler's, which moves with rounds
    assert kls[:3] == [0, 0, 0]
    assert (kls[3:] == [0, 0, 0]) == (anchor == "round")


def test_spin_raises_what_the_data_say(world, tmp_path):
    values = spin(world, steps=8) | {"round": 4, "learner": {"lr": 3e-3, "schedule": "constant"}}
    rows = metrics(run_recipe("online", tmp_path / "run", values))
    for first in (0, 4):
        assert rows[first]["loss/pair"] == pytest.approx(0.6931, abs=1e-3)
        assert rows[first + 3]["loss/pair"] < 0.65
    assert "objective/scores" not in rows[0]


@pytest.mark.parametrize("loss", ["ipo", "simpo"])
def test_any_loss_of_pairs_and_several_updates_a_step(loss, world, tmp_path, monkeypatch):
    if loss == "simpo":
        monkeypatch.setattr("clew.pairwise.row_logps", lambda *a, **k: pytest.fail("nobody asks a reference"))
    values = configured(world, loss=loss, steps=2, epochs=2, minibatches=2, label="soft", ties="half")
    rows = metrics(run_recipe("online", tmp_path / "run", values))
    assert ("objective/kl" in rows[0]) == (loss == "ipo")
    assert rows[0]["rewards/margins"] != 0  # the mean of four updates


def test_the_reference_that_has_moved_survives_an_interruption(world, tmp_path):
    values = configured(world, label="drawn", lora={"rank": 4}, **ROUNDS) | {"prompts": 4}
    run_recipe("online", tmp_path / "whole", values)
    run_interrupted("online", tmp_path / "stopped", values, after=3)  # in the middle of the second round
    saved = tmp_path / "stopped" / "checkpoints" / "checkpoint-000004"
    now, begun = (load_file(folder / "adapter_model.safetensors") for folder in (saved, saved / "round"))
    assert any(not now[key].equal(begun[key]) for key in now)
    run_recipe("online", tmp_path / "stopped", values)
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_steps_whose_answers_all_tie_teach_nothing_and_say_so(world, tmp_path):
    values = configured(world, steps=2, reward=[{"function": f"{__name__}:all_the_same"}])
    out = run_recipe("online", tmp_path / "run", values)
    assert [row["pairs"] for row in metrics(out)] == [0, 0]
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (world["model"], out / "model"))
    assert all(torch.equal(weights, after[name]) for name, weights in before.items())


def all_the_same(prompts, completions):
    return [1.0 for _ in completions]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sampler": "round"}, "sampler: round needs round, the steps of one"),
        ({"round": 3}, "round: does nothing; set sampler or anchor to round"),
        (
            {"anchor": "round", "round": 3, "reference": "gpt2"},
            "reference: gpt2 is kept, and anchor: round moves the ref",
        ),
        ({"reward": []}, "opponent: itself compares a prompt's answers; it needs a reward, and answers: 2 or more"),
        ({"answers": 1}, "answers: 2 or more"),
        ({"opponent": "data", **ROUNDS}, "opponent: data is SPIN, .* and no reward"),
        ({"opponent": "data", "reward": []}, "set sampler: round, anchor: round and a round"),
        ({"loss": "kto"}, "no 'kto' here"),
        ({"loss": {"name": "dpo", "betta": 1}}, "dpo has no option 'betta'; did you mean 'beta'"),
    ],
)
def test_what_does_not_go_together_is_told(changes, says):
    values = {"out": "x", "model": "m", "data": {"path": "p.jsonl"}, "reward": "a.py:f", **changes}
    with pytest.raises(ConfigError, match=says):
        build(Online, values, "online")


def test_spin_without_answers_in_the_data_names_the_columns(world, tmp_path):
    with pytest.raises(ValueError, match="has a prompt and no answer to learn from"):
        run_recipe("online", tmp_path / "run", spin(world) | {"data": Source(path=world["prompts"]).model_dump()})


def test_spin_says_when_no_answer_fits(world, tmp_path):
    data = write(tmp_path / "long.jsonl", [{"prompt": "how was the soup ?", "completion": " good" * 90}])
    encoding = {"max_length": 40, "truncation": "drop"}
    with pytest.raises(ValueError, match="no prompt with its answer is left after encoding"):
        run_recipe("online", tmp_path / "run", spin(world) | {"data": {"path": data}, "encoding": encoding})
