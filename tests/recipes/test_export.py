"""What becomes of a finished run: exported for others, talked to."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from clew.cli import app
from clew.config import ConfigError
from clew.data.sources import Source, load_examples
from clew.export import export, weights_of
from clew.models.reload import ReloadMismatch

from .conftest import configured, run_recipe

SFT = {"epochs": 1.0, "save_every": 4, "keep": None}


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):
    """A fine-tuned run with adapters, and a reward model."""
    folder = tmp_path_factory.mktemp("runs")
    run_recipe(
        "sft",
        folder / "sft",
        configured("sft", world, adapted=True) | SFT | {"heldout": {"path": world["demonstrations"]}},
    )
    run_recipe("reward", folder / "rm", configured("reward", world) | {"epochs": 0.5})
    return folder


def logits(folder, kind=AutoModelForCausalLM, **options):
    with torch.no_grad():
        return kind.from_pretrained(folder, dtype=torch.float32, **options)(torch.tensor([[1, 5, 6, 7, 8]])).logits


def test_an_exported_policy_is_the_run_and_says_what_it_is(runs, tmp_path, monkeypatch, fresh_process):
    out = export(runs / "sft", tmp_path / "out")
    assert logits(out).equal(logits(runs / "sft" / "model"))
    assert AutoTokenizer.from_pretrained(out).eos_token == "</s>"
    assert not (out / "adapter").exists()  # of a base that nobody else has
    about = (out / "README.md").read_text()
    assert about.startswith("---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- clew\n- sft\n")
    assert "| heldout/nll | " in about
    assert "lora:\n  rank: 4" in about
    assert "from `base`, which is from `scratch`" in about
    monkeypatch.chdir(tmp_path)
    exec(compile(re.search(r"```python\n(.*?)```", about, re.S)[1], "README.md", "exec"), {})


def test_a_checkpoint_or_the_best_one_can_be_exported(runs, tmp_path):
    rows = [json.loads(line) for line in (runs / "sft" / "metrics.jsonl").read_text().splitlines()]
    eighth = export(runs / "sft", tmp_path / "eighth", checkpoint="8")
    assert not logits(eighth).equal(logits(runs / "sft" / "model"))
    card = (eighth / "README.md").read_text()
    assert "After step 8." in card
    assert f"| heldout/nll | {rows[7]['heldout/nll']:.4g} |" in card
    best = min((row["heldout/nll"], row["step"] + 1) for row in rows if "heldout/nll" in row)[1]
    assert weights_of(runs / "sft", "best").name == f"checkpoint-{best:06}"


def test_the_best_by_a_judge_that_was_not_trained_on(runs, tmp_path, monkeypatch):
    points = [
        ("model", 0.1, 0.9),
        ("checkpoints/checkpoint-000004", 0.4, 0.3),
        ("checkpoints/checkpoint-000008", 0.2, 0.5),
    ]

    def evaluated(with_gold):
        rows = [
            {"folder": str(run / place), "signs": {"heldout": held}, "proxy": {"value": 9.0}}
            | ({"gold": {"value": gold}} if with_gold else {})
            for place, gold, held in points
        ]
        (tmp_path / "evaluation").mkdir(exist_ok=True)
        (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps({"points": rows}))
        return weights_of(run, "best").name

    run = tmp_path / "ppo"
    for place, *_ in points:
        (run / place).mkdir(parents=True)
    (run / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="nothing says which checkpoint of .* is best"):
        weights_of(run, "best")
    assert evaluated(with_gold=True) == "checkpoint-000004"
    assert evaluated(with_gold=False) == "model"
    monkeypatch.chdir(tmp_path)
    assert weights_of(Path("ppo"), "best").name == "model"


def test_a_reward_model_is_exported_with_its_head(runs, tmp_path, monkeypatch):
    out = export(runs / "rm", tmp_path / "out", half=True)
    found = logits(out, AutoModelForSequenceClassification, num_labels=1)
    expected = logits(runs / "rm" / "model", AutoModelForSequenceClassification, num_labels=1)
    assert found == pytest.approx(expected, abs=0.05)
    assert not found.equal(expected)
    assert (out / "model.safetensors").stat().st_size < 0.6 * (
        runs / "rm" / "model" / "model.safetensors"
    ).stat().st_size
    about = (out / "README.md").read_text()
    assert "pipeline_tag: text-classification" in about
    monkeypatch.chdir(tmp_path)
    exec(compile(re.search(r"```python\n(.*?)```", about, re.S)[1], "README.md", "exec"), {})


def test_what_cannot_be_exported_is_told(runs, tmp_path, monkeypatch):
    for run, options, says in (
        (tmp_path, {}, "is no run directory; `clew runs` lists what is one"),
        (runs, {}, "is no run directory; it holds the runs rm, sft: name one"),
        (
            runs / "sft",
            {"checkpoint": "7"},
            r"has no checkpoint '7'; expected result, best, or one of its checkpoints: 4, 8, 12",
        ),
    ):
        with pytest.raises(ConfigError, match=says):
            export(run, tmp_path / "out", **options)
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="there is there already; name another folder, or delete it"):
        export(runs / "sft", tmp_path / "there")
    monkeypatch.setattr("clew.models.policy.Policy.save", lambda self, folder: forgetful(self, folder))
    with pytest.raises(ReloadMismatch, match="what was trained was not saved"):
        export(runs / "sft", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def forgetful(policy, folder):
    """Saves a model that is not the trained one."""
    kept = {name: p.clone() for name, p in policy.module.named_parameters()}
    with torch.no_grad():
        next(policy.module.parameters()).mul_(0.5)
    policy.module.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    policy.module.load_state_dict(kept, strict=False)


def chat(*arguments, typed):
    return CliRunner().invoke(app, ["chat", *map(str, arguments)], input=typed)


def test_two_models_side_by_side_and_what_is_better_is_kept(runs, tmp_path, world):
    typed = "how was the soup ?\n2\nand the room ?\n-\n\nhow was the bed ?\n1\n"
    kept = tmp_path / "pairs.jsonl"
    found = chat(
        runs / "sft", world["model"], "--max-tokens", "8", "--save", kept, "--template", "transcript", typed=typed
    )
    assert found.exit_code == 0, found.output
    assert "a new conversation" in found.output
    one, two = load_examples(Source(path=str(kept)))
    assert [m.content for m in one.prompt] == ["how was the soup ?"]
    assert [m.content for m in two.prompt] == ["how was the bed ?"]
    assert one.answers[0] != one.answers[1]
    assert json.loads(kept.read_text().splitlines()[0])["cut"]


def test_whom_one_cannot_talk_to(runs):
    assert "is a reward model: it scores and does not speak" in str(chat(runs / "rm", typed="hello\n").exception)
    assert "one model to talk to, or two side by side; got 3" in str(chat("a", "b", "c", typed="").exception)
    assert "--save keeps which of two answers is better" in str(chat(runs / "sft", "--save", "x", typed="").exception)


def test_an_answer_is_shown_as_it_is_and_cut_to_fit_the_context(runs, monkeypatch):
    from clew.engines.local import LocalEngine

    generate, asked = LocalEngine.generate, []

    def marked(self, prompts, *, n, sampling, key):
        asked.append(sampling.max_tokens)
        return [replace(r, text=" a [/b] [bold]c") for r in generate(self, prompts, n=n, sampling=sampling, key=key)]

    monkeypatch.setattr(LocalEngine, "generate", marked)
    found = chat(runs / "sft", "--max-tokens", "10000", typed="how was the soup ?\n")
    assert found.exit_code == 0, found.output
    assert "a [/b] [bold]c" in found.output
    assert asked == [64]  # half of the context


def test_rows_that_are_torn_or_no_number_do_not_mislead(runs, tmp_path):
    shutil.copytree(runs / "sft", tmp_path / "sft")
    with (tmp_path / "sft" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "heldout/nll": NaN}\n{"step": 7, "heldo')
    assert weights_of(tmp_path / "sft", "best").name == weights_of(runs / "sft", "best").name
    assert "After step" in (export(tmp_path / "sft", tmp_path / "out") / "README.md").read_text()
    shown = CliRunner().invoke(app, ["runs", str(tmp_path)])
    assert shown.exit_code == 0
    assert "finished" in shown.output
