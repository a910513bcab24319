"""From judged rollouts to what is learnt: which rows, with which weights, and what is reported of them."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from clew.constrained import judged_of, measured, part_of
from clew.losses.cgpo import codpo, crpg, crraft
from clew.types import Rollout, Score

ROWS = [
    # reward, passes; two prompts with two answers each, then their baseline
    (1.0, True), (3.0, False), (1.0, True),
    (2.0, False), (2.0, False), (0.0, True),
]  # fmt: skip
ROLLOUTS = [
    Rollout(f"p{i // 3}", [1, 2, 3 + i], [False, True, True], [0.0, -1.0, -0.5 * i], "end", 0, "", str(i))
    for i in range(6)
]
SCORES = [Score(r, {"reward": r, "judge/a": 1.0, "judge/b": float(ok)}) for r, ok in ROWS]
REFS = {id(r): torch.tensor(-1.25) for r in ROLLOUTS}


@pytest.fixture
def judged():
    return judged_of(ROLLOUTS, SCORES, REFS, 3)


def test_the_last_of_a_group_is_the_baseline(judged):
    assert_close(judged.rewards, torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    assert judged.satisfied.tolist() == [[True, False], [False, False]]
    assert_close(judged.log_ratios, torch.tensor([[0.25, -0.25], [-1.25, -1.75]]))
    assert judged.baseline.tolist() == [1.0, 0.0]
    assert judged.baseline_satisfied.tolist() == [True, True]


def test_rows_without_weight_are_not_read_and_the_others_keep_theirs(judged):
    part = part_of(partial(crraft, kl_max=1.0), ROLLOUTS, judged, REFS)
    assert part.batch.tokens.tolist() == [[1, 2, 3], [1, 2, 8]]
    assert_close(part.batch.weights["answer"], torch.tensor([0.25, 0.25]))  # 1/2 each, over two prompts
    assert part.batch.item.tolist() == [0, 1]
    part = part_of(partial(crpg, kl_max=torch.inf), ROLLOUTS, judged, REFS)
    assert part.batch.item.tolist() == [0, 0, 1, 1]
    assert_close(part.batch.weights["answer"], torch.tensor([0.375, -0.125, -0.125, -0.125]) / 4)


def test_pairs_weigh_the_same_whether_or_not_others_were_skipped(judged):
    part = part_of(partial(codpo, beta=0.1), ROLLOUTS, judged, REFS)
    assert part.batch.tokens.tolist() == [[1, 2, 3], [1, 2, 4]]
    assert_close(part.batch.weights["item"], torch.tensor([0.5]))
    assert_close(part.batch.extras["ref_logps"], torch.tensor([-1.25, -1.25]))


def test_nothing_to_learn_from_is_no_part(judged):
    none = judged._replace(satisfied=torch.zeros(2, 2, dtype=torch.bool), baseline_satisfied=torch.zeros(2).bool())
    for optimiser in (partial(crpg, kl_max=1.0), partial(crraft, kl_max=1.0), partial(codpo)):
        assert part_of(optimiser, ROLLOUTS, none, REFS) is None


def test_metrics_are_of_the_answers_and_leave_the_baselines_out(judged):
    found = measured(ROLLOUTS, SCORES, judged, REFS)
    assert found["objective/scores"] == 2.0
    assert found["objective/kl"] == pytest.approx(-0.75)
    assert (found["violations"], found["violations/a"], found["violations/b"]) == (0.75, 0.0, 0.75)
    assert found["violations/baseline"] == 0.0
    expected = torch.sigmoid(torch.tensor([0.0, 2.0, 2.0, 2.0])).mean()
    assert found["rewards/calibrated"] == pytest.approx(float(expected))
