import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config

from clew.models.elementwise import _Norm, in_fewer_passes

SIZE = {"vocab_size": 29, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
FAMILIES = {kind.__name__: kind(**SIZE, **HEADS) for kind in (LlamaConfig, Qwen3Config)}


def make(config, dtype=torch.float64):
    torch.manual_seed(1)
    module = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for parameter in module.parameters():  # norms start at one, which would hide a weight that is forgotten
        parameter.data += torch.randn_like(parameter) * 0.3
    return module


def logits_and_gradients(module, tokens):
    logits = module(input_ids=tokens, use_cache=False).logits
    logits.square().mean().backward()
    return logits.detach(), {name: p.grad for name, p in module.named_parameters()}


def exchanged(module):
    return {type(layer).__name__ for layer in module.modules() if "forward" in vars(layer)}


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_are_those_of_the_model_as_it_comes(family):
    plain = make(FAMILIES[family])
    fewer = copy.deepcopy(plain)
    in_fewer_passes(fewer)
    assert len(exchanged(fewer)) == 3  # norms, gates, rotations
    tokens = torch.randint(29, (3, 11), generator=torch.Generator().manual_seed(0))
    (expected, gradients), (found, ours) = logits_and_gradients(plain, tokens), logits_and_gradients(fewer, tokens)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert_close(ours, gradients, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        assert_close(fewer(input_ids=tokens, use_cache=False).logits, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_a_norm_are_those_of_finite_differences():
    x, weight = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(_Norm.apply, (x, weight, 1e-5))
    assert_close(_Norm.apply(x, weight, 1e-5), torch.nn.functional.rms_norm(x, (5,), weight, 1e-5))


def test_in_single_precision_norms_agree_as_well():
    plain = make(FAMILIES["LlamaConfig"], torch.float32)
    fewer = copy.deepcopy(plain)
    in_fewer_passes(fewer)
    tokens = torch.arange(11)[None]
    (expected, gradients), (found, ours) = logits_and_gradients(plain, tokens), logits_and_gradients(fewer, tokens)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert_close(ours, gradients, rtol=1e-3, atol=1e-6)


def test_a_norm_that_means_something_else_by_its_weight_keeps_its_own():
    module = make(Gemma2Config(**SIZE, **HEADS))  # it scales by 1 + weight, and gates with gelu
    in_fewer_passes(module)
    assert not {name for name in exchanged(module) if "Norm" in name or "MLP" in name}


def test_a_copy_computes_with_its_own_weights():
    module = make(FAMILIES["LlamaConfig"])
    in_fewer_passes(module)
    tokens, twin = torch.arange(7)[None], copy.deepcopy(module)
    with torch.no_grad():
        before = module(input_ids=tokens).logits
        for parameter in twin.parameters():
            parameter.zero_()
        assert_close(module(input_ids=tokens).logits, before)
        assert not twin(input_ids=tokens).logits.any()


def test_under_autocast_the_layers_do_as_they_did():
    plain = make(FAMILIES["LlamaConfig"], torch.float32)
    fewer = copy.deepcopy(plain)
    in_fewer_passes(fewer)
    tokens = torch.arange(9)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert_close(fewer(input_ids=tokens).logits, plain(input_ids=tokens).logits, rtol=0.02, atol=0.05)


def test_frozen_weights_get_no_gradient_and_inputs_do():
    module = make(FAMILIES["LlamaConfig"])
    in_fewer_passes(module)
    module.requires_grad_(False)
    states = torch.randn(1, 5, 16, dtype=torch.float64, requires_grad=True)
    module.model(inputs_embeds=states, use_cache=False).last_hidden_state.sum().backward()
    assert states.grad is not None
    assert all(p.grad is None for p in module.parameters())


def test_finding_out_leaves_random_numbers_as_they_were():
    module, state = make(FAMILIES["LlamaConfig"]), torch.random.get_rng_state()
    in_fewer_passes(module)
    assert torch.equal(torch.random.get_rng_state(), state)
