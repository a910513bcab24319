"""ILQL, run for real on small models: what it learns and gains, leaves behind, resumes and refuses."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from clew.config import ConfigError, build, check_inputs
from clew.data import grammar
from clew.data.chat import Codec, Encoding
from clew.data.sources import Source, load_examples
from clew.engines.local import LocalEngine
from clew.export import export
from clew.models.load import load_policy
from clew.models.perturbed import PerturbedPolicy, alone
from clew.offline import as_rollouts, rated, spread_of, total, whitened
from clew.recipes.ilql import ILQL
from clew.types import Sampling

from ..faults import KINDS, disturbed, operations
from .conftest import ADAPTED, assert_same, metrics, run_recipe, write

KIND = "tests.recipes.test_ilql:kindness"


def kindness(prompts, completions):
    """Pleasant words less unpleasant ones."""
    return [sum(grammar.ADJECTIVES.get(word, 0.0) for word in text.split()) for text in completions]


def unsure(prompts, completions):
    return [None if "hated" in text else len(text) for text in completions]


def silent(prompts, completions):
    return [None for _ in completions]


def configured(world, **options):
    return {
        "model": world["model"], "data": {"path": world["ratings"]}, "encoding": {"max_length": 128}, "batch": 16,
        "steps": 5, "save_every": 2, "polyak": 0.1, "polyak_every": 2, "learner": {"lr": 3e-3}, **options,
    }  # fmt: skip


def test_it_learns_from_ratings_and_leaves_a_policy_with_its_heads(world, tmp_path):
    values = configured(world, steps=40, heldout={"path": world["ratings"]}, save_every=20, normalise="none")
    out = run_recipe("ilql", tmp_path / "run", values)
    rows = metrics(out)
    assert [r["step"] for r in rows] == list(range(40))
    assert {"loss/q", "loss/value", "loss/conservative", "loss/awac", "advantages", "target_q"} <= rows[0].keys()
    for name in ("loss/awac", "loss/conservative"):
        assert sum(r[name] for r in rows[-5:]) < 0.95 * sum(r[name] for r in rows[:5])
    assert rows[0]["q"] == rows[0]["target_q"] == rows[0]["values"] == 0
    assert rows[-1]["q"] != rows[-1]["target_q"] != 0
    said = json.loads((out / "result.json").read_text())["heldout"]
    assert said == {name: rows[-1][f"heldout/{name}"] for name in ("correlation", "token_nll")}
    policy = load_policy(str(out / "model"))
    assert isinstance(policy, PerturbedPolicy)
    plain = AutoModelForCausalLM.from_pretrained(out / "model").state_dict()
    assert all(plain[name].equal(x) for name, x in policy.module.state_dict().items())


def gains(world, folder: Path, seed: int, **options) -> np.ndarray:
    """What decoded answers of one word are worth more than the clone's, prompt by prompt, on the same noise."""
    words, rng = list(grammar.ADJECTIVES), np.random.default_rng(seed)
    rows = ({**row, "completion": f" {rng.choice(words)}"} for row in grammar.prompts(num=200, seed=seed))
    folder.mkdir()
    values = configured(
        world, data={"path": write(folder / "said.jsonl", rows)}, reward=[{"function": KIND}], batch=8, save_every=300,
        polyak=0.2, polyak_every=1, width=128, seed=seed, learner={"lr": 1e-2, "schedule": "constant"}, **options,
    )  # fmt: skip
    policy = load_policy(str(run_recipe("ilql", folder / "run", values) / "model"))
    codec = Codec(policy.tokenizer, Encoding(max_length=128))
    prompts = codec.prompts(load_examples(Source(path=world["prompts"])), 4)
    found = []
    for model in (policy, alone(policy)):
        drawn = LocalEngine(model).generate(prompts, n=8, sampling=Sampling(4), key=(seed, 0))
        found.append(np.array(kindness([], [r.text for r in drawn])).reshape(-1, 8).mean(1))
    return found[0] - found[1]


