"""Unmodified transformers models, packed: the same log-probabilities as each row alone, or padded with a warning."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from clew.batch import evaluate
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.engines.local import LocalEngine
from clew.models.load import make_policy
from clew.types import Prompt, Sampling

SMALL = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip
GPT2 = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "vocab_size": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PACKED = {
    "llama": SMALL, "mistral": {**SMALL, "sliding_window": 6}, "qwen2": SMALL, "qwen3": {**SMALL, "head_dim": 8},
    "gemma": {**SMALL, "head_dim": 8}, "gemma2": {**SMALL, "head_dim": 8, "sliding_window": 6},
    "gemma3_text": {**SMALL, "head_dim": 8, "sliding_window": 6}, "gpt2": GPT2, "gpt_neox": SMALL, "phi": SMALL, "phi3": SMALL,
    "olmo2": SMALL, "granite": {**SMALL, "logits_scaling": 3.0}, "cohere": SMALL, "smollm3": SMALL, "starcoder2": SMALL,
    "opt": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32},
}  # fmt: skip
PADDED = {"mamba": SMALL, "bloom": {"vocab_size": 40, "hidden_size": 32, "n_layer": 2, "n_head": 4}}


def make(family: str, options: dict, tokenizer):
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **options))
    return make_policy(module.float(), tokenizer)


def rows_with_shared_prompts() -> list[list[Encoded]]:
    def row(prompt, answer):
        return Encoded(prompt + answer, [False] * len(prompt) + [True] * len(answer), True)

    a, b = [1, 7, 8, 9, 10, 11], [1, 20, 21]
    return [[row(a, [12, 13, 14, 15, 16, 17, 2]), row(a, [30, 2]), row(a, [12, 31, 32, 2])], [row(b, [22, 2])]]


def native_logps(policy, row: Encoded) -> torch.Tensor:
    with torch.no_grad():
        logits = policy.module(input_ids=torch.tensor([row.tokens]), use_cache=False).logits[0].float()
    logps = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(row.tokens[1:])[:, None])[:, 0]
    return logps[torch.tensor(row.mask[1:])]


@pytest.mark.parametrize("family", PACKED)
def test_packed_log_probabilities_are_the_models_own(family, tokenizer):
    policy = make(family, PACKED[family], tokenizer)
    assert policy.trunk.packed
    check_against_native(policy)


@pytest.mark.parametrize("family", PADDED)
def test_models_that_cannot_be_packed_are_padded_and_say_so(family, tokenizer, caplog):
    policy = make(family, PADDED[family], tokenizer)
    assert not policy.trunk.packed
    assert "rows are padded" in caplog.text
    check_against_native(policy)


def check_against_native(policy) -> None:
    items = rows_with_shared_prompts()
    rows = [row for item in items for row in item]
    batch = collate(items)
    outputs = evaluate(policy, batch, max_tokens=1 << 20)
    for b, row in enumerate(rows):
        torch.testing.assert_close(outputs.logps[b][batch.mask[b]], native_logps(policy, row), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "granite", "mamba"])
def test_the_engine_samples_what_the_model_says(family, tokenizer):
    policy = make(family, {**PACKED, **PADDED}[family], tokenizer)
    prompts = [Prompt("a", (1, 7, 8, 9), ""), Prompt("b", (1, 20), "")]
    rollouts = LocalEngine(policy, slots=4).generate(prompts, n=2, sampling=Sampling(9), key=(0, 0))
    batch = collate([[r] for r in rollouts])
    logps = evaluate(policy, batch, max_tokens=1 << 20).logps
    for b, rollout in enumerate(rollouts):
        sampled = torch.tensor(rollout.logps)[torch.tensor(rollout.mask)]
        torch.testing.assert_close(logps[b][batch.mask[b]], sampled, atol=2e-5, rtol=1e-4)


def test_a_head_that_scales_in_an_unknown_way_is_used_whole(tokenizer, caplog):
    module = make("llama", SMALL, tokenizer).module
    native = module.forward
    module.forward = lambda *args, **kwargs: scaled(native(*args, **kwargs))
    policy = make_policy(module, tokenizer)
    assert policy.trunk.native
    assert "does not know" in caplog.text
    check_against_native(policy)


def scaled(output):
    output.logits = output.logits * 0.3 + 0.1 * output.logits.sin()
    return output


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("phimoe", {**SMALL, "sliding_window": 16, "num_local_experts": 2}),  # a window in the mask alone
        ("diffllama", SMALL),  # a layer attends twice
    ],
)
def test_what_a_short_probe_cannot_show_is_padded(family, options, tokenizer, caplog):
    policy = make(family, options, tokenizer)
    assert not policy.trunk.packed
    assert "rows are padded" in caplog.text
    prompt = Prompt("p", (1, *range(5, 30)), "")
    rollouts = LocalEngine(policy).generate([prompt], n=2, sampling=Sampling(12), key=(0, 0))
    logps = evaluate(policy, collate([[r] for r in rollouts]), max_tokens=1000).logps
    for rollout, row in zip(rollouts, logps, strict=True):
        found = torch.tensor(rollout.logps)
        torch.testing.assert_close(found, row[: len(found)], atol=2e-5, rtol=0)


def test_rotary_scaling_by_the_longest_row_is_not_reached(tokenizer):
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    policy = make("llama", {**SMALL, "max_position_embeddings": 16, "rope_parameters": rope}, tokenizer)
    with pytest.raises(ValueError, match="a row has 17 tokens and the model's context 16"):
        policy.evaluate(collate([[Encoded([1] * 17, [False] * 16 + [True], True)]]))
    with pytest.raises(ValueError, match="do not fit into the model's context of 16"):
        LocalEngine(policy).generate([Prompt("p", (1,) * 10, "")], n=1, sampling=Sampling(7), key=(0, 0))


def test_dropout_is_off_also_where_checkpointing_trains(tokenizer):
    policy = make("gpt2", {**GPT2, "resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5}, tokenizer)
    batch = collate(rows_with_shared_prompts())
    policy.train()
    assert torch.equal(policy.evaluate(batch).logps, policy.evaluate(batch).logps)


def test_the_head_is_never_in_bfloat16(tokenizer):
    """Logits of a large common offset: rounded to bfloat16, differences between them would drown."""
    policy = make("gpt2", GPT2, tokenizer)
    expected = policy.evaluate(collate(rows_with_shared_prompts())).logps
    states = torch.randn(5, 32)
    policy.trunk.precision = "bf16"
    assert policy.head(states).dtype == torch.float32
    assert not policy.trunk.native
    torch.testing.assert_close(policy.evaluate(collate(rows_with_shared_prompts())).logps, expected, atol=0.05, rtol=0)
