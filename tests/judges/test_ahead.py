"""Rewards that are asked while others are sampled: as if asked one after another, whatever finishes first."""

import asyncio
import random
import threading
import time

import pytest

from clew.config import build
from clew.experience import sampled
from clew.judges import call
from clew.judges.ahead import GroupWise, generate_and_score
from clew.judges.call import Hangs, call_within
from clew.judges.score import RewardFailed, RewardSource, function_reward, make_reward
from clew.recipes.label import Label
from clew.types import Prompt, Rollout, Sampling, Score
from tests.recipes.conftest import configured, metrics, run_recipe, world  # noqa: F401 (a fixture)

NUM, GROUP = 12, 3
PROMPTS = [Prompt(f"p{i}", (1, 2), f"prompt {i}", {"number": i}) for i in range(NUM)]
NOW = Sampling(4)


class Scripted:
    """An engine whose groups are all there in an order of its own."""

    version = 0

    def __init__(self, order=None, *, fails: bool = False) -> None:
        self.order = list(order) if order is not None else random.Random(0).sample(range(NUM), NUM)
        self.fails = fails
        self.done = threading.Event()

    def generate(self, prompts, *, n, sampling, key, finished=None):
        groups = [
            [
                Rollout(p.id, [1, 2], [False, True], [0.0, -1.0], "end", 0, p.text, f"{p.text} {j}", p.info)
                for j in range(n)
            ]
            for p in prompts
        ]
        for place in self.order:
            if finished is not None:
                finished(place, groups[place])
        if self.fails:
            raise MemoryError("while sampling")
        self.done.set()
        return [rollout for group in groups for rollout in group]


def scored(reward, engine=None) -> list[Score]:
    return generate_and_score(engine or Scripted(), reward, PROMPTS, n=GROUP, sampling=NOW, key=(0, 0))[1]


def by_group(function, at_once: int = 4, timeout_s: float = 20.0) -> GroupWise:
    return GroupWise(function_reward(function, timeout_s), at_once)


def dawdles(prompts, completions, number):
    """Worth something else for each completion, None for some, after a while."""
    time.sleep(random.uniform(0, 0.02))
    return [None if n % 5 == 4 else n + int(c[-1]) / 10 for n, c in zip(number, completions, strict=True)]


async def dawdles_async(prompts, completions, number):
    await asyncio.sleep(random.uniform(0, 0.02))
    return dawdles(prompts, completions, number)


@pytest.mark.parametrize("function", [dawdles, dawdles_async])
@pytest.mark.parametrize("at_once", [1, 5, 40])
def test_scores_are_those_of_asking_one_group_after_another(function, at_once):
    expected = scored(function_reward(function))
    assert [s.value for s in expected[:4]] == [0.0, 0.1, 0.2, 1.0]
    assert expected[12].value is None
    for seed in range(3):
        order = random.Random(seed).sample(range(NUM), NUM)
        assert scored(by_group(function, at_once), Scripted(order)) == expected
    rollouts = Scripted().generate(PROMPTS, n=GROUP, sampling=NOW, key=(0, 0))
    assert by_group(function, at_once)(rollouts) == expected, "asked when all are there"


def test_groups_are_asked_while_others_are_sampled():
    asked, engine = [], Scripted()

    def looks(prompts, completions):
        asked.append((prompts, engine.done.is_set()))
        return [0.0] * len(prompts)

    class Slow(Scripted):
        def generate(self, *args, finished=None, **options):
            def told(place, group):
                finished(place, group)
                time.sleep(0.01)

            return super().generate(*args, finished=told, **options)

    engine = Slow()
    scored(by_group(looks), engine)
    assert all(len(set(prompts)) == 1 and len(prompts) == GROUP for prompts, _ in asked)
    assert sum(not late for _, late in asked) >= NUM // 2


def test_no_more_are_asked_at_once_than_wanted():
    under_way, most = [], []

    def counts(prompts, completions):
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.01)
        under_way.pop()
        return [0.0] * len(prompts)

    scored(by_group(counts, at_once=3))
    assert 1 < max(most) <= 3


def fails_at(*wrong: int):
    asked = []

    def fails(prompts, completions, number):
        asked.append(number[0])
        time.sleep(random.uniform(0, 0.02))
        if number[0] in wrong:
            raise RuntimeError(f"no judge for prompt {number[0]}")
        return [0.0] * len(prompts)

    return fails, asked


@pytest.mark.parametrize("order", [range(NUM), reversed(range(NUM)), None], ids=["in order", "backwards", "mixed"])
def test_the_first_group_that_fails_is_the_one_reported_and_nothing_is_left_running(order):
    fails, asked = fails_at(10, 4, 7)
    with pytest.raises(RewardFailed, match="reward fails raised RuntimeError for 3 completions: no judge for prompt 4"):
        scored(by_group(fails), Scripted(order))
    assert {0, 1, 2, 3, 4} <= set(asked)
    num = len(asked)
    time.sleep(0.06)
    assert len(asked) == num
    assert_no_threads()


def assert_no_threads():
    until = time.monotonic() + 5
    while any(t.name.startswith("rewards ") for t in threading.enumerate()):
        assert time.monotonic() < until, "threads are left"
        time.sleep(0.01)


