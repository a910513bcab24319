import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.q import FAR, conservative, expectile, perturbed, squared_q, td_targets


def test_td_targets_worked_by_hand():
    # One row: prompt, two tokens, a tool's token, two tokens; the score on the last.
    mask = tensor([[False, True, True, False, True, True, False]])
    values = tensor([[9.0, 1.0, 2.0, 9.0, 4.0, 8.0, 9.0]])
    rewards = tensor([[0.0, 0.0, 0.5, 0.0, 0.0, 3.0, 0.0]])
    found = td_targets(rewards, values, mask, gamma=0.5)
    # V(next): 2, 4 (behind the tool's token), 8, and nothing behind the end: 0 + 1, 0.5 + 2, 0 + 4, 3.
    assert_close(found[mask], tensor([1.0, 2.5, 4.0, 3.0]))


def test_the_last_reward_is_not_discounted_and_a_cut_answer_has_no_future():
    rewards, mask = tensor([[0.0, 2.0]]), tensor([[False, True]])
    assert_close(td_targets(rewards, tensor([[5.0, 7.0]]), mask, gamma=0.1)[:, 1], tensor([2.0]))


def test_td_targets_give_values_no_gradient():
    values = torch.randn(2, 4, requires_grad=True)
    assert not td_targets(torch.randn(2, 4), values, torch.ones(2, 4, dtype=torch.bool)).requires_grad


def test_squared_q_adds_up_both_heads():
    assert_close(squared_q(tensor([[[1.0, 4.0]]]), tensor([[2.0]])), tensor([[5.0]]))  # 1 + 4


@pytest.mark.parametrize(("value", "expected"), [(1.0, 0.7 * 4), (5.0, 0.3 * 4), (3.0, 0.0)])
def test_expectile_weighs_targets_above_by_tau(value, expected):
    assert_close(expectile(tensor([[value]]), tensor([[3.0]]), tau=0.7), tensor([[expected]]))


def test_expectile_of_a_half_is_half_the_squared_error():
    values, targets = torch.randn(3, 5), torch.randn(3, 5)
    assert_close(expectile(values, targets, tau=0.5), (values - targets).square() / 2)


def test_the_conservative_term_is_the_cross_entropy_of_both_heads():
    q = tensor([[0.0, 0.0], [1.0, 0.0]])  # two heads over two tokens; the first was written
    # log 2 and log(1 + e^-1)
    assert_close(conservative(q.log_softmax(1)[:, 0].view(1, 1, 2)), tensor([[0.693147 + 0.313262]]))


def test_perturbed_logits_are_those_of_the_product_and_v_falls_out():
    logits, q, v = torch.randn(4, 7), torch.randn(4, 7), torch.randn(4, 1)
    product = logits.softmax(1) * (0.8 * (q - v)).exp()
    assert_close(perturbed(logits, q, beta=0.8).softmax(1), product / product.sum(1, keepdim=True))


def test_tokens_are_cut_after_the_perturbation():
    logits, q = tensor([[3.0, 2.0, 1.0, 0.0]]), tensor([[0.0, 0.0, 0.0, 4.0]])
    assert_close(perturbed(logits, q, beta=1.0, top_k=2), tensor([[3.0, 3.0 - FAR, 3.0 - FAR, 4.0]]))
    assert perturbed(logits, q, beta=1.0, top_k=2).softmax(1)[0, 1] == 0
    assert_close(perturbed(logits, q, beta=1.0, top_k=9), logits + q)
