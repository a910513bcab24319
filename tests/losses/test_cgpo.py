"""CGPO's optimisers by numbers worked by hand, laws and edges."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.cgpo import Judged, best_and_worst, calibrated, codpo, crpg, crraft, regularised
from clew.losses.pair import PairLogps

THIRD = math.log(2)
"""sigma(log 2) = 2/3, sigma(-log 2) = 1/3."""


def judged(rewards, satisfied, *, ratios=None, baseline=0.0, baseline_satisfied=True) -> Judged:
    rewards = tensor([rewards])
    ratios = torch.zeros_like(rewards) if ratios is None else tensor([ratios])
    return Judged(rewards, tensor([satisfied]), ratios, tensor([baseline]), tensor([baseline_satisfied]))


def test_a_calibrated_reward_is_measured_against_the_baseline():
    assert_close(calibrated(tensor([[THIRD + 5, 5.0]]), tensor([5.0])), tensor([[2 / 3, 0.5]]))


def test_crpg_on_numbers_worked_by_hand():
    answers = judged([THIRD, 9.0, -THIRD], [True, False, True], ratios=[2.0, 0.0, -4.0])
    # 2/3 * (1 - 2/8), 0 for the violator, 1/3 * (1 + 4/8)
    assert_close(regularised(answers, kl_max=8.0), tensor([[0.5, 0.0, 0.5]]))
    assert_close(crpg(answers, kl_max=8.0), tensor([[1 / 18, -1 / 9, 1 / 18, 0.0]]))


def test_crpg_takes_its_mean_over_all_prompts():
    two = Judged(tensor([[THIRD, THIRD], [-THIRD, -THIRD]]), torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2),
                 torch.zeros(2), torch.ones(2, dtype=torch.bool))  # fmt: skip
    assert_close(crpg(two), tensor([[1 / 24, 1 / 24, 0.0], [-1 / 24, -1 / 24, 0.0]]))


def test_crpg_of_equal_rewards_is_exactly_nothing():
    assert crpg(judged([0.3, 0.3, 0.3], [True, True, True], baseline=0.1)).eq(0).all()


@pytest.mark.parametrize(
    ("satisfied", "ratios", "expected"),
    [
        ([False, True, True], [0.0, 0.0, 0.0], [0.0, 2 / 3, 0.0, 0.0]),
        ([False, True, True], [0.0, 3.1, 3.0], [0.0, 0.0, 1 / 3, 0.0]),
        ([False, False, False], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5]),
        ([True, True, True], [4.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.5]),
    ],
)
def test_crraft_learns_the_best_that_is_allowed_or_else_the_baseline(satisfied, ratios, expected):
    rewards = [THIRD + 1, THIRD, -THIRD]
    assert_close(crraft(judged(rewards, satisfied, ratios=ratios), kl_max=3.0), tensor([expected]))


def test_crraft_skips_a_prompt_whose_baseline_fails_too_and_still_counts_it():
    two = Judged(tensor([[THIRD, 0.0], [9.0, 9.0]]), tensor([[True, True], [False, False]]), torch.zeros(2, 2),
                 torch.zeros(2), tensor([True, False]))  # fmt: skip
    assert_close(crraft(two), tensor([[1 / 3, 0.0, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("shift", [0.0, -100.0])
def test_a_violator_is_never_taken_for_the_best_whatever_the_sign_of_rewards(shift):
    rewards = [shift - 1, shift - 2, shift - 3]
    assert crraft(judged(rewards, [False, False, True], baseline=shift))[0, 2] > 0
    assert best_and_worst(judged(rewards, [False, False, True])).tolist() == [[2, 1]]
    assert best_and_worst(judged(rewards, [True, True, False])).tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("rewards", "satisfied", "expected"),
    [
        ([1.0, 2.0, 3.0], [True, True, True], [2, 0]),
        ([1.0, 2.0, 3.0], [True, False, False], [0, 1]),
        ([1.0, 2.0, 3.0], [False, False, False], [-1, -1]),
        ([2.0, 2.0, 2.0], [True, True, True], [-1, -1]),
        ([2.0, 2.0, 2.0], [True, False, True], [0, 1]),
    ],
)
def test_pairs_are_the_best_that_passes_and_the_worst_violator(rewards, satisfied, expected):
    assert best_and_worst(judged(rewards, satisfied)).tolist() == [expected]


def test_codpo_on_numbers_worked_by_hand():
    pair = PairLogps(tensor([-6.0]), tensor([-2.0]), tensor([-7.0]), tensor([-1.0]), tensor([3]), tensor([4]))
    # gap = 1 - (-1) = 2; -log sigma(0.5 * 2) = 0.313262, and 0.1 * 6 / 3
    assert_close(codpo(pair, beta=0.5, lam=0.1), tensor([0.513262]))


def test_the_second_term_of_codpo_raises_the_chosen_answer_alone():
    logps = tensor([-6.0, -2.0], requires_grad=True)
    pair = PairLogps(logps[:1], logps[1:], *(tensor([x]) for x in (-6.0, -2.0)), tensor([3]), tensor([4]))
    (codpo(pair, beta=0.5, lam=0.6) - codpo(pair, beta=0.5, lam=0.0)).sum().backward()
    assert_close(logps.grad, tensor([-0.2, 0.0]))
