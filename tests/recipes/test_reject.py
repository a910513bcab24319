"""Sampling and filtering, run for real on a small model: what is kept, learnt, resumed and refused."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from clew.config import ConfigError, build, check_inputs
from clew.constrained import likelihood
from clew.data import stories
from clew.data.chat import Codec, Encoding
from clew.data.sources import Source, load_examples
from clew.durable import read_rows
from clew.engines.local import LocalEngine
from clew.learn.learner import Learner, Part
from clew.models.load import load_policy
from clew.recipes.reject import Reject, batch_of, chosen, part_of
from clew.types import Sampling

from ..faults import KINDS, disturbed, operations
from .conftest import assert_same, metrics, run_recipe, write

HERE = "tests.recipes.test_reject"


def few_words(prompts, completions):
    return [-float(len(c.split())) for c in completions]


def is_short(prompts, completions):
    return [float(len(c.split()) <= 8) for c in completions]


def sometimes(prompts, completions):
    return [None if len(c.split()) % 2 else 1.0 for c in completions]


def never(prompts, completions):
    return [None for _ in completions]


def longest(candidates, *, least: int = 0):
    lengths = [len(text.split()) for text in candidates.texts]
    return [n >= max(least, max(lengths)) for n in lengths]


def first_word(text):
    return text.split()[:1] and text.split()[0]


def configured(world, **options):
    return {
        "model": world["model"], "data": {"path": world["prompts"]}, "encoding": {"max_length": 128}, "max_tokens": 16,
        "reward": f"{HERE}:few_words", "prompts": 12, "answers": 4, "rounds": 2, "minibatches": 2, "save_every": 3,
        "learner": {"lr": 3e-3, "schedule": "constant"}, **options,
    }  # fmt: skip


def kept_of(out):
    """What the newest checkpoint keeps."""
    return read_rows(sorted((out / "checkpoints").iterdir())[-1] / "records.jsonl")


def texts_of(records):
    return [(r["rollout"]["prompt_id"], r["rollout"]["text"]) for r in records]


def test_raft_learns_to_please(world, tmp_path):
    out = run_recipe("reject", tmp_path / "raft", configured(world, prompts=24, answers=8, rounds=5, minibatches=4))
    rows = metrics(out)
    assert [r["step"] for r in rows] == list(range(20))
    rounds = rows[::4]
    assert [r["kept"] for r in rounds] == [r["kept/prompts"] for r in rounds]
    assert [r["kept"] for r in rounds[:2]] == [24, 24]
    assert all(r["kept/scores"] > r["objective/scores"] for r in rounds)
    assert rounds[-1]["objective/scores"] > rounds[0]["objective/scores"] + 2
    info = json.loads((out / "run.json").read_text())
    assert info["state"] == "finished"
    assert info["ledger"]["tokens_generated"] > info["ledger"]["tokens_trained"] / 8 > 100


def test_all_that_are_correct_are_kept_once(world, tmp_path):
    """ReST-EM: several of a prompt, none twice, at most so many."""
    options = {"reward": f"{HERE}:is_short", "filter": "at_least", "distinct": "normalised", "most": 3, "answers": 8}
    out = run_recipe("reject", tmp_path / "run", configured(world, **options, weigh="prompts"))
    kept = kept_of(out)
    assert all(r["score"]["value"] == 1.0 for r in kept)
    ids = [prompt for prompt, _ in texts_of(kept)]
    assert 1 < max(ids.count(i) for i in ids) <= 3
    assert len(set(texts_of(kept))) == len(kept) == metrics(out)[2]["kept"]


def test_restarted_every_round_learns_from_the_model_that_the_run_began_with(world, tmp_path):
    values = configured(world, restart=True, rounds=3, epochs=2)
    out = run_recipe("reject", tmp_path / "run", values)
    config, policy = build(Reject, {"out": "o", **values}, "reject"), load_policy(world["model"])
    learner, kept = Learner(policy, config.learner, total_steps=4), kept_of(out)
    for update in range(4):
        learner.step(Part(batch_of(part_of(kept, 2, update, config)), likelihood))
    ours, theirs = policy.state_dict(), load_policy(str(out / "model")).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((out / "run.json").read_text())["ledger"]["tokens_trained"] > 2 * learner.tokens_trained


def test_the_pool_keeps_the_best_of_all_rounds(world, tmp_path):
    all_the_same = {"data": {"path": world["prompts"], "limit": 10}, "prompts": None, "pool": True, "answers": 2}
    rounds = metrics(run_recipe("reject", tmp_path / "same", configured(world, **all_the_same, rounds=4)))[::2]
    scores = [r["kept/scores"] for r in rounds]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0]
    assert [r["kept"] for r in rounds] == [10] * 4
    others = metrics(run_recipe("reject", tmp_path / "other", configured(world, pool=True, answers=1, rounds=6)))[::2]
    assert [r["kept"] for r in others] == [12, 24, 36, 48, 60, 60]


def test_a_list_of_temperatures_is_one_a_round(world, tmp_path):
    everything = {"filter": {"name": "at_least", "value": -99}, "distinct": "exact", "temperature": [1.5, 1e-4]}
    rows = metrics(run_recipe("reject", tmp_path / "run", configured(world, **everything, rounds=3)))[::2]
    assert rows[0]["kept"] > 40
    assert [r["kept"] for r in rows[1:]] == [12, 12], "nearly greedy: all answers of a prompt are one"


def test_answers_that_were_cut_are_dropped_where_that_is_wanted(world, tmp_path):
    everything = {"filter": {"name": "at_least", "value": -99}, "rounds": 1, "minibatches": 1}
    with_cut, without = (
        run_recipe("reject", tmp_path / cut, configured(world, **everything, cut=cut)) for cut in ("keep", "drop")
    )
    stops = [[r["rollout"]["stop"] for r in kept_of(out)] for out in (with_cut, without)]
    assert len(stops[0]) == 48
    assert 0 < stops[0].count("end") == len(stops[1]) == stops[1].count("end") < 48


def test_answers_without_a_reward_are_counted_and_never_kept(world, tmp_path):
    values = configured(world, reward=f"{HERE}:sometimes", filter="at_least", rounds=1)
    row = metrics(run_recipe("reject", tmp_path / "run", values))[0]
    assert row["kept"] == round(48 * (1 - row["rewards/abstained"])) > 0
    assert row["rewards/abstained"] > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reward": f"{HERE}:never"}, r"nothing was kept in 2 rounds, so nothing was learnt \(filter: best"),
        (
            {"filter": {"name": "at_least", "value": 5}},
            r"\(filter: at_least \{'value': 5\}\); look at objective/scores",
        ),
    ],
)
def test_a_run_that_keeps_nothing_says_so(options, says, world, tmp_path):
    with pytest.raises(ValueError, match=says):
        run_recipe("reject", tmp_path / "run", configured(world, **options))
    assert all("loss/likelihood" not in row for row in metrics(tmp_path / "run"))


def record(prompt, value, length, tie=0.5, text="a"):
    rollout = {"prompt_id": prompt, "mask": [False] + [True] * length, "text": text, "stop": "end"}
    return {"rollout": rollout, "score": {"value": value}, "tie": tie}


@pytest.mark.parametrize(("weigh", "by_hand"), [("answers", [1, 1, 1]), ("prompts", [0.5, 0.5, 1])])
def test_weights_by_hand(weigh, by_hand, world):
    options = {"filter": "at_least", "weigh": weigh}
    config = build(Reject, {"out": "o", **configured(world, **options)}, "reject")
    kept = chosen([record("p", 1.0, 2), record("q", 0.0, 9), record("p", 1.0, 4), record("q", 2.0, 5)], config)
    total = sum(w * n for w, n in zip(by_hand, (2, 4, 5), strict=True))
    assert [r["weight"] for r in kept] == pytest.approx([2 * w / total for w in by_hand]), "2: of two minibatches"


def test_every_answer_is_in_one_minibatch_of_each_pass(world):
    config = build(Reject, {"out": "o", **configured(world, minibatches=3, epochs=2)}, "reject")
    kept = [{"place": i} for i in range(8)]
    passes = [[r["place"] for u in range(3) for r in part_of(kept, 0, 3 * e + u, config)] for e in range(2)]
    assert [sorted(places) for places in passes] == [list(range(8))] * 2
    assert passes[0] != passes[1]
    assert [len(part_of(kept[:2], 0, u, config)) for u in range(3)] == [1, 1, 0], "fewer answers than updates"


def test_filters_and_keys_of_ones_own(world, tmp_path):
    own = {"filter": {"name": f"{HERE}:longest", "least": 2}, "distinct": f"{HERE}:first_word", "rounds": 1}
    kept = kept_of(run_recipe("reject", tmp_path / "run", configured(world, **own)))
    lengths = {len(text.split()) for _, text in texts_of(kept)}
    assert len(lengths) == 1
    firsts = [(prompt, first_word(text)) for prompt, text in texts_of(kept)]
    assert len(set(firsts)) == len(firsts) > 0


def test_adapters_learn(world, tmp_path):
    out = run_recipe("reject", tmp_path / "run", configured(world, lora={"rank": 4}, restart=True))
    assert (out / "model" / "adapter").is_dir()
    rows = metrics(out)
    assert rows[1]["loss/likelihood"] != rows[3]["loss/likelihood"]


METHODS = {
    "raft": {"rounds": 6, "prompts": 64, "answers": 4, "minibatches": 2, "learner": {"lr": 1e-3, "schedule": "constant"}},
    "llama2": {"rounds": 3, "prompts": 128, "answers": 4, "pool": True, "temperature": [1.0, 1.1, 1.2], "epochs": 2},
    "rest_em": {
        "rounds": 2, "prompts": 200, "answers": 4, "filter": "at_least", "restart": True, "distinct": "exact", "most": 3,
        "epochs": 3, "minibatches": 6,
    },
    "best_of_n": {"rounds": 1, "prompts": 200, "answers": 8, "epochs": 4, "minibatches": 6},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_endings_of_stories_get_happier(method, shared_data, tmp_path):
    """Gold on held-out prompts, two answers each: the 95 % interval of the gain is above zero."""
    text = {"path": str(shared_data / "text" / "tinystories_4mb.txt"), "after": 230}
    for name, start, num in (("prompts", 2420, 400), ("heldout", 4110, 150)):
        write(tmp_path / f"{name}.jsonl", stories.endings(**text, start=start, num=num))
    model = str(shared_data / "stories260k" / "hf")
    values = {
        "model": model, "data": {"path": str(tmp_path / "prompts.jsonl")}, "encoding": {"max_length": 384},
        "max_tokens": 100, "reward": "clew.data.stories:happy_ending", "learner": {"lr": 1e-3, "warmup": 0.05},
    }  # fmt: skip
    out = run_recipe("reject", tmp_path / method, values | METHODS[method])
    before, after = (gold_of(path, tmp_path / "heldout.jsonl") for path in (model, str(out / "model")))
    gain = after - before
    assert gain.mean() - 1.96 * gain.std(ddof=1) / len(gain) ** 0.5 > 0


def gold_of(model, heldout) -> np.ndarray:
    policy = load_policy(model)
    codec = Codec(policy.tokenizer, Encoding(max_length=384))
    prompts = codec.prompts(load_examples(Source(path=str(heldout))), 100)
    policy.stop_at(codec.stops())
    found = LocalEngine(policy).generate(prompts, n=2, sampling=Sampling(100), key=(9, 9))
    values = stories.happy_ending([r.prompt for r in found], [r.text for r in found])
    return np.array(values).reshape(len(prompts), 2).mean(1)


def ends_as_if_nothing_had(world, tmp_path, places):
    values = configured(world, prompts=4, answers=2, pool=True, restart=True, minibatches=2, save_every=1)
    total = operations(partial(run_recipe, "reject", tmp_path / "whole", values))
    assert len(metrics(tmp_path / "whole")) == 4
    for kind, at in places(total):
        folder = tmp_path / f"{kind} {at}"
        disturbed(partial(run_recipe, "reject", folder, values), kind, at)
        run_recipe("reject", folder, values)
        assert_same(tmp_path / "whole", folder)


def test_an_operation_that_goes_wrong_leaves_no_trace(world, tmp_path):
    ends_as_if_nothing_had(world, tmp_path, lambda n: zip(KINDS, (n // 4, n // 2, 3 * n // 4), strict=True))


@pytest.mark.slow
def test_no_operation_that_goes_wrong_leaves_a_trace(world, tmp_path):
    ends_as_if_nothing_had(world, tmp_path, lambda total: [(kind, at) for kind in KINDS for at in range(total)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"answers": 1}, "filter: best keeps 1 of 1 answers whatever their reward; sample more"),
        ({"filter": {"name": "best", "num": 4}}, "filter: best keeps 4 of 4 answers"),
        ({"filter": {"name": "best", "num": 0}}, "best.num: Input should be greater than or equal to 1; got 0"),
        ({"filter": {"name": "top_share", "share": 1.5}}, "top_share.share: Input should be less than or equal to 1"),
        ({"filter": "correct"}, "no 'correct' here"),
        ({"filter": {"name": "at_least", "threshold": 1}}, "at_least has no option 'threshold'"),
        ({"filter": "no_such_module:keep"}, "cannot import 'no_such_module:keep'"),
        ({"distinct": "normalized"}, "no 'normalized' here; did you mean 'normalised'"),
        ({"pool": True, "filter": "top_share"}, "the top share of a top share is another; take best"),
        (
            {"pool": True, "reward": {"of": [f"{HERE}:few_words"], "combine": "whiten"}},
            "pool compares rewards of several rounds, and whiten makes them comparable within one",
        ),
        ({"temperature": []}, "temperature: Tuple should have at least 1 item"),
        ({"temperature": [1.0, 0]}, "temperature.1: Input should be greater than 0"),
        ({"reward": []}, "reward: Tuple should have at least 1 item"),
        ({"data": {"path": "missing.jsonl"}}, "missing.jsonl does not exist"),
        ({"answer": 3}, "did you mean 'answers'"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(options, says, world):
    with pytest.raises(ConfigError) as error:
        check_inputs(build(Reject, {"out": "o", **configured(world, **options)}, "reject"), "reject")
    assert says in str(error.value)


def test_a_column_that_the_reward_needs_and_the_data_has_not_is_named(world, tmp_path):
    values = configured(world, reward="tests.recipes.test_reject:right")
    with pytest.raises(ValueError, match="reward right needs the column 'answer'; the data's columns: "):
        run_recipe("reject", tmp_path / "run", values)


def right(prompts, completions, answer):
    return [float(a in c) for c, a in zip(completions, answer, strict=True)]
