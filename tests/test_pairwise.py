"""Which two answers are compared, and how surely the better one is better."""

import math

import numpy as np
import pytest
import torch

from clew.data.chat import Encoded
from clew.pairwise import Labels, Pair, against, best_against_worst, described, judged, logps_by_id, make_batch
from clew.types import Rollout, Score


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rollout(*answer: int, stop="end") -> Rollout:
    num = len(answer)
    return Rollout("p", [9, *answer], [False] + [True] * num, [0.0] + [-1.0] * num, stop, 0, "p", "a")


def test_the_best_is_compared_with_the_worst_of_equals_the_outermost():
    assert best_against_worst([0.1, 2.0, -1.0, 2.0], Labels(), rng()) == Pair(1, 2, 1.0)
    assert best_against_worst([3.0, 1.0, 1.0], Labels(), rng()) == Pair(0, 2, 1.0)


def test_soft_labels_are_bradley_terry_probabilities():
    found = best_against_worst([0.0, 0.5], Labels(label="soft", sharpness=2.0), rng())
    assert found == Pair(1, 0, pytest.approx(1 / (1 + math.exp(-1.0))))


def test_drawn_labels_fall_as_often_as_that():
    labels, draw = Labels(label="drawn"), rng()
    found = [best_against_worst([0.0, 1.0], labels, draw) for _ in range(4000)]
    assert set(found) == {Pair(1, 0), Pair(0, 1)}
    assert np.mean([pair == Pair(1, 0) for pair in found]) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)


def test_ties_are_left_out_or_are_worth_one_half():
    assert best_against_worst([1.0, 1.0, 1.0], Labels(), rng()) is None
    for label in ("best", "soft", "drawn"):
        assert best_against_worst([1.0, 1.0, 1.0], Labels(label=label, ties="half"), rng()) == Pair(0, 2, 0.5)


def test_what_was_cut_costs_its_penalty_and_what_is_the_same_teaches_nothing():
    rollouts = [rollout(1, 2), rollout(1, 3, stop="length"), rollout(4, 5), rollout(4, 5)]
    scores = [Score(0.0), Score(1.0), Score(0.0), Score(1.0)]
    ((_, rows),) = judged(rollouts, scores, Labels(), 2, (0, 0))
    assert rows == [rollouts[1], rollouts[0]]
    ((_, rows),) = judged(rollouts, scores, Labels(cut_penalty=2.0), 2, (0, 0))
    assert rows == [rollouts[0], rollouts[1]]


def test_labels_are_drawn_anew_at_every_step_and_the_same_again():
    rollouts = [rollout(i, j) for i in range(40) for j in (1, 2)]
    scores = [Score(0.1 * (i % 2)) for i in range(80)]
    steps = [judged(rollouts, scores, Labels(label="drawn"), 2, (7, step)) for step in (0, 1, 0)]
    assert steps[0] == steps[2] != steps[1]


def test_the_datas_answer_wins_over_each_that_was_sampled_but_itself():
    data = [Encoded([9, 1, 2], [False, True, True], True), Encoded([9, 3], [False, True], True)]
    ours = [rollout(1, 2), rollout(5), rollout(3), rollout(6)]
    assert [rows for _, rows in against(data, ours, 2)] == [[data[0], ours[1]], [data[1], ours[3]]]


def test_batches_carry_labels_and_the_references_word_on_every_row():
    rows = [rollout(1), rollout(2), rollout(3), rollout(4)]
    pairs = judged(rows, [Score(v) for v in (0.0, 1.0, 3.0, 1.0)], Labels(label="soft"), 2, (0, 0))
    refs = {id(row): torch.tensor(float(-i)) for i, row in enumerate(rows)}
    batch = make_batch(pairs, refs)
    assert batch.extras["ref_logps"].tolist() == [-1.0, -0.0, -2.0, -3.0]
    assert batch.extras["agreement"].tolist() == pytest.approx([0.731059, 0.880797], abs=1e-5)
    assert batch.weights["item"].tolist() == [0.5, 0.5]
    assert make_batch(pairs, {}).extras["ref_logps"].tolist() == [0.0] * 4
    assert logps_by_id(None, rows, max_tokens=8) == {}


def test_the_kl_is_of_the_sampler_from_the_reference():
    rows = [rollout(1, 2), rollout(3, stop="length")]
    found = described(
        rows, [Score(1.0), Score(3.0)], {id(rows[0]): torch.tensor(-3.0), id(rows[1]): torch.tensor(-3.0)}
    )
    assert found == {
        "completions/mean_length": 1.5, "completions/clipped_ratio": 0.5, "objective/scores": 2.0,
        "objective/scores_std": 1.0, "objective/kl": 1.5,
    }  # fmt: skip
    assert "objective/scores" not in described(rows, [], {})
