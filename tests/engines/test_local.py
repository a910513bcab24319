import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from clew.batch import evaluate
from clew.data.collate import collate
from clew.engines.local import LocalEngine, invert, sample
from clew.engines.noise import stream_key, uniforms
from clew.models.linears import bf16_linears
from clew.models.load import make_policy
from clew.types import Prompt, Sampling

PROMPTS = [Prompt(str(i), (1, *range(4, 5 + i % 7)), "") for i in range(9)]


@pytest.fixture
def engine(new_policy) -> LocalEngine:
    return LocalEngine(new_policy(), slots=8)


def test_rollouts_come_in_order_with_mask_and_stop(engine):
    rollouts = engine.generate(PROMPTS, n=3, sampling=Sampling(12), key=(0, 0))
    assert [r.prompt_id for r in rollouts] == [p.id for p in PROMPTS for _ in range(3)]
    stops = engine.policy.stop_ids
    for rollout, prompt in zip(rollouts, [p for p in PROMPTS for _ in range(3)], strict=True):
        answer = list(rollout.tokens)[len(prompt.tokens) :]
        assert list(rollout.tokens)[: len(prompt.tokens)] == list(prompt.tokens)
        assert list(rollout.mask) == [False] * len(prompt.tokens) + [True] * len(answer)
        assert not any(rollout.logps[: len(prompt.tokens)])
        assert all(t not in stops for t in answer[:-1])
        assert (rollout.stop == "end") == (answer[-1] in stops)
        assert rollout.stop == "end" or len(answer) == 12
        assert rollout.turns[0].end == len(rollout.tokens)
    assert {r.stop for r in rollouts} == {"end", "length"}


def test_a_sequence_does_not_depend_on_its_neighbours(engine):
    together = engine.generate(PROMPTS, n=2, sampling=Sampling(12), key=(7, 3))
    for slots in (2, 3, 64):
        engine.slots = slots
        again = engine.generate(PROMPTS, n=2, sampling=Sampling(12), key=(7, 3))
        assert [r.tokens for r in again] == [r.tokens for r in together]
    alone = [r for p in PROMPTS for r in engine.generate([p], n=2, sampling=Sampling(12), key=(7, 3))]
    assert [r.tokens for r in alone] == [r.tokens for r in together]


def test_other_keys_give_other_samples(engine):
    a, b, c = (engine.generate(PROMPTS, n=2, sampling=Sampling(12), key=k) for k in ((0, 0), (0, 1), (1, 0)))
    assert [r.tokens for r in a] != [r.tokens for r in b] != [r.tokens for r in c]
    assert a[0].tokens != a[1].tokens


def test_log_probabilities_are_those_of_a_training_forward_in_float64(tokenizer):
    torch.manual_seed(0)
    from tests.laws.test_gradients import gpt2_config

    policy = make_policy(GPT2LMHeadModel(gpt2_config(vocab_size=len(tokenizer))).double(), tokenizer)
    policy.temperature = 0.8
    rollouts = LocalEngine(policy, slots=5).generate(PROMPTS, n=2, sampling=Sampling(20, 0.8), key=(0, 0))
    batch = collate([[r] for r in rollouts])
    logps = evaluate(policy, batch, max_tokens=1 << 20).logps
    sampled = torch.tensor([x for r in rollouts for x, m in zip(r.logps, r.mask, strict=True) if m])
    torch.testing.assert_close(logps[batch.mask].float(), sampled, atol=1e-6, rtol=1e-6)


def test_log_probabilities_are_those_of_a_training_forward_in_float32(engine):
    rollouts = engine.generate(PROMPTS, n=4, sampling=Sampling(30), key=(0, 0))
    batch = collate([rollouts[i : i + 4] for i in range(0, len(rollouts), 4)])
    logps = evaluate(engine.policy, batch, max_tokens=1 << 20).logps
    sampled = torch.tensor([x for r in rollouts for x, m in zip(r.logps, r.mask, strict=True) if m])
    assert float((logps[batch.mask] - sampled).abs().max()) < 1e-5


def test_linears_in_bf16_are_coarse_and_only_while_sampling(engine):
    tokens = torch.arange(3, 13)[None]
    with torch.no_grad():
        exact = engine.policy.module(tokens).logits
        with bf16_linears(engine.policy.module):
            error = (engine.policy.module(tokens).logits - exact).abs().max()
        assert 1e-6 < error < 1e-2
        assert engine.policy.module(tokens).logits.equal(exact)


def test_log_probabilities_are_exact_also_with_linears_in_bf16(engine):
    engine.linears = "bf16"
    rollouts = engine.generate(PROMPTS, n=4, sampling=Sampling(30, 0.7), key=(0, 0))
    engine.policy.temperature = 0.7
    logps = evaluate(engine.policy, collate([[r] for r in rollouts]), max_tokens=1 << 20).logps
    for rollout, expected in zip(rollouts, logps, strict=True):
        torch.testing.assert_close(torch.tensor(rollout.logps), expected[: len(rollout.logps)], atol=1e-6, rtol=0)


