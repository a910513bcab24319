"""Q and V heads: what they say, what they cost, how they are saved, and the policy whose logits they perturb."""

import copy

import pytest
import torch
from torch.testing import assert_close

from clew.batch import evaluate
from clew.config import ConfigError
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.engines.local import LocalEngine
from clew.models import heads as logits_of
from clew.models.load import load_policy
from clew.models.perturbed import Decoding, PerturbedPolicy, WithQ, alone, new_heads
from clew.models.q_heads import QHeads
from clew.models.reference import follow, frozen
from clew.types import Prompt, Sampling


@pytest.fixture
def model(new_policy) -> WithQ:
    """Heads that say something."""
    policy = new_policy()
    found = WithQ(policy, new_heads(policy.trunk, width=None, seed=0), Decoding(beta=2.0, top_k=6))
    torch.manual_seed(1)
    for name, parameter in found.heads.named_parameters():
        if "out" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return found


@pytest.fixture
def batch():
    rows = [Encoded([1, 5, 6, 7, 8], [False, False, True, True, True], True)]
    rows.append(Encoded([1, 9, 4, 3], [False, True, False, True], False))
    return collate([[row] for row in rows])


def test_what_is_said_of_scored_tokens_is_what_the_whole_vocabulary_says(model, batch):
    said = model.evaluate(batch)
    states, tokens = model.policy.scored_states(batch), batch.tokens[batch.mask]
    for k, head in enumerate(model.heads.q):
        numbers = head(states)
        assert_close(said.q[batch.mask][:, k], numbers.gather(1, tokens[:, None])[:, 0])
        assert_close(said.q_logps[batch.mask][:, k], numbers.log_softmax(1).gather(1, tokens[:, None])[:, 0])
    smaller = torch.minimum(*(head(states) for head in model.heads.target))
    assert_close(said.target_q[batch.mask], smaller.gather(1, tokens[:, None])[:, 0])
    assert_close(said.values[batch.mask], model.heads.v(states)[:, 0])
    assert_close(said.logps, model.policy.evaluate(batch).logps)
    for x in (said.q, said.q_logps, said.target_q, said.values):
        assert not x[~batch.mask].any()


def test_v_is_read_before_its_token(model, batch):
    before = model.evaluate(batch).values
    other = copy.deepcopy(batch)
    other.tokens[0, 3] = 2
    after = model.evaluate(other).values
    assert_close(before[0, :4], after[0, :4])
    assert (before[0, 4] - after[0, 4]).abs() > 1e-6


def test_numbers_of_the_whole_vocabulary_are_never_there_at_once(model, batch, monkeypatch):
    expected = model.evaluate(batch)
    most = 0
    whole = logits_of.LinearStats.apply

    def watched(states, weight, bias, targets, temperature, size):
        nonlocal most
        most = max(most, size)
        return whole(states, weight, bias, targets, temperature, size)

    monkeypatch.setattr(logits_of, "KEPT", 1)
    monkeypatch.setattr(logits_of, "AT_ONCE", 2 * len(model.policy.tokenizer))
    monkeypatch.setattr(logits_of.LinearStats, "apply", watched)
    found = model.evaluate(batch)
    assert most == 2 < int(batch.mask.sum())
    assert_close(found.q_logps, expected.q_logps)


def test_only_the_heads_that_learn_have_a_gradient_and_targets_follow(model, batch):
    said = model.evaluate(batch)
    (said.q.sum() + said.q_logps.sum() + said.values.sum() + said.target_q.sum()).backward()
    assert all(p.grad is not None for p in model.heads.q.parameters())
    assert not any(p.requires_grad for p in model.heads.target.parameters())
    old = [p.clone() for p in model.target.parameters()]
    torch.nn.init.ones_(model.heads.q[0].out.weight)
    follow(model.target, model.q, decay=0.75)
    for now, then, learnt in zip(model.target.parameters(), old, model.q.parameters(), strict=True):
        assert_close(now, 0.75 * then + 0.25 * learnt)