def test_the_decoded_policy_is_better_than_the_clone(world, tmp_path):
    found = gains(world, tmp_path / "run", 0, steps=110, decode={"beta": 4.0})
    assert found.mean() - 3 * found.std(ddof=1) / len(found) ** 0.5 > 0


@pytest.mark.slow
def test_the_decoded_policy_is_better_than_the_clone_on_five_seeds(world, tmp_path):
    found = np.array([gains(world, tmp_path / str(seed), seed, steps=220).mean() for seed in range(5)])
    assert found.mean() - 2.776 * found.std(ddof=1) / 5**0.5 > 0, found  # t of 4 degrees, 95 %


def test_all_else_reads_what_it_leaves(world, tmp_path):
    out = run_recipe("ilql", tmp_path / "run", configured(world, decode={"beta": 2.0, "top_k": 5}))
    values = {
        "baseline": world["model"], "policies": {"ILQL": str(out)}, "gold": KIND, "max_tokens": 8,
        "data": {"path": world["prompts"], "limit": 6}, "encoding": {"max_length": 128},
    }  # fmt: skip
    evaluated = run_recipe("evaluate", tmp_path / "evaluated", values)
    points = json.loads((evaluated / "evaluation.json").read_text())["points"]
    assert [p["step"] for p in points][-3:] == [4, 5, -1]
    rl = {
        "model": str(out / "model"), "data": {"path": world["prompts"]}, "reward": [{"function": KIND}], "steps": 1,
        "prompts": 4, "max_tokens": 8, "advantages": "batch_mean", "encoding": {"max_length": 128},
    }  # fmt: skip
    improved = run_recipe("rl", tmp_path / "rl", rl)  # whose first step checks that sampler and learner agree
    before, after = (load_file(f / "model" / "q_heads.safetensors") for f in (out, improved))
    assert all(before[name].equal(x) for name, x in after.items())
    with pytest.raises(ConfigError, match="answers by its Q heads"):
        export(out, tmp_path / "exported")


def test_it_starts_from_the_language_model_of_a_folder_with_heads(world, tmp_path):
    first = run_recipe("ilql", tmp_path / "first", configured(world, steps=2))
    second = run_recipe("ilql", tmp_path / "second", configured(world, steps=1, model=str(first / "model")))
    assert metrics(second)[0]["values"] == 0


def test_adapters_learn_with_the_heads(world, tmp_path):
    out = run_recipe("ilql", tmp_path / "run", configured(world) | ADAPTED)
    old, new = (load_policy(str(f)) for f in (out / "checkpoints" / "checkpoint-000005", out / "model"))
    for a, b in ((old.module, new.module), (old.heads, new.heads)):
        for name, x in a.state_dict().items():
            torch.testing.assert_close(x, b.state_dict()[name])


def test_scores_are_asked_for_once_and_abstentions_left_out(world, tmp_path):
    values = configured(world, data={"path": world["demonstrations"]}, reward="tests.recipes.test_ilql:unsure")
    out = run_recipe("ilql", tmp_path / "run", values)
    notes = (out / "notes.jsonl").read_text()
    lines = Path(world["demonstrations"]).read_text().splitlines()
    left, num = sum("hated" in json.loads(line)["completion"] for line in lines), len(lines)
    assert 0 < left < num
    assert f"{num - left} answers scored, {left} abstentions left out" in notes
    assert "no checkpoint yet" not in notes


def test_labels_of_steps_stand_where_the_steps_end(world, tmp_path):
    rows = [{"prompt": "how was the soup ?", "completions": [" it was good .", " we liked the soup ."],
             "labels": [True, False]}]  # fmt: skip
    policy = load_policy(world["model"])
    codec = Codec(policy.tokenizer, Encoding(max_length=128))
    path = write(tmp_path / "steps.jsonl", rows)
    (rollout,) = rollouts = as_rollouts(codec, codec.answers(load_examples(Source(path=path))))
    (score,) = rated(codec, rollouts, path)
    assert [reward for _, reward in score.at] == [1.0, 0.0]
    first = rollout.mask.index(True)
    ends = [policy.tokenizer.decode(rollout.tokens[first : place + 1]).split() for place, _ in score.at]
    assert [words[-2:] for words in ends] == [["good", "."], ["soup", "."]]
    assert total(score) == 1.0


