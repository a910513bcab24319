import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.advantage import (
    GROUP_ADVANTAGES,
    batch_mean,
    gae,
    group_mean,
    group_normalised,
    leave_one_out,
    whiten,
)


def test_gae_worked_by_hand():
    # gamma 0.5, lambda 0.5; values 1, 2; rewards 0, 4: d2 = 4 - 2 = 2, d1 = 0 + 0.5 * 2 - 1 = 0, A1 = 0.25 * 2
    mask = torch.ones(1, 2, dtype=torch.bool)
    out = gae(tensor([[0.0, 4.0]]), tensor([[1.0, 2.0]]), mask, gamma=0.5, lam=0.5)
    assert_close(out, tensor([[0.5, 2.0]]))


def test_lambda_one_is_monte_carlo_and_zero_is_the_td_error():
    rewards, values = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    mask = torch.ones(3, 5, dtype=torch.bool)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    assert_close(gae(rewards, values, mask, lam=1.0), to_go - values)
    following = torch.cat([values[:, 1:], torch.zeros(3, 1).double()], 1)
    assert_close(gae(rewards, values, mask, lam=0.0), rewards + following - values)


def test_tokens_that_others_wrote_are_skipped_not_zeroed():
    mask = tensor([[True, False, False, True]])
    rewards, values = tensor([[1.0, 7.0, 7.0, 2.0]]), tensor([[0.5, 9.0, 9.0, 0.25]])
    short = gae(rewards[mask][None], values[mask][None], torch.ones(1, 2, dtype=torch.bool))
    out = gae(rewards, values, mask)
    assert_close(out[mask][None], short)
    assert not out[~mask].any()


def test_padding_on_either_side_changes_nothing():
    rewards, values, mask = torch.randn(2, 3), torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool)
    junk = torch.full((2, 2), 5.0)
    no = torch.zeros(2, 2, dtype=torch.bool)
    plain = gae(rewards, values, mask)
    right = gae(torch.cat([rewards, junk], 1), torch.cat([values, junk], 1), torch.cat([mask, no], 1))
    left = gae(torch.cat([junk, rewards], 1), torch.cat([junk, values], 1), torch.cat([no, mask], 1))
    assert_close(right[:, :3], plain)
    assert_close(left[:, 2:], plain)


def test_group_advantages_worked_by_hand():
    rewards = tensor([[1.0, 2.0, 6.0]])
    assert_close(group_mean(rewards), tensor([[-2.0, -1.0, 3.0]]))
    assert_close(leave_one_out(rewards), tensor([[-3.0, -1.5, 4.5]]))  # 1 - (2 + 6) / 2, …
    std = 2.6457513
    assert_close(group_normalised(rewards, eps=0.0), tensor([[-2 / std, -1 / std, 3 / std]]))


def test_two_rollouts_leave_one_out_is_the_difference():
    assert_close(leave_one_out(tensor([[3.0, 1.0]])), tensor([[2.0, -2.0]]))


@pytest.mark.parametrize("advantage", GROUP_ADVANTAGES.values())
def test_equal_rewards_teach_nothing(advantage):
    assert not advantage(torch.full((4, 3), 2.5)).any()


@pytest.mark.parametrize("advantage", GROUP_ADVANTAGES.values())
def test_order_within_a_group_does_not_matter(advantage):
    rewards = torch.randn(5, 4).double()
    order = tensor([2, 0, 3, 1])
    assert_close(advantage(rewards[:, order]), advantage(rewards)[:, order])


@pytest.mark.parametrize("advantage", [group_mean, leave_one_out, group_normalised])
def test_groups_do_not_see_each_other(advantage):
    rewards = torch.randn(5, 4).double()
    alone = torch.cat([advantage(row[None]) for row in rewards])
    assert_close(advantage(rewards), alone)


def test_a_lone_rollout():
    with pytest.raises(ValueError, match="group >= 2"):
        leave_one_out(torch.ones(3, 1))
    assert not group_normalised(torch.ones(3, 1)).any()
    assert_close(batch_mean(tensor([[2.0]])), tensor([[2.0]]))


def test_whitening_sees_only_the_mask():
    mask = tensor([[True, True, False], [True, False, False]])
    x = tensor([[1.0, 2.0, 99.0], [6.0, -99.0, 0.0]])
    out = whiten(x, mask)
    assert float(out[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert float(out[mask].std()) == pytest.approx(1, abs=1e-5)
    assert not out[~mask].any()
    kept = whiten(x, mask, shift_mean=False)
    assert float(kept[mask].mean()) == pytest.approx(3.0)


def test_whitening_one_token_leaves_it():
    out = whiten(tensor([[4.0, 0.0]]), tensor([[True, False]]))
    assert_close(out, tensor([[4.0, 0.0]]))


@pytest.mark.parametrize("reward", [27.3, 1000.1])
def test_equal_rewards_give_exactly_nothing(reward):
    assert not group_normalised(torch.full((2, 7), reward)).any()
    assert not leave_one_out(torch.full((2, 7), reward)).any()
