"""Low-rank adapters: what learns, what the reference is, and that the result is what was trained."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from clew.batch import evaluate
from clew.config import ConfigError
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.engines.local import LocalEngine
from clew.models.adapter import LoRA
from clew.models.load import load_judge, load_policy, load_scalar, merged
from clew.models.reference import AdapterOff, load_reference
from clew.models.reload import ReloadMismatch, check_reload
from clew.types import Prompt, Sampling

from .test_families import PACKED, SMALL, make, rows_with_shared_prompts

ROWS = [Encoded([1, 5, 6, 7, 2], [False, False, True, True, True], True), Encoded([1, 8, 2], [False, True, True], True)]


def logps(model) -> torch.Tensor:
    return evaluate(model, collate([[r] for r in ROWS]), max_tokens=1000).logps


def scores(model) -> torch.Tensor:
    return evaluate(model, collate([[r] for r in ROWS]), max_tokens=1000).scores


def disturb(model, seed: int = 0) -> None:
    """As if it had learnt: every trained parameter moves."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def test_new_adapters_change_nothing_and_only_they_learn(model_folder):
    policy = load_policy(str(model_folder), lora=LoRA(rank=4))
    assert logps(policy).equal(logps(load_policy(str(model_folder))))
    learning = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    assert not any("lm_head" in name or "embed" in name for name in learning)
    head = {n for n, p in load_scalar(str(model_folder), lora=LoRA()).named_parameters() if p.requires_grad}
    assert [n for n in head if "lora_" not in n] == ["module.score.modules_to_save.default.weight"]


def test_adapters_are_drawn_from_the_seed_alone(model_folder):
    drawn = []
    for noise, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(noise)
        policy = load_policy(str(model_folder), lora=LoRA(), seed=seed)
        drawn.append(next(p for name, p in policy.named_parameters() if "lora_A" in name))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


def test_without_its_adapters_the_policy_is_the_reference(model_folder):
    policy = load_policy(str(model_folder), lora=LoRA())
    reference = load_reference(None, policy)
    start = logps(policy)
    disturb(policy)
    assert isinstance(reference, AdapterOff)
    assert logps(reference).equal(start)
    assert not torch.allclose(logps(policy), start, atol=1e-2)
    assert all(p.requires_grad for name, p in policy.named_parameters() if "lora_" in name)


def test_adapters_from_before_belong_to_the_reference(model_folder, tmp_path):
    """Adapter-off would be the model below both: the run would be held to what it did not start from (trl#6591)."""
    first = load_policy(str(model_folder), lora=LoRA())
    disturb(first)
    first.save(tmp_path / "first")
    second = load_policy(str(tmp_path / "first"), lora=LoRA())
    reference = load_reference(None, second)
    disturb(second, seed=1)
    torch.testing.assert_close(logps(reference), logps(first), atol=1e-5, rtol=0)
    assert not torch.allclose(logps(reference), logps(load_policy(str(model_folder))), atol=1e-2)


def test_a_named_reference_is_a_model_of_its_own(model_folder):
    policy = load_policy(str(model_folder), lora=LoRA())
    policy.temperature = 0.5
    reference = load_reference(str(model_folder), policy)
    assert not isinstance(reference, AdapterOff)
    assert logps(reference).equal(logps(policy))


def test_the_result_is_an_ordinary_model_and_adapters_for_peft(model_folder, tmp_path):
    policy = load_policy(str(model_folder), lora=LoRA())
    disturb(policy)
    merged(policy, tmp_path / "model").save(tmp_path / "model")
    script = (
        "import sys, json, torch\nfrom transformers import AutoModelForCausalLM as A\nfrom peft import PeftModel\n"
        "merged, base = A.from_pretrained(sys.argv[1]), A.from_pretrained(sys.argv[2])\n"
        "adapted = PeftModel.from_pretrained(base, sys.argv[1] + '/adapter').eval()\n"
        "rows = json.loads(sys.argv[3])\n"
        "def logp(m, r): return m(torch.tensor([r])).logits[0].log_softmax(-1)[:-1].gather(1, torch.tensor(r[1:])[:, None])\n"
        "print(json.dumps([[logp(m, r)[:, 0].tolist() for r in rows] for m in (merged, adapted)]))"
    )
    paths = [str(tmp_path / "model"), str(model_folder), json.dumps([r.tokens for r in ROWS])]
    out = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    expected = [row[row != 0].tolist() for row in logps(policy)]
    for found in json.loads(out.stdout):
        for row, want in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.tensor(row[-len(want) :]), torch.tensor(want), atol=1e-5, rtol=0)