def test_whitened_rewards_have_mean_0_and_spread_1(world):
    policy = load_policy(world["model"])
    codec = Codec(policy.tokenizer, Encoding(max_length=128))
    rollouts = as_rollouts(codec, codec.answers(load_examples(Source(path=world["ratings"]))))
    scored = list(zip(rollouts, rated(codec, rollouts, ""), strict=True))
    after = np.array([total(score) for _, score in whitened(scored, *spread_of(scored, ""))])
    assert (after.mean(), after.std()) == pytest.approx((0, 1), abs=1e-6)


def ends_as_if_nothing_had(world, tmp_path, values, places):
    values = configured(world, reward=[{"function": KIND}], **values)
    total = operations(partial(run_recipe, "ilql", tmp_path / "whole", values))
    assert len(metrics(tmp_path / "whole")) == 5
    assert "q_heads.safetensors" in {f.name for f in (tmp_path / "whole" / "model").iterdir()}
    for kind, at in places(total):
        folder = tmp_path / f"{kind} {at}"
        disturbed(partial(run_recipe, "ilql", folder, values), kind, at)
        run_recipe("ilql", folder, values)
        assert_same(tmp_path / "whole", folder)


@pytest.mark.parametrize("values", [{}, ADAPTED], ids=["whole", "adapted"])
def test_an_operation_that_goes_wrong_leaves_no_trace(values, world, tmp_path):
    places = [0.05, 0.5, 0.8] if not values else [0.55]
    ends_as_if_nothing_had(
        world, tmp_path, values, lambda total: [(KINDS[i % 3], int(p * total)) for i, p in enumerate(places)]
    )


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, ADAPTED], ids=["whole", "adapted"])
def test_no_operation_that_goes_wrong_leaves_a_trace(values, world, tmp_path):
    ends_as_if_nothing_had(world, tmp_path, values, lambda total: [(kind, at) for kind in KINDS for at in range(total)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tau": 1.0}, "tau: Input should be less than 1; got 1.0"),
        ({"gamma": 1.5}, "gamma: Input should be less than or equal to 1"),
        ({"decode": {"beta": -1}}, "decode.beta: Input should be greater than or equal to 0"),
        ({"polyack": 0.1}, "did you mean 'polyak'"),
        ({"reward": "no_such_module:score"}, "no_such_module"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(options, says, world, tmp_path):
    with pytest.raises(ConfigError) as error:
        check_inputs(build(ILQL, {"out": str(tmp_path / "o"), **configured(world, **options)}, "ilql"), "ilql")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "demonstrations"}, "an answer has neither `label` nor `rating`"),
        ({"data": "prompts"}, "has a prompt and no answer to learn from"),
        ({"data": "demonstrations", "reward": "tests.recipes.test_ilql:silent"}, "abstained on every one of 120"),
    ],
)
def test_data_without_rewards_are_refused(options, says, world, tmp_path):
    values = configured(world, **options | {"data": {"path": world[options["data"]]}})
    with pytest.raises(ValueError, match=says):
        run_recipe("ilql", tmp_path / "run", values)


def test_rewards_that_are_all_alike_are_refused(world, tmp_path):
    rows = [{"prompt": "how was the soup ?", "completion": f" it was {w} .", "rating": 3} for w in ("good", "bad")]
    values = configured(world, data={"path": write(tmp_path / "rows.jsonl", rows)})
    with pytest.raises(ConfigError, match="all 2 answers have the reward 3, so that none is better"):
        run_recipe("ilql", tmp_path / "run", values)
