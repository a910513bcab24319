import math
from itertools import pairwise

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.nash import geometric_mixture, of_answers, of_tokens

MASK = tensor([[False, True, True, True], [False, True, True, False]])
LOGPS = tensor([[0.0, -1.0, -2.0, -3.0], [0.0, -1.0, -1.0, 0.0]])
REF = tensor([[0.0, -1.5, -1.0, -3.5], [0.0, -1.0, -2.0, 9.0]])
"""Log-ratios 0.5, -1, 0.5 (sum 0) and 0, 1 (sum 1); behind the mask there is anything."""
WINS = tensor([0.9, 0.25])


def test_factors_on_numbers_worked_by_hand():
    whole = of_answers(WINS, LOGPS, REF, MASK, tau=0.1)
    assert_close(whole, tensor([[0.0, 0.4, 0.4, 0.4], [0.0, -0.35, -0.35, 0.0]]))
    to_come = of_tokens(WINS, LOGPS, REF, MASK, tau=0.1)
    assert_close(to_come, tensor([[0.0, 0.4, 0.45, 0.35], [0.0, -0.35, -0.35, 0.0]]))


def test_the_first_token_answers_for_the_whole_and_each_for_its_own_ratio_more_than_the_next():
    torch.manual_seed(0)
    logps, ref, wins = torch.randn(3, 5), torch.randn(3, 5), torch.rand(3)
    mask = tensor([[False] + [True] * 4, [False, True, False, True, True], [False, True, True, False, False]])
    whole, to_come = (f(wins, logps, ref, mask, tau=0.7) for f in (of_answers, of_tokens))
    for row in range(3):
        places = mask[row].nonzero().flatten().tolist()
        assert to_come[row, places[0]] == pytest.approx(float(whole[row, places[0]]), abs=1e-6)
        for here, after in pairwise(places):
            own = float(logps[row, here] - ref[row, here])
            assert float(to_come[row, after] - to_come[row, here]) == pytest.approx(0.7 * own, abs=1e-6)
        assert not to_come[row][~mask[row]].any()


def test_an_even_answer_of_the_reference_and_one_without_tokens_teach_nothing():
    for factor in (of_answers, of_tokens):
        assert not factor(tensor([0.5, 0.5]), REF, REF, MASK, tau=0.3).any()
        assert not factor(WINS, LOGPS, REF, torch.zeros_like(MASK), tau=0.3).any()


def test_the_mixture_is_geometric_on_numbers_worked_by_hand():
    """Probabilities 0.8, 0.2 and 0.2, 0.8, one half each: equal; three parts of four: odds 4^(1/2)."""
    ours, theirs = tensor([[0.8, 0.2]]).log(), tensor([[0.2, 0.8]]).log()
    assert_close(geometric_mixture(ours, theirs, beta=0.5).softmax(1), tensor([[0.5, 0.5]]))
    assert_close(geometric_mixture(ours + 3.0, theirs, beta=0.25).softmax(1), tensor([[2 / 3, 1 / 3]]))
    for beta, expected in ((0.0, ours), (1.0, theirs)):
        assert_close(geometric_mixture(ours, theirs, beta=beta), expected)
    assert math.isclose(float(geometric_mixture(ours, ours, beta=0.3).exp().sum()), 1.0, rel_tol=1e-6)
