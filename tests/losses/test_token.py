import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.token import (
    advantage_weighted,
    apa,
    cispo,
    clipped,
    is_clipped,
    nll,
    reinforce,
    sequence_mean,
)

SCORE_FUNCTION = (clipped, reinforce, cispo)


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


@pytest.mark.parametrize("loss", SCORE_FUNCTION)
def test_at_ratio_one_every_policy_loss_has_the_gradient_of_reinforce(loss):
    logps = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(3, 5, dtype=torch.float64)
    found = torch.autograd.grad(loss(logps, logps.detach(), advantages).sum(), logps)[0]
    assert_close(found, -advantages)


@pytest.mark.parametrize("loss", SCORE_FUNCTION)
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


def test_cispo_goes_on_learning_where_the_clip_stops_clipped():
    logps = tensor([[3.0, 0.01]]).log().requires_grad_()
    old, advantages = torch.zeros(1, 2), tensor([[2.0, 2.0]])
    # weights min(3, 1 + 0.5) and 0.01: no floor
    assert_close(torch.autograd.grad(cispo(logps, old, advantages, high=0.5).sum(), logps)[0], tensor([[-3.0, -0.02]]))
    assert torch.autograd.grad(clipped(logps, old, advantages).sum(), logps)[0][0, 0] == 0


def test_apa_is_zero_at_its_target_and_pulls_towards_it():
    ref, advantages = tensor([[-1.0, -2.0]]), tensor([[0.6, -0.4]])
    assert_close(apa(ref + advantages / 2, ref, advantages, beta=2.0), torch.zeros(1, 2))
    logps = ref.clone().requires_grad_()
    # (0 - 0.3)^2, (0 + 0.2)^2; slope -2 A / beta
    assert_close(apa(logps, ref, advantages, beta=2.0), tensor([[0.09, 0.04]]))
    slope = torch.autograd.grad(apa(logps, ref, advantages, beta=2.0).sum(), logps)[0]
    assert_close(slope, tensor([[-0.6, 0.4]]))


def test_advantage_weighted_worked_by_hand_and_bounded():
    logps = tensor([[-1.0, -1.0]])
    found = advantage_weighted(logps, logps, tensor([[0.0, 99.0]]), beta=2.0, most=20.0)
    assert_close(found, tensor([[1.0, 20.0]]))


def test_the_mean_over_a_sequence_sees_its_scored_tokens_only():
    logps, mask = tensor([[-1.0, -3.0, -50.0]]), tensor([[True, True, False]])
    assert_close(sequence_mean(logps, mask), tensor([[-2.0, -2.0, 0.0]]))


def test_a_whole_sequence_is_clipped_or_not():
    # GSPO: ratios of tokens 3 and 1 have the geometric mean 1.73; both stop learning, or both go on
    logps, mask = tensor([[3.0, 1.0]]).log().requires_grad_(), torch.ones(1, 2, dtype=torch.bool)
    old = torch.zeros(1, 2)
    for high, stops in ((0.2, True), (1.0, False)):
        loss = clipped(sequence_mean(logps, mask), old, torch.ones(1, 2), high=high).sum()
        slopes = torch.autograd.grad(loss, logps)[0]
        assert bool((slopes == 0).all()) is stops
        assert_close(slopes[0, 0], slopes[0, 1])