def test_new_heads_prefer_nothing_differ_and_follow_their_seed(new_policy):
    one, same, other = (new_heads(new_policy().trunk, width=8, seed=seed) for seed in (0, 0, 1))
    assert not one.smaller_target(torch.randn(3, 16)).any()
    assert not one.q[0].hidden.weight.equal(one.q[1].hidden.weight)
    assert one.q[0].hidden.weight.equal(same.q[0].hidden.weight)
    assert not one.q[0].hidden.weight.equal(other.q[0].hidden.weight)
    assert one.q[0].hidden.weight.shape == (8, 16)


def test_a_saved_folder_is_a_perturbed_policy_and_comes_back_exactly(model, tmp_path):
    model.save(tmp_path)
    again = WithQ(load_policy(str(tmp_path)), QHeads.saved(tmp_path)[0], model.decode)
    assert isinstance(again.policy, PerturbedPolicy)
    for name, x in model.heads.state_dict().items():
        assert again.heads.state_dict()[name].equal(x)
    assert again.policy.decode == Decoding(beta=2.0, top_k=6)
    model.heads.v.out.bias.data += 1
    model.load(tmp_path)
    assert model.heads.v.out.bias.equal(again.heads.v.out.bias)


def test_a_perturbed_policy_says_and_samples_the_product(model, batch, tmp_path):
    model.save(tmp_path)
    policy = load_policy(str(tmp_path))
    states = model.policy.scored_states(batch)
    numbers = model.policy.head(states) + 2.0 * model.heads.smaller_target(states)
    kept = numbers.topk(6, dim=1)
    assert_close(policy.head(states).topk(6, dim=1).values, kept.values)
    law = kept.values[0].softmax(0)  # of the place after 1, 5
    rollouts = LocalEngine(policy).generate([Prompt("p", (1, 5), "")], n=400, sampling=Sampling(1), key=(0, 0))
    drawn = torch.tensor([r.tokens[-1] for r in rollouts])
    assert set(drawn.tolist()) <= set(kept.indices[0].tolist())
    shares = torch.stack([(drawn == token).float().mean() for token in kept.indices[0]])
    assert (shares - law).abs().max() < 5 * 0.5 / 400**0.5
    read = evaluate(policy, collate([[r] for r in rollouts]), max_tokens=1 << 12).logps
    assert_close(read[:, -1], torch.tensor([r.logps[-1] for r in rollouts]))


def test_beta_0_is_the_language_model(model, batch):
    plain = PerturbedPolicy(model.policy, model.heads, Decoding(beta=0.0, top_k=None))
    assert_close(plain.evaluate(batch).logps, model.policy.evaluate(batch).logps)
    assert_close(alone(plain).evaluate(batch).logps, model.policy.evaluate(batch).logps)


def test_half_precision_while_sampling_reports_what_the_perturbed_policy_says(model, tmp_path):
    model.save(tmp_path)
    policy = load_policy(str(tmp_path))
    engine = LocalEngine(policy, linears="bf16")
    rollouts = engine.generate([Prompt("p", (1, 5), "")], n=8, sampling=Sampling(4, temperature=0.7), key=(0, 0))
    said = evaluate(policy.at(0.7), collate([[r] for r in rollouts]), max_tokens=1 << 12).logps
    assert_close(said[0, : len(rollouts[0].logps)], torch.tensor(rollouts[0].logps))


def test_a_frozen_copy_keeps_its_heads(model, batch, tmp_path):
    model.save(tmp_path)
    policy = load_policy(str(tmp_path))
    twin, before = frozen(policy), policy.evaluate(batch).logps
    policy.heads.target[0].out.bias.data += torch.randn(policy.heads.target[0].out.bias.shape)
    assert_close(twin.evaluate(batch).logps, before)


def test_a_model_whose_head_cannot_be_called_apart_is_refused(new_policy):
    policy = new_policy()
    policy.trunk.native = True
    with pytest.raises(ConfigError, match="Q heads read the states below the output layer"):
        new_heads(policy.trunk, width=None, seed=0)