def test_groups_behind_a_failed_one_are_not_asked_any_more():
    fails, asked = fails_at(0)
    with pytest.raises(RewardFailed):
        scored(by_group(fails, at_once=1), Scripted(range(NUM)))
    assert asked == [0]


def test_what_waits_is_not_asked_when_sampling_fails():
    fails, asked = fails_at()
    with pytest.raises(MemoryError, match="while sampling"):
        scored(by_group(fails, at_once=2), Scripted(fails=True))
    time.sleep(0.05)
    assert len(asked) <= 4
    assert_no_threads()


async def waits_async(prompts, completions, number):
    await asyncio.sleep(60 if number[0] in (2, 6) else 0.0)
    return [0.0] * len(prompts)


def waits(prompts, completions, number):
    time.sleep(60 if number[0] in (2, 6) else 0.0)
    return [0.0] * len(prompts)


@pytest.mark.parametrize("function", [waits, waits_async])
def test_a_group_that_hangs_stops_with_its_stacks(function):
    began = time.monotonic()
    with pytest.raises(
        Hangs, match=f"reward {function.__name__}, asked about 3 completions of 'prompt 2', has not"
    ) as e:
        scored(by_group(function, timeout_s=0.2))
    assert time.monotonic() - began < 10
    assert f"in {function.__name__}\n" in e.value.evidence["hangs.txt"]
    assert scored(by_group(dawdles_async)) == scored(function_reward(dawdles)), "the next calls have a loop"


def test_wrong_answers_of_a_group_are_errors():
    with pytest.raises(ValueError, match="returned 1 values for 3 completions"):
        scored(by_group(lambda prompts, completions: [1.0]))


def test_async_calls_of_many_threads_share_one_loop():
    loops = set()

    async def remembers(prompts, completions):
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0.01)
        return [0.0] * len(prompts)

    call._loop.cache_clear()
    scored(by_group(remembers, at_once=12))
    assert len(loops) == 1


def test_the_watchdog_waits_for_the_latest_call(monkeypatch):
    armed = []
    monkeypatch.setattr(call.faulthandler, "dump_traceback_later", lambda s, **_: armed.append(round(s, 1)))
    monkeypatch.setattr(call.faulthandler, "cancel_dump_traceback_later", lambda: armed.append(0))
    monkeypatch.setattr(call, "GRACE_S", 1.0)
    call_within(30.0, lambda: call_within(5.0, lambda: None, "inner"), "outer")
    assert armed == [31.0, 31.0, 31.0, 0]


def tenths(prompts, completions):
    return [float(c[-1]) / 10 for c in completions]


def whole_batch(prompts, completions):
    """Sees every completion of the step."""
    return [float(len(completions))] * len(completions)


def test_a_sum_asks_each_source_as_it_wants(new_policy):
    name = __name__
    group = RewardSource(function=f"{name}:tenths", per="group", at_once=2, weight=10.0)
    batch = RewardSource(function=f"{name}:whole_batch", clip=30.0)
    records = sampled(Scripted(), make_reward([group, batch], new_policy()), PROMPTS, NOW, GROUP, (0, 0))
    assert [r["score"]["value"] for r in records] == [j + 30.0 for _ in PROMPTS for j in range(GROUP)]
    assert records[1]["score"]["parts"] == {"tenths": 0.1, "whole_batch": 30.0}
    assert [r["rollout"]["prompt_id"] for r in records] == [p.id for p in PROMPTS for _ in range(GROUP)]
    together = sampled(Scripted(), make_reward([batch], new_policy()), PROMPTS, NOW, GROUP, (0, 0))
    assert {r["score"]["value"] for r in together} == {30.0}


@pytest.mark.parametrize("options", [{"timeout_s": None}, {"model": "m", "function": None}])
def test_what_cannot_be_asked_in_threads_is_refused(options):
    with pytest.raises(ValueError, match="per: group (calls in threads|is for functions)"):
        RewardSource(**{"function": "m:f", "per": "group", **options})
    if "model" not in options:
        values = {"model": "m", "data": {"path": "p.jsonl"}, "gold": "m:f", "raters": [{"rater": "honest"}]}
        with pytest.raises(ValueError, match="set a timeout_s"):
            build(Label, {"out": "o", **values, "per": "group", **options}, "label")


def number_of_words(prompts, completions):
    time.sleep(random.uniform(0, 0.005))
    return [float(len(c.split())) for c in completions]


@pytest.mark.parametrize("recipe", ["rl", "label"])
def test_a_recipe_learns_the_same_either_way(recipe, world, tmp_path):  # noqa: F811
    values = configured(recipe, world) | ({"steps": 3, "group": 2} if recipe == "rl" else {})
    for per in ("batch", "group"):
        source = {"function": f"{__name__}:number_of_words", "per": per}
        options = {"reward": [source]} if recipe == "rl" else {"gold": source["function"], "per": per}
        run_recipe(recipe, tmp_path / per, values | options)
    assert metrics(tmp_path / "batch") == metrics(tmp_path / "group")
    assert (tmp_path / "batch" / "samples.jsonl").read_text() == (tmp_path / "group" / "samples.jsonl").read_text()
