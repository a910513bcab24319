"""Constraint judges: built-in rules, one's own, and what is made of their verdicts."""

import pytest

from clew.config import ConfigError, build
from clew.judges.constraints import Judge, forbidden, judged_reward, length, required, satisfied
from clew.types import Rollout, Score


def test_length_counts_words_or_characters_bounds_included():
    answers = ["", "one", " one two ", "one two three"]
    assert length([], answers, least=1, most=2) == [False, True, True, False]
    assert length([], answers, most=3, unit="characters") == [True, True, False, False]
    assert length([], answers, least=2) == [False, False, True, True]


def test_forbidden_words_are_whole_and_in_any_case():
    assert forbidden([], ["A Cat!", "concatenate", "dog", "cat's"], words=["cat", "don't"]) == [
        False,
        True,
        True,
        False,
    ]
    assert forbidden([], ["I don't."], words=["don't"]) == [False]
    assert forbidden([], ["a+b", "ab"], words=["a+b"]) == [False, True]


def test_a_text_is_required_of_all_or_of_each_its_own():
    assert required([], ["Tom ran", "a tomcat", "Tim"], text="tom") == [True, True, False]
    assert required([], ["Tom ran", "Tim ran"], column="hero", hero=["Tom", "Tom"], topic=["x", "y"]) == [True, False]
    with pytest.raises(ValueError, match=r"no column 'hero'; its columns: \['topic'\]"):
        required([], ["Tom"], column="hero", topic=["x"])


def rollouts(*texts, **info):
    return [Rollout("p", [1, 2], [False, True], [0.0, -1.0], "end", 0, "prompt", t, info) for t in texts]


def short(prompts, completions):
    return [None if c == "?" else len(c) < 4 for c in completions]


def halves(prompts, completions):
    return [0.5 for _ in completions]


def judges(*rules):
    return [Judge(rule=rule) for rule in rules]


def worth(rollouts):
    return [Score(-2.0, {"own": 1.0}) for _ in rollouts]


def test_the_reward_stays_as_it_is_and_verdicts_stand_in_its_parts():
    reward = judged_reward(worth, judges({"name": "length", "most": 1}, f"{__name__}:short", {"name": "length"}))
    one, two, three = reward(rollouts("abc", "a b c", "?"))
    assert (one.value, two.value, three.value) == (-2.0, -2.0, None)
    assert dict(one.parts) == {
        "reward": -2.0, "reward/own": 1.0, "judge/length": 1.0, "judge/short": 1.0, "judge/length 2": 1.0,
    }  # fmt: skip
    assert satisfied(one)
    assert not satisfied(two)
    assert satisfied(Score(1.0))


def test_a_verdict_with_degrees_is_refused():
    with pytest.raises(ValueError, match="judge halves said 0.5 of prompt p, completion 'abc'; expected True, False"):
        judged_reward(worth, judges(f"{__name__}:halves"))(rollouts("abc"))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"name": "lenght"}, "did you mean 'length'"),
        ({"name": "length", "max": 3}, "length has no option 'max'"),
        ({"name": "length", "least": 3, "most": 2}, "at least 3 and at most 2 can never be; swap them"),
        ({"name": "length", "unit": "tokens"}, "counts words or characters; got unit 'tokens'"),
        ({"name": "forbidden"}, "forbidden needs words"),
        ({"name": "forbidden", "words": "cat"}, "forbidden needs words: [one, another]; got 'cat'"),
        ({"name": "required"}, "required needs a text, or a column"),
        ({"name": "required", "text": "a", "column": "b"}, "required needs a text, or a column"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_with_the_configuration(rule, says):
    with pytest.raises(ConfigError) as error:
        build(Judge, {"rule": rule}, "judge")
    assert says in str(error.value)
