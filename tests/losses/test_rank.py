import math
from itertools import permutations

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.rank import RANK_LOSSES, Ranked, all_pairs, centring, mixed_uniform, plackett_luce


def ranked(scores, ranks=None, margin=0.0, agreement=1.0) -> Ranked:
    s = tensor(scores, dtype=torch.float64)
    r = torch.arange(s.shape[1]).expand(s.shape) if ranks is None else tensor(ranks)
    n = torch.ones(len(s), dtype=torch.float64)
    return Ranked(s, r, torch.ones_like(s, dtype=torch.bool), margin * n, agreement * n)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_bradley_terry_at_equal_scores_is_log_2_with_slopes_of_a_half():
    s = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = all_pairs(ranked([[0.0, 0.0]])._replace(scores=s))
    assert_close(loss, tensor([math.log(2)]).double())
    assert_close(torch.autograd.grad(loss.sum(), s)[0], tensor([[-0.5, 0.5]]).double())


def test_three_answers_worked_by_hand():
    # gaps 1, 3, 2
    expected = (softplus(-1) + softplus(-3) + softplus(-2)) / 3
    assert_close(all_pairs(ranked([[3.0, 2.0, 0.0]])), tensor([expected]).double())


def test_margin_worked_by_hand_and_increasing():
    # METHODS A2: at a gap of 0 the loss is log(1 + e^m), the slope sigma(m)
    losses = [float(all_pairs(ranked([[0.0, 0.0]], margin=m))) for m in (0.0, 1.0, 2.0)]
    assert losses == pytest.approx([softplus(m) for m in (0.0, 1.0, 2.0)])


def test_soft_label_of_a_half_has_no_gradient_at_a_gap_of_zero():
    s = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    loss = all_pairs(ranked([[0.0, 0.0]], agreement=0.5)._replace(scores=s))
    assert not torch.autograd.grad(loss.sum(), s)[0].any()


@pytest.mark.parametrize("loss", [all_pairs, plackett_luce])
def test_a_pair_is_a_ranking_of_two(loss):
    assert_close(loss(ranked([[1.3, 0.4]])), tensor([softplus(-0.9)]).double())


def test_plackett_luce_probabilities_add_up_to_one_over_all_orders():
    scores = [0.3, -1.0, 0.8, 0.1]
    orders = [[scores[i] for i in order] for order in permutations(range(4))]
    assert float(torch.exp(-plackett_luce(ranked(orders))).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", RANK_LOSSES.values())
def test_only_differences_of_scores_count(loss):
    a, b = ranked([[1.0, 0.2]]), ranked([[4.0, 3.2]])
    assert_close(loss(a), loss(b))


@pytest.mark.parametrize("loss", [all_pairs, plackett_luce])
def test_absent_answers_change_nothing(loss):
    full = ranked([[1.0, 0.2]])
    wide = Ranked(
        torch.cat([full.scores, tensor([[99.0]]).double()], 1),
        tensor([[0, 1, 0]]),
        tensor([[True, True, False]]),
        full.margin,
        full.agreement,
    )
    scores = wide.scores.clone().requires_grad_()
    assert_close(loss(wide), loss(full))
    grad = torch.autograd.grad(loss(wide._replace(scores=scores)).sum(), scores)[0]
    assert float(grad[0, 2]) == 0.0
    assert torch.isfinite(grad).all()


def test_ties_cost_nothing_as_pairs_and_are_symmetric_in_plackett_luce():
    tied = ranked([[1.0, -2.0]], ranks=[[0, 0]])
    assert float(all_pairs(tied)) == 0.0
    assert_close(plackett_luce(tied), plackett_luce(ranked([[-2.0, 1.0]], ranks=[[0, 0]])))
    s = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    grad = torch.autograd.grad(plackett_luce(tied._replace(scores=s)).sum(), s)[0]
    assert_close(grad, torch.zeros(1, 2).double())


@pytest.mark.parametrize("loss", [all_pairs, plackett_luce])
def test_gradients_of_an_item_add_up_to_zero(loss):
    s = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    grad = torch.autograd.grad(loss(ranked(torch.zeros(3, 4).tolist())._replace(scores=s)).sum(), s)[0]
    assert_close(grad.sum(1), torch.zeros(3).double())


def test_mixed_uniform_is_bounded_and_forgives_confident_disagreement():
    out = mixed_uniform(ranked([[-100.0, 100.0]]))
    assert_close(out, tensor([-math.log(0.05)]).double())
    with pytest.raises(ValueError, match="rankings of 3"):
        mixed_uniform(ranked([[1.0, 2.0, 3.0]]))


def test_centring_is_the_square_of_the_sum():
    assert_close(centring(ranked([[1.5, -0.5]])), tensor([1.0]).double())
