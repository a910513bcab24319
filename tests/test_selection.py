"""What is kept of sampled answers: by hand, whatever their order, and where they tie."""

import numpy as np
import pytest

from clew.config import Choice, ConfigError
from clew.engines.noise import stream_key, uniforms
from clew.selection import (
    FILTERS,
    KEYS,
    Candidates,
    at_least,
    best,
    candidates_of,
    exact,
    normalised,
    selected,
    tie_breakers,
    top_share,
)

TWO = Candidates(
    ["p", "p", "p", "q", "q", "q"],
    ["one", "two", "three", "four", "five", "six"],
    np.array([0.5, 2.0, 2.0, -3.0, -1.0, -2.0]),
    np.array([0.9, 0.3, 0.7, 0.1, 0.2, 0.8]),
)


def taken(candidates: Candidates, places) -> Candidates:
    places = list(places)
    return Candidates(
        [candidates.prompts[i] for i in places], [candidates.texts[i] for i in places],
        candidates.rewards[places], candidates.ties[places],
    )  # fmt: skip


def texts(candidates: Candidates, *args) -> set[str]:
    return {candidates.texts[i] for i in selected(candidates, *args)}


def test_the_best_of_every_prompt_by_hand():
    assert texts(TWO, best) == {"three", "five"}, "of two with reward 2 the one with the higher tie-breaker"
    assert texts(TWO, Choice(name="best", num=2).bind(FILTERS)) == {"two", "three", "five", "six"}


def test_all_of_so_high_a_reward_its_bound_included():
    assert texts(TWO, Choice(name="at_least", value=-1).bind(FILTERS)) == {"one", "two", "three", "five"}
    assert texts(TWO, at_least) == {"two", "three"}, "by default, what a checker gives 1 or more"


@pytest.mark.parametrize(("share", "kept"), [(0.01, {"three"}), (0.5, {"one", "two", "three"}), (1.0, set(TWO.texts))])
def test_in_the_top_share_prompts_compete(share, kept):
    assert texts(TWO, Choice(name="top_share", share=share).bind(FILTERS)) == kept


def test_of_equal_answers_of_a_prompt_the_best_stays():
    given = TWO._replace(texts=["A  b", "a b", "a B ", "a b", "c", "ﬁn"])
    everything = Choice(name="at_least", value=-9).bind(FILTERS)
    assert selected(given, everything, exact) == [0, 1, 2, 3, 4, 5]
    assert selected(given, everything, normalised) == [2, 3, 4, 5], "the one of prompt q is another prompt's"
    assert normalised("ﬁn") == normalised("Fin\n")
    assert selected(given, everything, len) == [1, 2, 3, 4, 5], "by a key of one's own; A  b and a B␣ are of one length"


def test_at_most_so_many_of_a_prompt_are_its_best():
    everything = Choice(name="at_least", value=-9).bind(FILTERS)
    assert texts(TWO, everything, None, 2) == {"two", "three", "five", "six"}
    same = TWO._replace(texts=["x", "y", "x", "z", "z", "z"])
    assert selected(same, everything, exact, 2) == [1, 2, 4], "copies do not count"


@pytest.mark.parametrize("keep", [best, at_least, top_share])
@pytest.mark.parametrize("same", [None, exact, normalised])
def test_what_is_kept_does_not_depend_on_the_order(keep, same):
    rng = np.random.default_rng(0)
    for _ in range(30):
        given = Candidates(
            rng.choice(["p", "q"], 9).tolist(), rng.choice(["a", "A", "b"], 9).tolist(),
            rng.integers(0, 3, 9).astype(float), rng.random(9),
        )  # fmt: skip
        order = rng.permutation(9).tolist()
        places = selected(given, keep, same, 2)
        assert sorted(order[i] for i in selected(taken(given, order), keep, same, 2)) == places
        if keep is not top_share:
            assert len(selected(taken(given, places), keep, same, 2)) == len(places)


def test_of_equal_rewards_every_answer_is_as_often_the_best():
    num, prompts = 4, [f"p{i}" for i in range(2000)]
    ties = tie_breakers(0, 3, prompts, num)
    given = Candidates([p for p in prompts for _ in range(num)], [""] * len(ties), np.zeros(len(ties)), ties)
    counts = np.bincount(np.array(selected(given, best)) % num, minlength=num)
    assert counts.sum() == 2000
    assert ((counts - 500) ** 2 / 500).sum() < 11.3, "chi-square of 3 degrees, 1 %"


def test_tie_breakers_are_of_the_answer_and_not_of_its_tokens():
    both = tie_breakers(1, 2, ["p", "q"], 3)
    assert (tie_breakers(1, 2, ["q"], 3) == both[3:]).all(), "whatever else was sampled"
    assert len({*both, *tie_breakers(1, 3, ["p"], 3), *tie_breakers(2, 2, ["p"], 3)}) == 12
    prompts = [f"p{i}" for i in range(3000)]
    keys = np.array([stream_key(0, 0, p, 0) for p in prompts], dtype=np.uint64)
    first = uniforms(keys, np.zeros(3000, dtype=int))
    assert abs(np.corrcoef(first, tie_breakers(0, 0, prompts, 1))[0, 1]) < 0.06


def test_nothing_comes_of_nothing():
    nothing = candidates_of([])
    assert [selected(nothing, keep, normalised, 1) for keep in (best, at_least, top_share)] == [[], [], []]


@pytest.mark.parametrize("said", [np.ones(5, dtype=bool), np.ones(6), [1, 0, 1, 0, 1, 0], None])
def test_a_filter_says_yes_or_no_of_each(said):
    with pytest.raises(ValueError, match="a filter says True or False of each candidate; of 6 this one said"):
        selected(TWO, lambda candidates: said)


def test_options_that_no_filter_has_are_told():
    with pytest.raises(ConfigError, match="best has no option 'number'; did you mean 'num'"):
        Choice(name="best", number=2).bind(FILTERS)
    with pytest.raises(ConfigError, match="no 'normalized' here; did you mean 'normalised'"):
        Choice(name="normalized").bind(KEYS)
