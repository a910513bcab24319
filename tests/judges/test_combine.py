"""Rewards in combination: by numbers worked by hand, by laws, and through a configuration."""

from functools import partial

import numpy as np
import pytest

from clew.config import ConfigError, build
from clew.evaluate.origins import rewards
from clew.judges.ahead import GroupWise, ahead
from clew.judges.combine import (
    Combined,
    Member,
    mean,
    minus_deviation,
    minus_variance,
    safety_first,
    total,
    whiten,
    worst,
)
from clew.judges.score import RewardSource, leaves, make_reward
from clew.recipes.rl import RL
from clew.types import Rollout, Score

ENSEMBLE = np.array([[1.0, -2.0, 4.0], [3.0, 2.0, 4.0]])


def rollout(text: str, **info) -> Rollout:
    return Rollout(f"p{text}", [1, 2], [False, True], [0.0, -1.0], "end", 0, "prompt", text, info)


ASKED = [rollout("1"), rollout("22"), rollout("333")]


def test_ensembles_on_numbers_worked_by_hand():
    assert total(ENSEMBLE, ASKED).tolist() == [4.0, 0.0, 8.0]
    assert mean(ENSEMBLE, ASKED).tolist() == [2.0, 0.0, 4.0]
    assert worst(ENSEMBLE, ASKED).tolist() == [1.0, -2.0, 4.0]
    assert minus_variance(ENSEMBLE, ASKED, lam=0.5).tolist() == [1.5, -2.0, 4.0]  # variances 1, 4, 0
    assert minus_deviation(ENSEMBLE, ASKED, lam=0.5).tolist() == [1.5, -1.0, 4.0]


def test_members_that_agree_make_all_ensembles_equal():
    same = np.array([[0.3, -1.0, 2.0]] * 4)
    for combine in (mean, worst, partial(minus_variance, lam=2.0), partial(minus_deviation, lam=2.0)):
        assert combine(same, ASKED) == pytest.approx(same[0])


def test_the_worst_of_whitened_members_does_not_see_their_offsets_and_scales():
    values = np.random.default_rng(0).normal(size=(3, 50))
    moved = values * np.array([[1.0], [7.0], [0.2]]) + np.array([[0.0], [-40.0], [3.0]])
    asked = [rollout(str(i)) for i in range(50)]

    def lowest(all_values):
        return worst(np.array([whiten(row[None], asked) for row in all_values]), asked)

    assert lowest(moved) == pytest.approx(lowest(values), abs=1e-6)
    assert worst(moved, asked) != pytest.approx(worst(values, asked), abs=1e-6)


def test_llama_2_takes_safety_where_it_is_low_or_the_prompt_risky():
    values = np.array([[5.0, 5.0, 5.0, 5.0], [-1.74, -1.73, 2.0, 2.0]])  # log(0.15 / 0.85) = -1.7346
    asked = [rollout(str(i), risky=i == 3) for i in range(4)]
    assert safety_first(values, asked).tolist() == [-1.74, 5.0, 5.0, 5.0]
    assert safety_first(values, asked, risky="risky").tolist() == [-1.74, 5.0, 5.0, 2.0]
    assert safety_first(values, asked, threshold=0.5).tolist() == [-1.74, -1.73, 5.0, 5.0]


def test_a_missing_column_is_told_with_those_that_are_there():
    with pytest.raises(ValueError, match=r"prompt p1 has no column 'risky' \(its columns: \['topic'\]\)"):
        safety_first(np.zeros((2, 1)), [rollout("1", topic="dogs")], risky="risky")


def test_whitened_scores_have_mean_0_and_variance_1_and_one_alone_is_0():
    found = whiten(ENSEMBLE, ASKED)
    assert (found.mean(), found.std()) == pytest.approx((0.0, 1.0))
    assert whiten(np.array([[3.0]]), ASKED[:1]).tolist() == [0.0]


def scores(*values):
    return lambda rollouts: [Score(values[int(r.text[0]) - 1]) for r in rollouts]


def test_a_combination_abstains_where_a_member_does_and_whitens_the_others():
    reward = Combined([Member("a", scores(1.0, None, 3.0)), Member("b", scores(0.0, 0.0, 0.0))], whiten)
    assert [s.value for s in reward(ASKED)] == [pytest.approx(-1.0), None, pytest.approx(1.0)]
    nothing = Combined([Member("a", scores(None, None, None))], whiten)
    assert [s.value for s in nothing(ASKED)] == [None] * 3


def test_probabilities_count_by_their_log_odds():
    reward = Combined([Member("p", scores(0.5, 0.9, 1.0), is_probability=True, clip=5.0)])
    assert [s.value for s in reward(ASKED)] == pytest.approx([0.0, 2.19722, 5.0], abs=1e-5)
    with pytest.raises(ValueError, match=r"reward p gave 1.5 for prompt p1; .* must lie in \[0, 1\]"):
        Combined([Member("p", scores(1.5, 0, 0), is_probability=True)])(ASKED)


