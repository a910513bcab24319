import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.value import VALUE_LOSSES, clipped_squared, squared


def test_values_worked_by_hand():
    values, old, returns = tensor([[1.0, 1.0]]), tensor([[0.0, 0.9]]), tensor([[2.0, 2.0]])
    assert_close(squared(values, old, returns), tensor([[0.5, 0.5]]))
    assert_close(clipped_squared(values, old, returns, clip=0.2), tensor([[1.62, 0.5]]))  # (0.2 - 2)^2 / 2


def test_clipping_never_costs_less():
    values, old, returns = torch.randn(3, 50, 2).unbind(0)
    assert (clipped_squared(values, old, returns) >= squared(values, old, returns)).all()


def test_no_gradient_once_a_step_has_gone_too_far_towards_the_return():
    values = tensor([[0.5]], requires_grad=True)
    clipped_squared(values, tensor([[0.0]]), tensor([[1.0]])).sum().backward()
    assert float(values.grad) == 0.0


@pytest.mark.parametrize("loss", VALUE_LOSSES.values())
def test_right_values_cost_nothing(loss):
    x = torch.randn(2, 3)
    assert not loss(x, x, x).any()