def test_a_reward_models_head_comes_back_with_its_adapters(model_folder, tmp_path):
    model = load_scalar(str(model_folder), lora=LoRA(), seed=3)
    disturb(model)
    trained = scores(model)
    assert any("score" in name for name in load_file(saved(model, tmp_path / "state") / "adapter_model.safetensors"))
    whole = merged(model, tmp_path / "model")
    whole.centre = 0.25
    whole.save(tmp_path / "model")
    check_reload(model, ROWS, tmp_path / "model")  # plain transformers
    torch.testing.assert_close(scores(load_scalar(str(tmp_path / "model" / "adapter"))), trained, atol=1e-5, rtol=0)
    assert load_scalar(str(tmp_path / "model" / "adapter")).centre == 0.25


def saved(model, folder):
    model.save(folder)
    return folder


def test_a_state_comes_back_exactly(model_folder, tmp_path):
    for load in (load_policy, load_scalar):
        model = load(str(model_folder), lora=LoRA())
        disturb(model)
        folder = saved(model, tmp_path / load.__name__)
        other = load(str(model_folder), lora=LoRA(), seed=9)
        other.load(folder)
        theirs = dict(other.named_parameters())
        assert all(p.equal(theirs[name]) for name, p in model.named_parameters() if p.requires_grad)
        assert not (folder / "model.safetensors").exists()  # the frozen weights are not written again and again


def test_a_judge_without_its_head_is_refused(model_folder, tmp_path):
    """What peft saves of a classifier whose head was not named in modules_to_save (trl#1379)."""
    policy = load_policy(str(model_folder), lora=LoRA())
    folder = saved(policy, tmp_path / "headless")
    with pytest.raises(ValueError, match=r"headless is no reward model: .* its head would be random"):
        load_judge(str(folder), load_policy(str(model_folder)))


def test_a_merge_that_says_something_else_is_noticed(model_folder, tmp_path):
    policy = load_policy(str(model_folder), lora=LoRA())
    policy.trunk.adapter.config.lora_alpha = 99  # as another version of peft might read it
    disturb(policy)
    with pytest.raises(ReloadMismatch, match="merged into its base, the model says something else"):
        merged(policy, tmp_path / "model")


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3", "opt"])
def test_other_families_pack_sample_and_checkpoint_with_adapters(family, tokenizer, tmp_path):
    plain = make(family, PACKED[family], tokenizer)
    plain.save(tmp_path / "base")
    policy = load_policy(str(tmp_path / "base"), lora=LoRA())
    assert policy.trunk.packed
    disturb(policy)
    items = rows_with_shared_prompts()
    batch = collate(items)
    together = evaluate(policy, batch, max_tokens=1000).logps
    for row, found in zip([row for rows in items for row in rows], together, strict=True):
        alone = evaluate(policy, collate([[row]]), max_tokens=1000).logps[0]
        torch.testing.assert_close(found[: len(alone)], alone, atol=1e-5, rtol=0)
    rollouts = LocalEngine(policy, slots=4).generate(
        [Prompt("a", [1, 7, 8], "x", {})], n=3, sampling=Sampling(8, 1.0), key=(0, 0)
    )
    again = evaluate(policy, collate([[r] for r in rollouts]), max_tokens=1000).logps
    for b, rollout in enumerate(rollouts):
        torch.testing.assert_close(again[b, : len(rollout.logps)], torch.tensor(rollout.logps), atol=1e-5, rtol=0)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            policy.checkpoint_activations()
        policy.train(checkpointing)
        policy.evaluate(batch).logps.sum().backward()
        gradients.append([p.grad.clone() for p in policy.parameters() if p.requires_grad])
        policy.zero_grad()
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_targets_that_are_not_there_are_named(model_folder):
    with pytest.raises(ConfigError, match=r"lora.targets \('query',\) cannot be adapted in .*"):
        load_policy(str(model_folder), lora=LoRA(targets=("query",)))
    some = load_policy(str(model_folder), lora=LoRA(targets=("q_proj", "v_proj")))
    assert {n.split(".")[-4] for n, p in some.named_parameters() if p.requires_grad} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_embeddings_that_are_the_output_layer_too_are_not_adapted(target, tokenizer, tmp_path):
    make("llama", {**SMALL, "tie_word_embeddings": True}, tokenizer).save(tmp_path / "tied")
    with pytest.raises(ConfigError, match="are its output too; leave them out"):
        load_policy(str(tmp_path / "tied"), lora=LoRA(targets=("q_proj", target)))
    make("llama", SMALL, tokenizer).save(tmp_path / "free")
    policy = load_policy(str(tmp_path / "free"), lora=LoRA(targets=("q_proj", target)))
    disturb(policy)
    whole = merged(policy, tmp_path / "model")
    torch.testing.assert_close(logps(whole), logps(policy), atol=1e-4, rtol=0)