def test_each_task_has_its_own_reward_and_is_asked_about_by_no_other():
    seen = []

    def told(rollouts):
        seen.extend(r.text for r in rollouts)
        return [Score(10.0) for _ in rollouts]

    asked = [rollout("1", task="chat"), rollout("2", task="math"), rollout("3", task="code")]
    members = [
        Member("chat", told, only={"task": "chat"}),
        Member("exact", scores(1.0, 2.0, 3.0), weight=2.0, only={"task": ["math", "code"]}),
    ]
    found = Combined(members)(asked)
    assert [s.value for s in found] == [10.0, 4.0, 6.0]
    assert [dict(s.parts) for s in found] == [{"chat": 10.0}, {"exact": 2.0}, {"exact": 3.0}]
    assert seen == ["1"]
    with pytest.raises(ValueError, match=r"no reward is asked about prompt p3, whose columns are \{'task': 'code'\}"):
        Combined(members[:1])(asked[2:])


def number(prompts, completions):
    return [float(c[0]) for c in completions]


def minus_number(prompts, completions):
    return [-float(c[0]) for c in completions]


def test_a_configuration_nests_combinations_and_names_their_parts(new_policy):
    here = __name__
    sources = build(
        RL,
        {
            "out": "o", "model": "m", "data": {"path": "p.jsonl"}, "advantages": "batch_mean",
            "reward": [
                {
                    "combine": {"name": "safety_first", "threshold": 0.1},
                    "of": [
                        {"function": f"{here}:number", "name": "helpful"},
                        {"combine": "worst", "of": [f"{here}:minus_number", f"{here}:number"], "name": "safe"},
                    ],
                },
                {"function": f"{here}:number", "weight": 0.5},
            ],
        },
        "rl",
    ).reward  # fmt: skip
    assert [s.function.name.rpartition(":")[2] for s in leaves(sources)] == [
        "number",
        "minus_number",
        "number",
        "number",
    ]
    found = make_reward(sources, new_policy())(ASKED)
    # log(0.1 / 0.9) = -2.197: the third is unsafe
    assert [s.value for s in found] == [1.5, 3.0, -1.5]
    assert found[2].parts == {
        "safety_first": -3.0, "safety_first/helpful": 3.0, "safety_first/safe": -3.0,
        "safety_first/safe/minus_number": -3.0, "safety_first/safe/number": 3.0, "number": 3.0,
    }  # fmt: skip


def test_two_functions_of_one_name_are_both_counted(new_policy):
    twice = [RewardSource(function=f"{__name__}:number"), RewardSource(function=f"{__name__}:number")]
    found = make_reward(twice, new_policy())(ASKED)
    assert [s.value for s in found] == [2.0, 4.0, 6.0]
    assert found[0].parts == {"number": 1.0, "number 1": 1.0}


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ({}, "either a model or a function, or a combination `of` others"),
        ({"model": "m", "of": ["a:b"]}, "either a model or a function, or a combination `of` others"),
        ({"model": "m", "combine": "worst"}, "combine: worst has nothing to combine; name the rewards in `of`"),
        ({"of": ["a:b"], "combine": "safety_first"}, "safety_first combines two rewards, helpfulness and then safety"),
        ({"of": [{"model": "m", "only": {"task": "x"}}], "combine": "worst"}, "set `only` beside `combine`"),
        ({"of": ["a:b"], "combine": "wurst"}, "did you mean 'worst'"),
        ({"of": ["a:b"], "combine": {"name": "minus_variance", "lam": -1}}, "greater than or equal to 0; got -1"),
        ({"of": ["a:b", "c:d"], "combine": {"name": "safety_first", "threshold": 1.5}}, "less than 1; got 1.5"),
    ],
)
def test_what_cannot_be_combined_is_refused(reward, says):
    values = {"out": "o", "model": "m", "data": {"path": "p.jsonl"}, "advantages": "batch_mean", "reward": [reward]}
    with pytest.raises(ConfigError) as error:
        build(RL, values, "rl")
    assert says in str(error.value)


def test_a_reward_for_one_task_is_told_early_of_that_task_alone():
    told = []

    def asked(rollouts):
        told.append([r.text for r in rollouts])
        return [Score(float(r.text)) for r in rollouts]

    members = [
        Member("chat", GroupWise(asked, 2), only={"task": "chat"}),
        Member("all", lambda rollouts: [Score(0.5) for _ in rollouts]),
    ]
    groups = [[rollout(f"{i}{j}", task="chat" if i == 2 else "math") for j in range(2)] for i in (1, 2, 3)]
    with ahead(Combined(members)) as asking:
        for place, group in enumerate(groups):
            asking.finished(place, group)
        found = asking.scores([r for group in groups for r in group])
    assert told == [["20", "21"]]
    assert [s.value for s in found] == [0.5, 0.5, 20.5, 21.5, 0.5, 0.5]


def test_what_a_policy_was_rewarded_by_is_found_in_combinations_and_tasks():
    both = {"of": [{"function": {"name": "m:a"}}, {"of": [{"function": {"name": "m:b"}}]}]}
    assert rewards({"reward": [both]}) == {("m", "a"), ("m", "b")}
    assert rewards({"tasks": {"chat": {"reward": [both]}, "math": {"reward": [{"function": {"name": "m:c"}}]}}}) == {
        ("m", "a"), ("m", "b"), ("m", "c"),
    }  # fmt: skip
