"""Context distillation, run for real on a small model: what it learns, leaves behind and refuses."""

import json

import pytest
from transformers import AutoModelForCausalLM

from clew.config import ConfigError, build
from clew.data.example import Example
from clew.data.template import in_context
from clew.recipes.distill import Distill
from clew.types import Message

from .conftest import assert_same, metrics, run_recipe, write
from .test_resume import run_interrupted

CONTEXT = "everyone hated the soup . the room was awful . "


def configured(world, **options):
    return {
        "model": world["model"], "context": CONTEXT, "encoding": {"max_length": 128}, "batch": 8, "epochs": 0.4,
        "data": {"path": world["demonstrations"]}, "learner": {"lr": 1e-3}, "save_every": 2, **options,
    }  # fmt: skip


@pytest.mark.parametrize("top_k", [None, 5])
def test_the_student_comes_to_speak_as_its_teacher_does_with_the_context(top_k, world, tmp_path):
    taught = run_recipe(
        "sft", tmp_path / "sft", SFT | {"model": world["model"], "data": {"path": world["demonstrations"]}}
    )
    held = {"path": world["demonstrations"], "limit": 30}
    out = run_recipe(
        "distill",
        tmp_path / "run",
        configured(world, teacher=str(taught / "model"), heldout=held, top_k=top_k, learner={"lr": 5e-3}),
    )
    rows = [row["heldout/kl"] for row in metrics(out) if "heldout/kl" in row]
    assert rows[-1] < 0.9 * rows[0]
    assert json.loads((out / "result.json").read_text())["heldout"]["kl"] == pytest.approx(rows[-1], abs=1e-5)
    AutoModelForCausalLM.from_pretrained(out / "model")


SFT = {"encoding": {"max_length": 128}, "batch": 16, "epochs": 2, "learner": {"lr": 1e-2}}


def test_what_the_teacher_says_is_learnt_and_survives_an_interruption(world, tmp_path):
    values = configured(world, texts="teacher", data={"path": world["prompts"]}, epochs=0.5, max_tokens=12)
    values |= {"lora": {"rank": 4}}
    out = run_recipe("distill", tmp_path / "whole", values)
    run_interrupted("distill", tmp_path / "stopped", values, after=2)
    run_recipe("distill", tmp_path / "stopped", values)
    assert_same(tmp_path / "whole", tmp_path / "stopped")
    assert all(row["kl"] > 0 for row in metrics(out))
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert all(sample["prompt"].startswith(CONTEXT) for sample in samples)
    assert json.loads((out / "run.json").read_text())["ledger"]["tokens_generated"] > 40


def test_without_adapters_the_teacher_of_the_datas_answers_is_the_model_before(world, tmp_path):
    rows = metrics(run_recipe("distill", tmp_path / "run", configured(world, lora={"rank": 4}, epochs=0.2)))
    same = metrics(run_recipe("distill", tmp_path / "same", configured(world, epochs=0.2)))
    assert rows[0]["kl"] == pytest.approx(same[0]["kl"], rel=1e-4)


def test_a_context_stands_before_text_and_is_a_conversations_system_turn():
    ask, tell = Message("user", "how ?"), Message("assistant", "so")
    assert in_context(Example("1", "how ?", (" so",)), "be kind . ").prompt == "be kind . how ?"
    found = in_context(Example("1", (ask,), ((tell,),)), "be kind")
    assert (found.prompt, found.answers) == ((Message("system", "be kind"), ask), ((tell,),))
    assert in_context(Example("1", (), ((ask, tell),)), "be kind") == Example("1", found.prompt, found.answers)
    system = in_context(Example("1", (Message("system", "be brief"), ask), ((tell,),)), "be kind")
    assert system.prompt[0].content == "be kind\n\nbe brief"


def test_answers_that_read_otherwise_after_the_context_are_counted_and_none_left_is_told(world, tmp_path):
    encoding = {"max_length": 18, "truncation": "truncate_completion"}
    rows = [{"prompt": "how was the soup ?", "completion": " the soup was good ." * n} for n in (1, 9)]
    data = {"path": write(tmp_path / "rows.jsonl", rows)}
    values = configured(world, data=data, encoding=encoding, context="it was ", batch=1, epochs=1.0)
    out = run_recipe("distill", tmp_path / "run", values)
    assert "1 answers left out, of other tokens after the context" in (out / "notes.jsonl").read_text()
    only = {"path": write(tmp_path / "long.jsonl", rows[1:])}
    with pytest.raises(ValueError, match="none of 1 answers has the same tokens without and after the context"):
        run_recipe("distill", tmp_path / "none", values | {"data": only})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"context": ""}, "context: String should have at least 1 character"),
        ({"top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"texts": "student"}, "texts: Input should be 'data' or 'teacher'"),
        ({"contexts": "x"}, "distill has no option 'contexts'; did you mean 'context'"),
    ],
)
def test_wrong_options_are_told(changes, says):
    with pytest.raises(ConfigError, match=says):
        build(Distill, {"out": "x", "model": "m", "data": {"path": "p"}, "context": "c", **changes}, "distill")


def test_prompts_without_answers_are_for_a_teacher_that_answers(world, tmp_path):
    with pytest.raises(ValueError, match="has a prompt and no answer to learn from"):
        run_recipe("distill", tmp_path / "run", configured(world, data={"path": world["prompts"]}))
    with pytest.raises(ValueError, match="exceed .*; raise max_length"):
        run_recipe("distill", tmp_path / "long", configured(world, texts="teacher", context="the soup " * 80))
