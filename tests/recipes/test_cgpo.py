"""CGPO, run for real on a small model: what it learns, leaves behind, resumes and refuses."""

import json
from functools import partial

import pytest
import torch

from clew.config import ConfigError, build, check_inputs
from clew.engines.baseline import WithBaseline, one_sample
from clew.engines.local import LocalEngine
from clew.models.load import load_policy
from clew.recipes.cgpo import CGPO
from clew.types import Prompt, Sampling

from ..faults import KINDS, disturbed, operations
from .conftest import assert_same, metrics, run_recipe

WORDS = "tests.recipes.test_cgpo:number_of_words"


def number_of_words(prompts, completions):
    return [float(len(c.split())) for c in completions]


def is_short(prompts, completions):
    return [len(c.split()) <= 6 for c in completions]


def doubts(prompts, completions):
    return [0.5 for _ in completions]


def configured(world, **tasks):
    return {
        "model": world["model"], "encoding": {"max_length": 128}, "max_tokens": 16, "steps": 4, "save_every": 2,
        "learner": {"lr": 1e-3, "schedule": "constant"}, "tasks": tasks,
    }  # fmt: skip


def task(world, **options):
    usual = {"data": {"path": world["prompts"]}, "reward": WORDS, "prompts": 4, "answers": 3}
    return {**usual, "optimiser": {"name": "crpg", "kl_max": 20.0}, **options}


def three_tasks(world):
    return {
        "long": task(world, judges=[{"name": "length", "most": 9}], weight=2.0),
        "kind": task(
            world, data={"path": world["demonstrations"]}, baseline="data", reward=[{"model": world["reward"]}],
            judges=[{"rule": {"name": "forbidden", "words": ["awful"]}, "per": "group"}],
            optimiser={"name": "crraft", "kl_max": 20.0},
        ),
        "pairs": task(world, judges=["tests.recipes.test_cgpo:is_short"], optimiser={"name": "codpo", "beta": 0.2}),
    }  # fmt: skip


def test_three_tasks_with_their_own_optimisers_learn_together(world, tmp_path):
    out = run_recipe("cgpo", tmp_path / "run", configured(world, **three_tasks(world)))
    rows = metrics(out)
    assert [r["step"] for r in rows] == [0, 1, 2, 3]
    assert {"loss/long/likelihood", "loss/kind/likelihood", "loss/pairs/pair"} <= rows[0].keys()
    assert {"long/violations/length", "kind/violations/forbidden", "pairs/violations/is_short"} <= rows[0].keys()
    assert rows[0]["long/objective/kl"] == pytest.approx(0, abs=1e-3)
    assert abs(rows[3]["long/objective/kl"]) > 1e-4
    assert 0 < rows[0]["long/rewards/calibrated"] < 1
    names = ("long", "kind", "pairs")
    assert rows[1]["violations"] == pytest.approx(sum(rows[1][f"{n}/violations"] for n in names) / 3)
    assert json.loads((out / "run.json").read_text())["state"] == "finished"


def test_a_baseline_of_the_reference_is_the_same_at_every_visit(world, tmp_path):
    values = configured(world, chat=task(world, data={"path": world["prompts"], "limit": 4}))
    run_recipe("cgpo", tmp_path / "run", values | {"steps": 2})
    policy = load_policy(world["model"])
    prompts = [Prompt(f"p{i}", (1, 5 + i), "", {"place": i}) for i in range(3)]
    baseline = one_sample(LocalEngine(policy), seed=0)
    how = Sampling(8)
    alone = [baseline([p], how)[0] for p in prompts]
    twice = baseline([*prompts, prompts[0]], how)
    assert [r.tokens for r in twice] == [r.tokens for r in (*alone, alone[0])]
    assert [r.info for r in twice] == [p.info for p in (*prompts, prompts[0])]


def test_groups_end_with_their_baseline_also_for_rewards_that_are_asked_early(world):
    policy = load_policy(world["model"])
    prompts = [Prompt(f"p{i}", (1, 5 + i), "") for i in range(3)]
    engine = WithBaseline(LocalEngine(policy, slots=4), one_sample(LocalEngine(policy), seed=1))
    early: dict[int, list[int]] = {}
    found = engine.generate(
        prompts, n=2, sampling=Sampling(6), key=(0, 0), finished=lambda i, group: early.update({i: [len(group)]})
    )
    assert [r.prompt_id for r in found] == [p.id for p in prompts for _ in range(3)]
    assert early == {0: [3], 1: [3], 2: [3]}
    plain = LocalEngine(policy, slots=4).generate(prompts, n=2, sampling=Sampling(6), key=(0, 0))
    assert [r.tokens for r in found[:2]] == [r.tokens for r in plain[:2]]