def test_a_policy_at_another_temperature_merges_and_is_compared_in_full_precision(model_folder, tmp_path):
    policy = load_policy(str(model_folder), precision="bf16", lora=LoRA())
    policy.temperature = 0.7
    disturb(policy)
    merged(policy, tmp_path / "model")
    policy.trunk.adapter.config.lora_alpha = 99
    with pytest.raises(ReloadMismatch):
        merged(policy, tmp_path / "other")


def test_saved_adapters_know_their_base_from_anywhere_and_say_when_it_has_moved(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(model_folder.parent)
    policy = load_policy(model_folder.name, lora=LoRA())
    policy.save(tmp_path / "a")
    policy.save(tmp_path / "b")
    assert (tmp_path / "a" / "adapter_config.json").read_bytes() == (
        tmp_path / "b" / "adapter_config.json"
    ).read_bytes()
    monkeypatch.chdir("/")
    load_policy(str(tmp_path / "a"))
    model_folder.rename(model_folder.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match="if it has moved, say where in their adapter_config.json"):
        load_policy(str(tmp_path / "a"))


def test_weights_in_half_precision_are_held_and_merged(model_folder, tmp_path):
    policy = load_policy(str(model_folder), precision="bf16", lora=LoRA(weights="bf16"))
    held = {n: p.dtype for n, p in policy.named_parameters()}
    assert {d for n, d in held.items() if "base_layer" in n} == {torch.bfloat16}
    assert {d for n, d in held.items() if "base_layer" not in n} == {torch.float32}
    disturb(policy)
    whole = merged(policy, tmp_path / "model")
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    torch.testing.assert_close(logps(whole), logps(policy), atol=0.15, rtol=0)


def test_frozen_weights_that_cannot_be_used_are_refused(model_folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"lora.weights: bf16 needs precision: bf16; it is fp32"):
        load_policy(str(model_folder), lora=LoRA(weights="bf16"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"nf4 needs bitsandbytes, which is not installed; pip install 'clew\[qlora\]'"
    ):
        load_policy(str(model_folder), precision="bf16", lora=LoRA(weights="nf4"))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bits_learn_and_merge_into_full_weights(tokenizer, tmp_path):
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4}
    make("llama", {**SMALL, **wide}, tokenizer).save(tmp_path / "lm")
    model_folder = tmp_path / "lm"
    policy = load_policy(str(model_folder), precision="bf16", lora=LoRA(weights="nf4"))
    assert any(p.dtype == torch.uint8 for p in policy.parameters())
    full = load_policy(str(model_folder))
    torch.testing.assert_close(logps(policy), logps(full), atol=0.5, rtol=0)
    reference = load_reference(None, policy)
    assert logps(reference).equal(logps(policy))
    disturb(policy)
    whole = merged(policy, tmp_path / "model")
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    torch.testing.assert_close(logps(whole), logps(policy), atol=0.5, rtol=0)
