import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from clew.experience import scored_groups, to_record
from clew.shaping import MissingEOS, Shaping, outcome_scores, seen, spread
from clew.types import Rollout, Score


def rollout(length: int, stop: str = "end") -> Rollout:
    return Rollout("p", [0] * (length + 2), [False] * 2 + [True] * length, [0.0] * (length + 2), stop, 0, "", "")


def scored(*lengths: int, cut: int | None = None, longest: int = 10, value: float = 3.0, **options) -> torch.Tensor:
    rollouts = [rollout(n, "length" if i == cut else "end") for i, n in enumerate(lengths)]
    scores = [Score(value)] * len(rollouts)
    statistics = {"scores_seen": 4.0, "scores_mean": 1.0, "scores_squares": 12.0}
    return outcome_scores(rollouts, scores, Shaping(**options), statistics, longest=longest)


def test_a_score_is_as_it_is_where_nothing_is_asked():
    assert_close(scored(1, 9), tensor([3.0, 3.0]))


@pytest.mark.parametrize(
    ("how", "expected"), [("replace", [3.0, -0.5]), ("subtract", [3.0, 3.5]), ("ignore", [3.0, 3.0])]
)
def test_what_a_rollout_that_was_cut_gets(how, expected):
    assert_close(scored(4, 10, cut=1, missing_eos=MissingEOS(how=how, value=-0.5)), tensor(expected))


def test_the_last_tokens_before_the_limit_cost_ever_more():
    # limit 10, over the last 4: nothing up to 6 tokens, 1/4 at 7, 1/2 at 8, 1 at 10 and beyond
    assert_close(scored(2, 6, 7, 8, 10, 12, overlong=4), tensor([3.0, 3.0, 2.75, 2.5, 2.0, 2.0]))


def test_scores_are_centred_and_scaled_by_all_that_were_seen():
    assert_close(scored(1, normalise="centre"), tensor([2.0]))
    assert_close(scored(1, normalise="whiten"), tensor([1.0]))  # spread: the root of 12 / 3


def test_a_missing_end_costs_the_same_however_scores_are_normalised():
    given = {"missing_eos": MissingEOS(value=-1.0)}
    assert_close(scored(1, cut=0, normalise="whiten", **given), tensor([-1.0]))


def test_statistics_of_batches_are_those_of_all_scores_together():
    drawn = np.random.default_rng(0).normal(5.0, 2.0, size=40)
    statistics: dict[str, float] = {}
    for part in np.split(drawn, [1, 7, 7, 30]):
        statistics = seen(statistics, [{"score": {"value": float(v)}} for v in part] + [{"score": {"value": None}}])
    assert statistics["scores_seen"] == 40
    assert statistics["scores_mean"] == pytest.approx(drawn.mean(), rel=1e-12)
    assert spread(statistics) == pytest.approx(drawn.std(ddof=1), rel=1e-12)
    assert spread(seen({}, [{"score": {"value": 3.0}}])) == 1.0


def groups(*rewards: list[float | None]) -> list[dict]:
    return [to_record(rollout(1), Score(value)) for group in rewards for value in group]


def test_groups_of_equal_reward_are_dropped_where_others_differ():
    kept = scored_groups(groups([1, 1], [0, 1], [2, 2]), 2, differing=True)[1]
    assert [s.value for s in kept] == [0, 1]
    alike = scored_groups(groups([1, 1], [2, 2]), 2, differing=True)[1]
    assert [s.value for s in alike] == [1, 1, 2, 2]
    assert len(scored_groups(groups([1, 1], [0, 1]), 2)[1]) == 4


def test_a_group_with_an_abstention_is_left_out_whole():
    _, scores, abstained = scored_groups(groups([None, 1], [0, 1]), 2)
    assert ([s.value for s in scores], abstained) == ([0, 1], 0.25)
    with pytest.raises(ValueError, match="abstained in every one of 1 groups"):
        scored_groups(groups([None, 1]), 2)
