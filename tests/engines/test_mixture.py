import pytest
import torch

from clew.engines.local import LocalEngine
from clew.engines.mixture import Mixed
from clew.types import Prompt, Sampling

PROMPTS = [Prompt(str(i), (1, *range(4, 5 + i % 7)), "") for i in range(9)]


@pytest.fixture
def models(new_policy):
    """A policy and another model that is far from it."""
    found = new_policy(0), new_policy(1)
    for model in found:
        model.module.get_output_embeddings().weight.data *= 20
    return found


def logps_of(models, weight, rollout, temperature=1.0):
    """Of a rollout's answer, from whole forward passes of both models."""
    tokens = torch.tensor([rollout.tokens])
    with torch.no_grad():
        ours, theirs = ((m.module(tokens).logits[0] / temperature).log_softmax(1) for m in models)
    mixed = ((1 - weight) * ours + weight * theirs).log_softmax(1)
    return mixed[:-1].gather(1, tokens[0, 1:, None])[:, 0] * torch.tensor(rollout.mask[1:])


@pytest.mark.parametrize(("weight", "temperature"), [(0.125, 1.0), (0.5, 0.7)])
def test_log_probabilities_are_those_of_the_mixture(models, weight, temperature):
    engine = LocalEngine(models[0], slots=5, mixed=Mixed(models[1], weight))
    rollouts = engine.generate(PROMPTS, n=2, sampling=Sampling(20, temperature), key=(0, 0))
    assert len({len(r.tokens) for r in rollouts}) > 3  # some left their slots early, and others moved
    for rollout in rollouts:
        expected = logps_of(models, weight, rollout, temperature)
        torch.testing.assert_close(torch.tensor(rollout.logps[1:]), expected, atol=1e-4, rtol=0)
    alone = logps_of(models, 0.0, rollouts[0], temperature)
    assert float((torch.tensor(rollouts[0].logps[1:]) - alone).abs().max()) > 0.1


def test_samples_follow_the_mixture(models):
    engine = LocalEngine(models[0], mixed=Mixed(models[1], 0.5))
    rollouts = engine.generate(PROMPTS[2:3], n=4000, sampling=Sampling(1), key=(0, 0))
    drawn = torch.bincount(torch.tensor([r.tokens[-1] for r in rollouts]), minlength=len(models[0].tokenizer)) / 4000
    tokens = torch.tensor([PROMPTS[2].tokens])
    with torch.no_grad():
        logits = sum(model.module(tokens).logits[0, -1] / 2 for model in models)
    probs = logits.softmax(0)
    assert float((drawn - probs).abs().max()) < 4 * float((probs * (1 - probs) / 4000).sqrt().max())


def test_all_of_one_model_is_that_model(models):
    for weight, model in ((0.0, models[0]), (1.0, models[1])):
        engine = LocalEngine(models[0], slots=4, mixed=Mixed(models[1], weight))
        ours, theirs = (
            e.generate(PROMPTS, n=2, sampling=Sampling(12), key=(3, 1)) for e in (engine, LocalEngine(model))
        )
        assert [r.tokens for r in ours] == [r.tokens for r in theirs]


def test_a_sequence_of_the_mixture_does_not_depend_on_its_neighbours(models):
    together, few = (
        LocalEngine(models[0], slots=slots, mixed=Mixed(models[1], 0.3)).generate(
            PROMPTS, n=2, sampling=Sampling(12), key=(7, 3)
        )
        for slots in (64, 2)
    )
    assert [r.tokens for r in few] == [r.tokens for r in together]


def test_a_mixture_in_lower_precision_is_refused(models):
    with pytest.raises(ValueError, match="linears: bf16 .* mixed needs fp32"):
        LocalEngine(models[0], linears="bf16", mixed=Mixed(models[1], 0.5))
