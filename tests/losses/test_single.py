import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.single import POINT_LOSSES, huber, kto, mismatched_kl, ordered_cuts, ordinal, regression, thumbs


def test_kto_worked_by_hand():
    # beta 1, z 0.5: good with h = 1.5 costs 1 - sigma(1); bad with h = 1.5 costs 1 - sigma(-1)
    out = kto(tensor([1.5, 1.5]), tensor([True, False]), tensor([0.5, 0.5]), beta=1.0)
    assert_close(out, tensor([0.268941, 0.731059]))


def test_kto_at_the_reference_is_half_its_weight():
    out = kto(torch.zeros(2), tensor([True, False]), torch.zeros(2), desirable_weight=1.2, undesirable_weight=0.8)
    assert_close(out, tensor([0.6, 0.4]))


def test_the_reference_point_is_never_negative_and_carries_no_gradient():
    ratios = tensor([-3.0, 1.0], requires_grad=True)
    assert float(mismatched_kl(ratios)) == 0.0
    assert float(mismatched_kl(tensor([3.0, 1.0]))) == 2.0
    assert not mismatched_kl(ratios).requires_grad


def test_thumbs_is_the_logistic_loss():
    assert_close(thumbs(tensor([0.0, 2.0]), tensor([1.0, 0.0])), tensor([math.log(2), math.log(1 + math.exp(2))]))


def test_ratings():
    assert_close(regression(tensor([1.0]), tensor([3.0])), tensor([4.0]))
    assert_close(huber(tensor([0.5, 5.0]), tensor([0.0, 0.0])), tensor([0.125, 4.5]))


@pytest.mark.parametrize("loss", POINT_LOSSES.values())
def test_point_losses_are_per_answer(loss):
    assert loss(torch.randn(4), torch.tensor([0.0, 1.0, 1.0, 0.0])).shape == (4,)


def test_ordinal_levels_have_probabilities_that_add_up_to_one():
    cuts = ordered_cuts(tensor([-1.0, 0.3, -0.2]).double())
    assert (cuts.diff() > 0).all()
    total = sum(torch.exp(-ordinal(tensor([0.4]).double(), tensor([k]), cuts)) for k in range(4))
    assert_close(total, torch.ones(1).double())


def test_ordinal_with_two_levels_is_thumbs_with_a_threshold():
    scores, cut = torch.randn(5).double(), tensor([0.7]).double()
    levels = tensor([0, 1, 1, 0, 1])
    assert_close(ordinal(scores, levels, cut), thumbs(scores - cut, levels))


def test_ordinal_is_finite_far_from_the_cuts():
    cuts = tensor([0.0, 1.0])
    scores = tensor([-80.0, 80.0], requires_grad=True)
    loss = ordinal(scores, tensor([2, 0]), cuts)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(scores.grad).all()