def test_one_task_alone_learns_the_reward_and_keeps_to_its_judge(world, tmp_path):
    rule = {"name": "length", "most": 6}
    chat = task(world, prompts=6, answers=4, judges=[rule], optimiser={"name": "crpg", "kl_max": 50.0})
    values = configured(world, chat=chat) | {"steps": 10, "save_every": 20, "learner": {"lr": 2e-2}}
    rows = metrics(run_recipe("cgpo", tmp_path / "run", values))
    first, last = ([r["violations"] for r in rows[at]] for at in (slice(3), slice(-3, None)))
    assert sum(last) < 0.6 * sum(first)


@pytest.mark.parametrize("optimiser", [{"name": "crraft", "kl_max": 20.0}, {"name": "codpo"}])
def test_where_all_answers_violate_and_the_baseline_too_nothing_is_learnt(optimiser, world, tmp_path):
    never = task(world, judges=[{"name": "required", "text": "no such text"}], optimiser=optimiser)
    out = run_recipe("cgpo", tmp_path / "run", configured(world, never=never) | {"steps": 1})
    (row,) = metrics(out)
    assert (row["violations"], row["violations/baseline"]) == (1.0, 1.0)
    assert "grad_norm" not in row
    old, new = (load_policy(str(path)).state_dict() for path in (world["model"], out / "model"))
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_adapters_learn_and_the_reference_answers_without_them(world, tmp_path):
    values = configured(world, chat=task(world, optimiser={"name": "crraft", "kl_max": 20.0})) | {"lora": {"rank": 4}}
    rows = metrics(run_recipe("cgpo", tmp_path / "run", values | {"steps": 2}))
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-3)


def ends_as_if_nothing_had(world, tmp_path, places):
    tasks = {name: {**options, "prompts": 2, "answers": 2} for name, options in three_tasks(world).items()}
    values = configured(world, **tasks) | {"steps": 3}
    total = operations(partial(run_recipe, "cgpo", tmp_path / "whole", values))
    assert len(metrics(tmp_path / "whole")) == 3
    for kind, at in places(total):
        folder = tmp_path / f"{kind} {at}"
        disturbed(partial(run_recipe, "cgpo", folder, values), kind, at)
        run_recipe("cgpo", folder, values)
        assert_same(tmp_path / "whole", folder)


def test_an_operation_that_goes_wrong_leaves_no_trace(world, tmp_path):
    ends_as_if_nothing_had(world, tmp_path, lambda total: zip(KINDS, (total // 4, total // 2, total - 20), strict=True))


@pytest.mark.slow
def test_no_operation_that_goes_wrong_leaves_a_trace(world, tmp_path):
    ends_as_if_nothing_had(world, tmp_path, lambda total: [(kind, at) for kind in KINDS for at in range(total)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimiser": "crpg"}, "crpg needs kl_max, as in {name: crpg, kl_max: 20}"),
        ({"optimiser": {"name": "crraft", "kl_max": 0}}, "crraft.kl_max: Input should be greater than 0; got 0"),
        ({"optimiser": {"name": "codpo", "kl_max": 3}}, "codpo has no option 'kl_max'"),
        ({"optimiser": "cpo"}, "did you mean 'codpo'"),
        ({"answers": 1}, "crpg compares a prompt's answers, and answers is 1; set 2 or more"),
        (
            {"judges": [{"name": "length", "least": "many"}]},
            "tasks.chat.judges.0.rule: length: least and most are whole numbers; got 'many' and None",
        ),
        ({"judges": ["no_such_module:judge"]}, "cannot import 'no_such_module:judge'"),
        ({"wait": 3}, "did you mean 'weight'"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(options, says, world):
    with pytest.raises(ConfigError) as error:
        check_inputs(build(CGPO, {"out": "o", **configured(world, chat=task(world, **options))}, "cgpo"), "cgpo")
    assert says in str(error.value)


def test_prompts_without_answers_are_no_baseline(world, tmp_path):
    values = configured(world, chat=task(world, baseline="data"))
    with pytest.raises(ValueError, match="has a prompt and no answer to learn from"):
        run_recipe("cgpo", tmp_path / "run", values)


def test_a_judge_that_gives_degrees_stops_the_run(world, tmp_path):
    values = configured(world, chat=task(world, judges=["tests.recipes.test_cgpo:doubts"]))
    with pytest.raises(ValueError, match="judge doubts said 0.5 of prompt"):
        run_recipe("cgpo", tmp_path / "run", values)
