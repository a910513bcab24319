import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.kl import (
    KL_LOSSES,
    adaptive_coefficient,
    dual_coefficient,
    forward_kl_loss,
    k1,
    k2,
    k3,
    reverse_kl_loss,
)


def test_estimators_worked_by_hand():
    logps, ref = tensor([-1.0]), tensor([-1.5])
    assert_close(k1(logps, ref), tensor([0.5]))
    assert_close(k2(logps, ref), tensor([0.125]))
    assert_close(k3(logps, ref), tensor([0.6065307 - 1 + 0.5]))


@pytest.mark.parametrize("estimate", [k1, k2, k3])
def test_equal_models_have_no_divergence(estimate):
    logps = torch.randn(3, 4)
    assert not estimate(logps, logps).any()


def test_k3_is_never_negative():
    assert (k3(torch.randn(1000), torch.randn(1000)) >= 0).all()


def test_reverse_loss_has_value_of_half_the_squared_sum_and_ignores_padding():
    logps, ref = tensor([[0.0, 0.3, 0.5, 9.0]]), torch.zeros(1, 4)
    mask = tensor([[False, True, True, False]])
    out = reverse_kl_loss(logps, ref, mask)
    assert float(out.sum()) == pytest.approx(0.32)
    assert not out[~mask].any()


@pytest.mark.parametrize("loss", KL_LOSSES.values())
def test_an_empty_mask_costs_nothing(loss):
    logps = torch.randn(2, 3, requires_grad=True)
    out = loss(logps, torch.randn(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    out.sum().backward()
    assert not out.any()
    assert torch.isfinite(logps.grad).all()


def test_forward_loss_is_k3_where_scored():
    logps, ref = torch.randn(2, 3), torch.randn(2, 3)
    mask = tensor([[True, False, True], [False, True, True]])
    assert_close(forward_kl_loss(logps, ref, mask)[mask], k3(logps, ref)[mask])


def test_adaptive_controller():
    on_target = adaptive_coefficient(0.2, 6.0, target=6.0, horizon=1000, num_sequences=64)
    assert on_target == 0.2
    twice = adaptive_coefficient(0.2, 12.0, target=6.0, horizon=1000, num_sequences=64)
    assert twice == pytest.approx(0.2 * (1 + 0.2 * 64 / 1000))
    nothing = adaptive_coefficient(0.2, 0.0, target=6.0, horizon=1000, num_sequences=64)
    assert nothing == pytest.approx(0.2 * (1 - 0.2 * 64 / 1000))


def test_dual_ascent_rises_above_the_constraint_and_falls_below():
    assert dual_coefficient(0.1, 5.0, target=4.0, rate=0.1) > 0.1
    assert dual_coefficient(0.1, 3.0, target=4.0, rate=0.1) < 0.1
    assert dual_coefficient(0.1, 4.0, target=4.0, rate=0.1) == 0.1
