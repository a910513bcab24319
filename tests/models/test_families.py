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