def test_groups_are_told_of_when_they_are_finished(engine):
    told = {}
    rollouts = engine.generate(PROMPTS, n=3, sampling=Sampling(12), key=(0, 0), finished=told.__setitem__)
    assert sorted(told) == list(range(len(PROMPTS))) != list(told), "shorter answers are there earlier"
    assert [r for p in range(len(PROMPTS)) for r in told[p]] == rollouts


def test_a_drawn_token_has_a_weight_whatever_rounding_does():
    weights = torch.tensor([[0.0] * 63 + [1e-3] + [0.0] * 70, [0.0] * 64 + [0.1, 0.0, 0.7] + [0.0] * 67]).repeat(3, 1)
    noise = torch.tensor([0.0, 0.0, 0.5, 0.5, 1 - 2**-53, 1 - 2**-53], dtype=torch.float64)
    assert invert(weights, noise).tolist() == [63, 64, 63, 66, 63, 66]
    torch.manual_seed(0)
    weights, noise = torch.rand(2000, 200).double() ** 9, torch.rand(2000, dtype=torch.float64)
    cumulative = weights.cumsum(1)
    expected = torch.searchsorted(cumulative, noise[:, None] * cumulative[:, -1:], right=True)[:, 0]
    assert invert(weights, noise).equal(expected)


def test_samples_follow_the_distribution(engine):
    prompt = PROMPTS[2]
    rollouts = engine.generate([prompt], n=4000, sampling=Sampling(1), key=(0, 0))
    drawn = (
        torch.bincount(torch.tensor([r.tokens[-1] for r in rollouts]), minlength=len(engine.policy.tokenizer)) / 4000
    )
    with torch.no_grad():
        probs = engine.policy.module(input_ids=torch.tensor([prompt.tokens])).logits[0, -1].softmax(0)
    assert float((drawn - probs).abs().max()) < 4 * float((probs * (1 - probs) / 4000).sqrt().max())


def test_greedy_is_the_argmax_and_needs_no_noise(engine):
    a, b = (engine.generate(PROMPTS, n=1, sampling=Sampling(8, temperature=0), key=(s, 0)) for s in (0, 1))
    assert [r.tokens for r in a] == [r.tokens for r in b]
    tokens = torch.tensor([a[0].tokens])
    with torch.no_grad():
        best = engine.policy.module(input_ids=tokens).logits[0].argmax(1)
    start = len(PROMPTS[0].tokens)
    assert best[start - 1 : -1].tolist() == list(a[0].tokens)[start:]


def test_top_k_and_top_p_keep_the_most_probable():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(500, 1)
    noise = torch.linspace(0, 0.999, 500).double()
    tokens, logps = sample(logits, noise, Sampling(1, top_k=2))
    assert set(tokens.tolist()) == {0, 1}
    torch.testing.assert_close(logps, logits.log_softmax(1).gather(1, tokens[:, None])[:, 0])
    assert set(sample(logits, noise, Sampling(1, top_p=0.5))[0].tolist()) == {0}
    assert set(sample(logits, noise, Sampling(1, top_p=0.8))[0].tolist()) == {0, 1}


def test_a_prompt_that_does_not_fit_is_named(engine):
    with pytest.raises(ValueError, match=r"prompt 'long' has 60 tokens and max_tokens is 12.*context of 64"):
        engine.generate([Prompt("long", (1,) * 60, "")], n=1, sampling=Sampling(12), key=(0, 0))
    with pytest.raises(ValueError, match="has no tokens"):
        engine.generate([Prompt("empty", (), "")], n=1, sampling=Sampling(2), key=(0, 0))


def test_text_is_what_the_answer_adds(engine):
    rollout = engine.generate(PROMPTS[4:5], n=1, sampling=Sampling(12), key=(0, 0))[0]
    whole = engine.policy.tokenizer.decode(rollout.tokens, skip_special_tokens=True)
    start = engine.policy.tokenizer.decode(PROMPTS[4].tokens, skip_special_tokens=True)
    assert start + rollout.text == whole


def test_noise_is_uniform_and_a_function_of_its_key():
    keys = np.array([stream_key(0, 0, str(p), s) for p in range(100) for s in range(10)], dtype=np.uint64)
    draws = np.stack([uniforms(keys, np.full(1000, t)) for t in range(20)])
    assert ((draws >= 0) & (draws < 1)).all()
    assert abs(draws.mean() - 0.5) < 4 * 12**-0.5 / draws.size**0.5
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.1
    assert len(set(keys.tolist())) == 1000
    assert np.array_equal(uniforms(keys[5:6], np.array([3])), draws[3, 5:6])


def test_a_prompt_that_comes_again_gets_further_samples(engine):
    once = engine.generate(PROMPTS[:1], n=4, sampling=Sampling(12), key=(7, 3))
    twice = engine.generate([PROMPTS[0], PROMPTS[1], PROMPTS[0]], n=2, sampling=Sampling(12), key=(7, 3))
    assert [r.tokens for r in twice[:2] + twice[4:]] == [r.tokens for r in once]
    assert len({tuple(r.tokens) for r in once}) > 1


def test_the_most_probable_token_stays_whatever_is_left_out():
    logits, noise = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.999], dtype=torch.float64)
    assert sample(logits, noise, Sampling(1, top_p=1e-9))[0].item() == 1
    assert sample(logits, noise, Sampling(1, top_k=1))[0].item() == 1
