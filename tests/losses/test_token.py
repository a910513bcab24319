import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.token import POLICY_LOSSES, clipped, is_clipped, nll, reinforce


def test_nll_is_minus_the_log_probability():
    assert_close(nll(tensor([[-1.5, -0.25]])), tensor([[1.5, 0.25]]))


def slope(advantage: float, ratio: float, **options: float) -> float:
    logps = tensor([[ratio]], dtype=torch.float64).log().requires_grad_()
    loss = clipped(logps, torch.zeros(1, 1, dtype=torch.float64), tensor([[advantage]]).double(), **options)
    return float(torch.autograd.grad(loss.sum(), logps)[0])


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected"),
    # METHODS B1: dL/dlog rho of the clipped loss, eps 0.2.
    [(1, 0.7, -0.7), (1, 1.0, -1.0), (1, 1.3, 0.0), (-1, 0.7, 0.0), (-1, 1.0, 1.0), (-1, 1.3, 1.3)],
)
def test_clipped_gradient_on_both_sides_of_the_clip(advantage, ratio, expected):
    assert slope(advantage, ratio) == pytest.approx(expected)


def test_clipped_value_worked_by_hand():
    # rho = 1.5, A = 2: min(3.0, 1.2 * 2) = 2.4; rho = 0.5, A = -1: min(-0.5, -0.8) = -0.8
    logps, old = tensor([[1.5, 0.5]]).log(), torch.zeros(1, 2)
    assert_close(clipped(logps, old, tensor([[2.0, -1.0]])), tensor([[-2.4, 0.8]]))


def test_clip_higher_lets_good_tokens_rise_further():
    assert slope(1, 1.25) == 0.0
    assert slope(1, 1.25, high=0.28) == pytest.approx(-1.25)


def test_dual_clip_bounds_the_loss_of_bad_tokens():
    logps, old = tensor([[10.0, 10.0]]).log(), torch.zeros(1, 2)
    advantages = tensor([[-1.0, 1.0]])
    assert_close(clipped(logps, old, advantages), tensor([[10.0, -1.2]]))
    assert_close(clipped(logps, old, advantages, dual=3.0), tensor([[3.0, -1.2]]))


@pytest.mark.parametrize("loss", POLICY_LOSSES.values())
def test_at_ratio_one_every_policy_loss_has_the_gradient_of_reinforce(loss):
    logps = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(3, 5, dtype=torch.float64)
    found = torch.autograd.grad(loss(logps, logps.detach(), advantages).sum(), logps)[0]
    assert_close(found, -advantages)


@pytest.mark.parametrize("loss", POLICY_LOSSES.values())
def test_no_advantage_no_gradient(loss):
    logps = torch.randn(2, 3, requires_grad=True)
    grad = torch.autograd.grad(loss(logps, torch.randn(2, 3), torch.zeros(2, 3)).sum(), logps)[0]
    assert not grad.any()


def test_is_clipped_is_where_the_gradient_is_zero():
    ratio = torch.linspace(0.5, 1.5, 11).repeat(2, 1)
    advantages = torch.cat([torch.ones(1, 11), -torch.ones(1, 11)])
    logps = ratio.log().requires_grad_()
    grad = torch.autograd.grad(clipped(logps, torch.zeros(2, 11), advantages).sum(), logps)[0]
    assert_close(is_clipped(logps.detach(), torch.zeros(2, 11), advantages), grad == 0)


def test_reinforce_does_not_read_old_log_probabilities():
    logps, advantages = tensor([[-2.0]]), tensor([[3.0]])
    assert_close(reinforce(logps, tensor([[99.0]]), advantages), tensor([[6.0]]))
