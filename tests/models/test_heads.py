import pytest
import torch
from torch.testing import assert_close

from clew.models import heads
from clew.models.heads import plain_linear, token_stats


@pytest.fixture
def linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(6, 11, dtype=torch.float64)


def by_the_book(head, hidden, targets, temperature):
    logps = (head(hidden) / temperature).log_softmax(1)
    return logps.gather(1, targets[:, None])[:, 0], -(logps.exp() * logps).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kept", [1 << 24, 33, 66, 77])
def test_statistics_and_gradients_are_those_of_log_softmax(linear, temperature, kept, monkeypatch):
    monkeypatch.setattr(heads, "KEPT", kept)
    monkeypatch.setattr(heads, "AT_ONCE", kept)
    hidden = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (10,))
    mix = torch.randn(2, 10, dtype=torch.float64)
    found, expected = [], []
    for stats, into in ((token_stats, found), (by_the_book, expected)):
        logps, entropy = stats(linear, hidden, targets, temperature)
        loss = (mix[0] * logps + mix[1] * entropy).sum()
        into += [logps, entropy, *torch.autograd.grad(loss, [hidden, linear.weight, linear.bias])]
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_chunks_of_a_linear_layer_and_of_any_other_head_have_the_same_gradients(linear, monkeypatch):
    monkeypatch.setattr(heads, "KEPT", 33)
    monkeypatch.setattr(heads, "AT_ONCE", 33)
    hidden = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (10,))
    assert plain_linear(linear) is linear and plain_linear(lambda h: linear(h)) is None
    for i in (0, 1):
        by_chunks, checkpointed = (
            torch.autograd.grad(token_stats(head, hidden, targets, 0.7)[i].sum(), [hidden, *linear.parameters()])
            for head in (linear, lambda h: linear(h))
        )
        for a, b in zip(by_chunks, checkpointed, strict=True):
            assert_close(a, b)


def test_a_frozen_layer_gets_no_gradient(linear, monkeypatch):
    monkeypatch.setattr(heads, "KEPT", 33)
    monkeypatch.setattr(heads, "AT_ONCE", 33)
    linear.requires_grad_(False)
    hidden = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    token_stats(linear, hidden, torch.randint(11, (10,)))[0].sum().backward()
    assert hidden.grad is not None and linear.weight.grad is None


def test_entropy_alone_and_logps_alone_have_their_gradients(linear):
    hidden = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (4,))
    for i in (0, 1):
        ours = torch.autograd.grad(token_stats(linear, hidden, targets)[i].sum(), hidden)[0]
        theirs = torch.autograd.grad(by_the_book(linear, hidden, targets, 1.0)[i].sum(), hidden)[0]
        assert_close(ours, theirs)


def test_a_second_backward_pass_is_refused(linear):
    loss = token_stats(linear, torch.randn(4, 6, dtype=torch.float64), torch.randint(11, (4,)))[0].sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_token_scored(linear):
    logps, entropy = token_stats(linear, torch.zeros(0, 6, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
    assert logps.shape == entropy.shape == (0,)


def test_half_precision_logits_are_summed_in_float32():
    head = torch.nn.Linear(6, 11, dtype=torch.bfloat16)
    logps, _ = token_stats(head, torch.randn(3, 6, dtype=torch.bfloat16), torch.tensor([0, 1, 2]))
    assert logps.dtype == torch.float32
