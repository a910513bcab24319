import math
from itertools import permutations

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.rank import (
    RANK_LOSSES,
    Ranked,
    all_pairs,
    centring,
    crowd_bt,
    mixed_uniform,
    plackett_luce,
    rater_prior,
)


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


def by(scores, reliability, **options) -> Ranked:
    odds = torch.logit(tensor(reliability, dtype=torch.float64))
    return ranked(scores, **options)._replace(log_odds=odds)


def test_crowd_bt_worked_by_hand():
    # at equal scores P = 1/2 whoever says so, and the slope is -(2h - 1) / 2
    s = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    loss = crowd_bt(by([[0.0, 0.0]] * 2, [0.8, 0.1])._replace(scores=s))
    assert_close(loss, tensor([math.log(2)] * 2).double())
    assert_close(torch.autograd.grad(loss.sum(), s)[0], tensor([[-0.3, 0.3], [0.4, -0.4]]).double())
    # h = 0.75, gap log 3: P = 0.75 * 0.75 + 0.25 * 0.25 = 0.625
    assert_close(crowd_bt(by([[math.log(3), 0.0]], [0.75])), tensor([-math.log(0.625)]).double())


def test_a_rater_who_never_errs_is_bradley_terry():
    pairs = {"scores": [[1.3, 0.4], [0.2, 0.9]], "margin": 0.3, "agreement": 0.8}
    assert_close(crowd_bt(ranked(**pairs)), all_pairs(ranked(**pairs)))
    assert_close(crowd_bt(by(reliability=[1 - 1e-12] * 2, **pairs)), all_pairs(ranked(**pairs)))


def test_a_coin_leaves_the_scores_alone():
    s = tensor([[2.0, -1.0]], dtype=torch.float64, requires_grad=True)
    loss = crowd_bt(by([[2.0, -1.0]], [0.5])._replace(scores=s))
    assert_close(torch.autograd.grad(loss.sum(), s)[0], torch.zeros(1, 2).double())


def test_a_mirrored_reward_with_mirrored_raters_costs_the_same():
    pairs, reliability = tensor([[1.3, 0.4], [0.2, 0.9]]).double(), tensor([0.9, 0.3]).double()
    there = crowd_bt(by(pairs.tolist(), reliability.tolist()))
    assert_close(crowd_bt(by((-pairs).tolist(), (1 - reliability).tolist())), there)


def test_an_adversary_label_is_used_inverted():
    assert_close(crowd_bt(by([[1.0, 0.0]], [0.1])), crowd_bt(by([[0.0, 1.0]], [0.9])))


def test_crowd_bt_is_finite_and_has_gradients_where_scores_are_far_apart():
    s = tensor([[80.0, -80.0], [-80.0, 80.0]], dtype=torch.float32, requires_grad=True)
    odds = tensor([-30.0, 30.0], requires_grad=True)
    one = torch.ones(2)
    loss = crowd_bt(Ranked(s, tensor([[0, 1]] * 2), torch.ones(2, 2, dtype=torch.bool), 0 * one, one, odds)).sum()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (s, odds)))


def test_crowd_bt_compares_two():
    with pytest.raises(ValueError, match="rankings of 3"):
        crowd_bt(ranked([[1.0, 2.0, 3.0]]))


def test_the_prior_is_lowest_where_right_stands_to_wrong():
    odds = torch.log(tensor([4.0]).double()).requires_grad_()
    prior = rater_prior(odds, tensor([4.0]).double(), tensor([1.0]).double())
    assert_close(prior, tensor([-4 * math.log(0.8) - math.log(0.2)]).double())
    assert abs(float(torch.autograd.grad(prior.sum(), odds)[0])) < 1e-12
