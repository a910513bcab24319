"""Every recipe, run for real on a small model; what it must leave behind and what it must refuse."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from clew.config import ConfigError
from clew.data.chat import Codec, Encoding
from clew.data.grammar import gold
from clew.data.sources import Source, load_examples
from clew.failure import Failure
from clew.feedback.store import Store
from clew.learn.invariants import BrokenInvariant
from clew.learn.learner import NotFinite
from clew.models.reference import frozen

from .conftest import configured, metrics, run_recipe, write


def test_sft_learns_and_leaves_a_model(world, tmp_path):
    values = configured("sft", world) | {"heldout": {"path": world["demonstrations"]}}
    out = run_recipe("sft", tmp_path / "sft", values)
    rows = metrics(out)
    assert [r["step"] for r in rows] == list(range(45))
    assert sum(r["loss/nll"] for r in rows[-5:]) < 0.9 * sum(r["loss/nll"] for r in rows[:5])
    assert 0 < rows[0]["supervised_token_fraction"] < 1
    assert json.loads((out / "result.json").read_text())["heldout"]["nll"] < rows[0]["loss/nll"]
    AutoModelForCausalLM.from_pretrained(out / "model")
    info = json.loads((out / "run.json").read_text())
    assert info["state"] == "finished"
    assert info["ledger"]["tokens_trained"] > 1000
    assert info["ledger"]["flops"] > 6 * info["ledger"]["tokens_trained"]


def test_pretraining_learns_the_language(world):
    rows = metrics(Path(world["model"]).parent)
    assert rows[-1]["loss/nll"] < 0.85 * rows[0]["loss/nll"]


@pytest.mark.parametrize(
    ("loss", "data"),
    [
        ("bradley_terry", "pairs"),
        ("mixed_uniform", "pairs"),
        ("crowd_bt", "votes"),
        ("all_pairs", "rankings"),
        ("plackett_luce", "rankings"),
        ("regression", "ratings"),
        ("huber", "ratings"),
        ("thumbs", "thumbs"),
        ("ordinal", "levels"),
    ],
)
def test_reward_models_learn_from_every_kind_of_label(world, tmp_path, loss, data, monkeypatch):
    monkeypatch.setattr("clew.recipes.reward.check_reload", lambda *a, **k: None)  # has its own test
    values = configured("reward", world) | {
        "data": {"path": world[data]},
        "heldout": {"path": world[data]},
        "loss": loss,
        "centring": 0.01,
    }
    out = run_recipe("reward", tmp_path / "rm", values)
    rows = metrics(out)
    key = next(k for k in rows[0] if k in ("loss/rank", "loss/point"))
    assert sum(r[key] for r in rows[-5:]) < sum(r[key] for r in rows[:5])
    measured = json.loads((out / "result.json").read_text())["heldout"]
    found = measured.get("accuracy", measured.get("correlation"))
    assert found > (0.55 if key == "loss/rank" else 0.1)
    saved = json.loads((out / "model" / "clew.json").read_text())
    assert saved["scale"] > 0
    assert (saved["cuts"] is not None) == (loss == "ordinal")
    assert list(saved["raters"]) == (["anna", "ben", "troll"] if loss == "crowd_bt" else [])


def test_a_reward_model_learns_whom_to_believe(world, tmp_path, monkeypatch):
    monkeypatch.setattr("clew.recipes.reward.check_reload", lambda *a, **k: None)
    row = json.loads(Path(world["pairs"]).read_text().splitlines()[0])
    turned = {"chosen": row["rejected"], "rejected": row["chosen"]}
    raters = {"anna": row, "ben": row, "troll": {**row, **turned}}
    rows = [{**said, "rater": rater} for rater, said in raters.items() for _ in range(100)]
    values = configured("reward", world) | {
        "data": {"path": write(tmp_path / "votes.jsonl", rows)}, "loss": "crowd_bt", "epochs": 1, "raters": {"lr": 0.3},
    }  # fmt: skip
    found = json.loads((run_recipe("reward", tmp_path / "crowd", values) / "result.json").read_text())["raters"]
    assert found["troll"] < 0.3 < 0.7 < min(found["anna"], found["ben"])
    judge = json.loads(
        (
            run_recipe("reward", tmp_path / "judge", values | {"raters": {"judges": ["troll"], "lr": 0.3}})
            / "result.json"
        ).read_text()
    )
    assert judge["raters"]["troll"] < found["troll"]
    # gone on with from comparisons of nobody, nothing is learnt of raters
    again = {"model": str(tmp_path / "crowd" / "model"), "loss": "bradley_terry"}
    assert not (run_recipe("reward", tmp_path / "on", values | again) / "result.json").exists()


def test_a_saved_reward_model_is_checked_in_a_fresh_process(world):
    """`world` ran the recipe with its check; what it saved loads as a sequence classifier."""
    module = AutoModelForSequenceClassification.from_pretrained(world["reward"], num_labels=1)
    assert module.score.weight.abs().sum() > 0


@pytest.mark.parametrize(
    "loss", ["dpo", "robust_dpo", "ipo", "ipo_mean", "hinge", "apo_zero", "apo_down", "simpo", "orpo", "kto"]
)
def test_preference_losses_fall_from_the_reference_on(world, tmp_path, loss):
    values = configured("preference", world) | {"loss": loss, "heldout": {"path": world["pairs"]}}
    if loss.startswith("ipo"):
        values |= {"loss": {"name": loss, "tau": 0.5}}
    out = run_recipe("preference", tmp_path / loss, values)
    rows = metrics(out)
    if loss not in ("simpo", "orpo", "kto"):
        assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert sum(r["loss/pair"] for r in rows[-10:]) < sum(r["loss/pair"] for r in rows[:10])
    assert json.loads((out / "result.json").read_text())["heldout"]["auc" if loss == "kto" else "accuracy"] > 0.5


RL = {
    "ppo": {},
    "ppo with its options": {
        "missing_eos": {"how": "subtract", "value": 1.0}, "entropy": 0.01, "whiten_rewards": True,
        "kl": {"coefficient": 0.1, "stop": 0.02}, "ptx": {"data": {"path": "corpus"}, "batch": 4},
        "loss": {"name": "clipped", "dual": 3.0}, "group": 2,
    },
    "a2c": {"loss": "reinforce", "epochs": 1, "minibatches": 1, "advantages": {"name": "gae", "lam": 1.0}},
    "grpo": {"advantages": "group_normalised", "group": 4, "critic": None, "averaging": "sequence", "kl": {"place": "loss", "loss": "forward"}},
    "dr grpo": {"advantages": "group_mean", "group": 4, "critic": None, "averaging": "fixed"},
    "dapo": {
        "advantages": "group_normalised", "group": 4, "critic": None, "loss": {"name": "clipped", "high": 0.28}, "draws": 2,
        "overlong": 4, "missing_eos": {"how": "ignore"},
    },
    "gspo": {"advantages": "group_normalised", "group": 4, "critic": None, "ratio": "sequence", "averaging": "sequence"},
    "remax": {"advantages": "minus_greedy", "critic": None, "loss": "reinforce", "epochs": 1, "minibatches": 1},
    "reinforce++ with cispo's weights": {
        "advantages": "to_go", "critic": None, "whiten_advantages": True, "normalise": "whiten", "loss": "cispo",
    },
    "apa": {"loss": {"name": "apa", "beta": 2.0}, "kl": {"coefficient": 0}},
    "awr": {"loss": "advantage_weighted", "kl": {"coefficient": 0}},
    "trpo": {"advantages": "leave_one_out", "group": 2, "critic": None, "trust_region": {"iterations": 2, "tries": 3}, "epochs": 1, "minibatches": 1},
    "rloo": {"advantages": "leave_one_out", "group": 4, "critic": None, "loss": "reinforce", "epochs": 1, "minibatches": 1},
    "reinforce": {"advantages": "batch_mean", "critic": None, "loss": "reinforce", "epochs": 1, "minibatches": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", RL)
def test_rl_in_all_its_configurations(world, tmp_path, name):
    values = configured("rl", world) | {"reward": [{"function": "clew.data.grammar:gold"}]} | RL[name]
    if values.get("ptx"):
        values["ptx"] = values["ptx"] | {"data": {"path": world["corpus"]}}
    out = run_recipe("rl", tmp_path / "rl", values)
    rows = metrics(out)
    assert [r["step"] for r in rows] == list(range(8))
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert rows[0]["val/ratio"] == pytest.approx(1, abs=0.3)
    assert all(r["completions/max_length"] <= 16 for r in rows)
    assert ("loss/value" in rows[0]) == (values["critic"] is not None)
    assert ("loss/ptx" in rows[0]) == ("ptx" in values)
    assert ("loss/kl" in rows[0]) == (values["kl"].get("place") == "loss")
    ledger = json.loads((out / "run.json").read_text())["ledger"]
    assert ledger["tokens_generated"] > 500
    AutoModelForCausalLM.from_pretrained(out / "model")


def test_rl_raises_a_reward_that_a_tiny_model_can_raise(world, tmp_path):
    values = configured("rl", world) | {
        "reward": [{"function": f"{__name__}:says_good"}], "steps": 25, "prompts": 16, "kl": {"coefficient": 0.0},
        "learner": {"lr": 1e-2, "schedule": "constant"}, "group": 4, "advantages": "leave_one_out", "critic": None,
    }  # fmt: skip
    rows = metrics(run_recipe("rl", tmp_path / "rl", values))
    assert sum(r["objective/scores"] for r in rows[-5:]) > sum(r["objective/scores"] for r in rows[:5]) + 0.5


def says_good(prompts, completions):
    return [float(c.split().count("good")) for c in completions]


def test_rewards_that_abstain_leave_their_group_out(world, tmp_path):
    values = configured("rl", world) | {"reward": [{"function": f"{__name__}:sometimes"}], "group": 2, "steps": 2}
    rows = metrics(run_recipe("rl", tmp_path / "rl", values))
    assert 0 < rows[0]["rewards/abstained"] < 1


def sometimes(prompts, completions):
    return [None if "film" in p else 1.0 for p in prompts]


def test_labels_reach_the_store_and_its_exports(world, tmp_path):
    for kind, export in (("comparison", "pairs"), ("ranking", "rankings"), ("rating", "singles"), ("thumb", "singles")):
        out = run_recipe("label", tmp_path / kind, configured("label", world) | {"kind": kind})
        store = Store.open(out / "feedback.sqlite")
        votes = store.feedback(kind)
        assert len(votes) == 2 * len(store.tasks()) > 50
        assert {r.id for r in store.raters()} == {"honest-0", "honest-1", "troll-0"}
        rows = [json.loads(line) for line in (out / f"{export}.jsonl").read_text().splitlines()]
        assert len(rows) > 20
        store.close()


def test_labels_of_conversations_train_on_the_tokens_that_were_sampled_from(world, tmp_path):
    encoding = {"max_length": 128, "template": "transcript"}
    chat = tmp_path / "chat.jsonl"
    write(chat, ({"prompt": [{"role": "user", "content": f"how was the {p} ?"}]} for p in ("inn", "bar", "spa")))
    values = configured("label", world) | {"data": {"path": str(chat)}, "encoding": encoding}
    out = run_recipe("label", tmp_path / "label", values)
    codec = Codec(AutoTokenizer.from_pretrained(world["model"]), Encoding(**encoding))
    asked = {p.id: p.tokens for p in codec.prompts(load_examples(Source(path=str(chat))), 16)}
    judged = codec.answers(load_examples(Source(path=str(out / "pairs.jsonl"))))
    for example, rows in judged:
        for row in rows:
            assert row.tokens[: row.mask.index(True)] == list(asked[example.id])


def test_labels_agree_with_gold_more_often_than_not(world, tmp_path):
    values = configured("label", world) | {"raters": [{"rater": {"name": "honest", "sharpness": 20.0}}], "overlap": 1}
    out = run_recipe("label", tmp_path / "label", values)
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    better = [gold([r["prompt"]], [r["chosen"]])[0] >= gold([r["prompt"]], [r["rejected"]])[0] for r in rows]
    assert sum(better) / len(better) > 0.95


@pytest.mark.parametrize(
    ("recipe", "change", "error", "says"),
    [
        ("preference", {"loss": "dpoo"}, ConfigError, "no 'dpoo' here; did you mean 'dpo'"),
        (
            "preference",
            {"loss": {"name": "dpo", "bta": 1}},
            ConfigError,
            "dpo has no option 'bta'; did you mean 'beta'",
        ),
        ("preference", {"data": {"path": "demonstrations"}}, ConfigError, "learns from pairs"),
        (
            "preference",
            {"loss": "kto", "data": {"path": "demonstrations"}},
            ConfigError,
            "kto needs answers labelled true or false",
        ),
        (
            "preference",
            {"loss": "kto", "data": {"path": "ratings"}},
            ConfigError,
            "kto needs answers labelled true or false",
        ),
        ("preference", {"loss": "kto", "batch": 1}, ConfigError, "a batch over 1"),
        ("reward", {"data": {"path": "demonstrations"}}, ConfigError, "prompts with only one"),
        ("reward", {"loss": "regression"}, ConfigError, "single answers with a label"),
        ("reward", {"loss": "crowd_bt"}, ConfigError, "have no column 'rater'"),
        (
            "reward",
            {"loss": "crowd_bt", "data": {"path": "votes"}, "raters": {"judges": ["anna", "ben", "troll"]}},
            ConfigError,
            "equally likely",
        ),
        ("rl", {"advantages": "group_mean"}, ConfigError, "do not go together"),
        ("rl", {"critic": None}, ConfigError, "do not go together"),
        ("rl", {"reward": [{"function": "no_such_module:f"}]}, ConfigError, "cannot import"),
        ("rl", {"reward": [{"weight": 2.0}]}, ConfigError, "either a model or a function"),
        ("rl", {"reference": "nobody/has-this"}, FileNotFoundError, "nobody/has-this: neither a folder here nor"),
        ("sft", {"model": "./nowhere"}, FileNotFoundError, "nowhere: no such folder"),
        ("sft", {"encoding": {"max_length": 8}}, ValueError, "raise max_length, or set truncation"),
        ("rl", {"max_tokens": 120}, ValueError, "raise max_length, or set truncation"),
    ],
)
def test_wrong_use_is_explained(world, tmp_path, recipe, change, error, says):
    values = configured(recipe, world) | change
    if (name := change.get("data", {}).get("path")) is not None:
        values["data"] = {"path": world[name]}
    with pytest.raises(error, match=says):
        run_recipe(recipe, tmp_path / "run", values)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("too_few", "returned 1 values for 8"),
        ("nothing", "reward nothing returned None for 8 completions; expected one each"),
        ("raises", "reward raises raised KeyError for 8 completions: 'answer'"),
        ("nan", "returned nan for prompt"),
        ("text", "returned 'good' for prompt"),
    ],
)
def test_reward_functions_that_fail_are_named(world, tmp_path, function, says):
    values = configured("rl", world) | {"reward": [{"function": f"{__name__}:{function}"}]}
    with pytest.raises((ValueError, RuntimeError), match=says):
        run_recipe("rl", tmp_path / "rl", values)


def nothing(prompts, completions):
    return None


def raises(prompts, completions):
    return [{}["answer"] for _ in completions]


def too_few(prompts, completions):
    return [1.0]


def nan(prompts, completions):
    return [float("nan")] * len(prompts)


def text(prompts, completions):
    return ["good"] * len(prompts)


def test_a_reference_that_is_not_where_the_run_starts_is_not_taken_for_it(world, tmp_path, monkeypatch):
    """Someone loads the wrong reference: KL at step 0 is not zero, and the run stops."""
    from clew.recipes import preference

    def changed(path, policy):
        twin = frozen(policy)
        twin.module.lm_head.weight.data += 0.5 * torch.randn_like(twin.module.lm_head.weight)
        return twin

    monkeypatch.setattr(preference, "load_start", changed)
    with pytest.raises(BrokenInvariant, match="log-ratio to the reference at step 0: row"):
        run_recipe("preference", tmp_path / "p", configured("preference", world))


def test_sampling_at_another_temperature_than_training_is_noticed(world, tmp_path, monkeypatch):
    from clew.recipes import rl

    monkeypatch.setattr(rl, "Sampling", lambda n, t: __import__("clew.types", fromlist=["x"]).Sampling(n, 1.5))
    with pytest.raises(BrokenInvariant, match="importance ratio at step 0"):
        run_recipe("rl", tmp_path / "rl", configured("rl", world))


def test_a_loss_that_is_not_finite_names_its_row_and_changes_nothing(world, tmp_path):
    values = configured("reward", world) | {"learner": {"lr": 1e-3}}
    rows = [json.loads(line) for line in Path(world["pairs"]).read_text().splitlines()]
    rows[11]["margin"] = 1e39  # infinite in float32
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(json.dumps({**r, "margin": r.get("margin", 0.0)}) + "\n" for r in rows))
    with pytest.raises(NotFinite, match=r"step \d+: loss .* for item \d+ of 8"):
        run_recipe("reward", tmp_path / "rm", values | {"data": {"path": str(file)}, "loss": {"name": "bradley_terry"}})


@pytest.mark.parametrize("recipe", ["sft", "reward", "preference", "rl"])
def test_bfloat16_runs_to_its_end(world, tmp_path, recipe):
    out = run_recipe(recipe, tmp_path / recipe, configured(recipe, world) | {"precision": "bf16"})
    assert (out / "model" / "model.safetensors").exists()


def test_a_judge_must_be_a_reward_model_of_the_same_tokens(world, tmp_path):
    values = configured("rl", world)
    with pytest.raises(ValueError, match="is no reward model: its architecture is"):
        run_recipe("rl", tmp_path / "a", values | {"reward": [{"model": world["model"]}]})
    other = shutil.copytree(world["reward"], tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"soup"', '"SOUP"').replace('"the"', '"soup"'))
    with pytest.raises(ValueError, match="has another tokenizer than the policy"):
        run_recipe("rl", tmp_path / "b", values | {"reward": [{"model": str(other)}]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"kl": {"coefficient": 0.0, "target": 3.0}},
            "a KL target is reached by changing the coefficient from above 0",
        ),
        ({"temperature": 0}, "temperature: Input should be greater than 0"),
    ],
)
def test_options_that_cannot_work_are_refused(world, change, says):
    with pytest.raises(ConfigError, match=says):
        run_recipe("rl", Path("never"), configured("rl", world) | change)


def test_ptx_is_at_temperature_1(world, tmp_path):
    ptx = {"data": {"path": world["corpus"]}, "batch": 2}
    with pytest.raises(ConfigError, match="ptx keeps what the model knows at temperature 1"):
        run_recipe("rl", tmp_path / "rl", configured("rl", world) | {"ptx": ptx, "temperature": 0.7})


def test_equal_prompts_are_labelled_once(world, tmp_path):
    data = write(tmp_path / "p.jsonl", [{"prompt": "how was the soup ?"}] * 4)
    values = configured("label", world) | {"data": {"path": data}, "kind": "rating"}
    out = run_recipe("label", tmp_path / "label", values)
    assert len(Store.open(out / "feedback.sqlite").tasks()) <= 4


def test_reference_free_losses_report_their_own_rewards(world, tmp_path):
    out = run_recipe("preference", tmp_path / "simpo", configured("preference", world) | {"loss": "simpo"})
    first = metrics(out)[0]
    assert first["rewards/margins"] != 0
    assert first["rewards/chosen"] < 0


BEST = {"sft": "demonstrations", "reward": "pairs", "preference": "pairs"}


@pytest.mark.parametrize("name", BEST)
def test_the_best_checkpoint_on_held_out_rows_is_kept_and_taken(name, world, tmp_path):
    """The rate explodes after the first steps: the last checkpoint is not the best."""
    heldout = {"path": world[BEST[name]], "part": "heldout", "heldout": 0.3}
    values = configured(name, world) | {
        "heldout": heldout, "data": {**heldout, "part": "train"}, "save_every": 2, "keep": 1, "epochs": 2.0,
        "learner": {"lr": 0.5, "schedule": "constant", "warmup": 0.5},
    }  # fmt: skip
    out = run_recipe(name, tmp_path / "best", values | {"result": "best"})
    metric = "heldout/nll" if name == "sft" else "heldout/accuracy"
    sign = 1 if name == "sft" else -1
    measured = {row["step"] + 1: row[metric] for row in metrics(out) if metric in row}
    best = min(measured, key=lambda step: (sign * measured[step], step))
    assert best != max(measured), "the world of this test no longer has a better checkpoint before the last"
    kept = sorted(f.name for f in (out / "checkpoints").iterdir())
    assert kept == sorted({f"checkpoint-{best:06}", f"checkpoint-{max(measured):06}"})
    taken = load_file(out / "model" / "model.safetensors")
    assert all(w.equal(taken[k]) for k, w in load_file(out / "checkpoints" / kept[0] / "model.safetensors").items())
    result = json.loads((out / "result.json").read_text())["heldout"]
    assert result[metric.removeprefix("heldout/")] == pytest.approx(measured[best], abs=1e-5)


def test_best_needs_rows_to_go_by(world, tmp_path):
    with pytest.raises(ConfigError, match="result: best goes by held-out rows, and `heldout` names none"):
        run_recipe("sft", tmp_path / "run", configured("sft", world) | {"result": "best"})


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
def test_losses_without_reference_load_none(loss, world, tmp_path, monkeypatch):
    monkeypatch.setattr("clew.recipes.preference.load_start", lambda *a: pytest.fail("nobody asks it anything"))
    out = run_recipe("preference", tmp_path / "run", configured("preference", world) | {"loss": loss, "epochs": 0.5})
    assert all(row["loss/pair"] > 0 for row in metrics(out))


def test_sft_imitates_the_chosen_answers_of_pairs_and_never_the_rejected(world, tmp_path):
    chosen = [json.loads(line) for line in Path(world["pairs"]).read_text().splitlines()]
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in chosen]
    write(tmp_path / "chosen.jsonl", rows)
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a", "chosen": " b", "rejected": " b" * 500}))
    values = configured("sft", world) | {"epochs": 0.5}
    models = [
        run_recipe("sft", tmp_path / name, values | {"data": {"path": str(path)}}) / "model" / "model.safetensors"
        for name, path in (("pairs", world["pairs"]), ("chosen", tmp_path / "chosen.jsonl"))
    ]
    assert models[0].read_bytes() == models[1].read_bytes()
    run_recipe("sft", tmp_path / "long", values | {"data": {"path": str(tmp_path / "long.jsonl")}})


def test_kto_is_measured_on_answers_marked_good_and_bad(world, tmp_path):
    values = configured("preference", world) | {
        "loss": "kto", "data": {"path": world["thumbs"]}, "heldout": {"path": world["thumbs"]}, "result": "best"
    }  # fmt: skip
    out = run_recipe("preference", tmp_path / "run", values | {"epochs": 1.0})
    assert json.loads((out / "result.json").read_text())["heldout"]["auc"] > 0.5
    good = [row for row in map(json.loads, Path(world["thumbs"]).read_text().splitlines()) if row["label"]]
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in good))
    with pytest.raises(ConfigError, match=r"true or false \(both where they are held out\).*good.jsonl has labels \[1"):
        run_recipe("preference", tmp_path / "one", values | {"heldout": {"path": str(tmp_path / "good.jsonl")}})


def test_held_out_rows_that_nobody_can_get_right_are_told_before_training(world, tmp_path):
    write(tmp_path / "ties.jsonl", [{"prompt": "a", "completions": [" b", " c"], "ranks": [0, 0]}])
    write(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": " b", "rejected": " b"}])
    with pytest.raises(ConfigError, match="rows to measure on differ neither in rank nor in label"):
        values = configured("reward", world) | {"heldout": {"path": str(tmp_path / "ties.jsonl")}}
        run_recipe("reward", tmp_path / "rm", values)
    with pytest.raises(ConfigError, match="dpo learns from pairs; .*pairs.jsonl has none with a winner"):
        values = configured("preference", world) | {"heldout": {"path": str(tmp_path / "pairs.jsonl")}}
        run_recipe("preference", tmp_path / "dpo", values)


def test_a_best_checkpoint_that_is_damaged_is_not_taken(world, tmp_path, monkeypatch):
    from clew.recipes import sft

    values = configured("sft", world) | {
        "heldout": {"path": world["demonstrations"]}, "save_every": 4, "keep": None, "epochs": 1.0, "result": "best"
    }  # fmt: skip
    take = sft.take_result

    def damaged(config, model, run):
        weights = run.best_checkpoint() / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-9] + b"x" * 9)
        take(config, model, run)

    monkeypatch.setattr(sft, "take_result", damaged)
    with pytest.raises(Failure, match=r"did best on held-out rows and is damaged \(model.safetensors does not match"):
        run_recipe("sft", tmp_path / "run", values)


def test_a_critic_has_the_precision_of_the_run(world, tmp_path):
    values = configured("rl", world, adapted=True) | {"precision": "bf16", "steps": 1}
    values["critic"] = values["critic"] | {"lora": {"rank": 2, "weights": "bf16"}}
    assert (run_recipe("rl", tmp_path / "run", values) / "model" / "model.safetensors").exists()


def test_options_that_came_later_had_their_defaults(world, tmp_path):
    out = run_recipe("sft", tmp_path / "run", configured("sft", world) | {"epochs": 0.2})
    old = yaml.safe_load((out / "config.yaml").read_text())
    del old["result"], old["lora"]
    (out / "config.yaml").write_text(yaml.safe_dump(old))
    run_recipe("sft", tmp_path / "run", configured("sft", world) | {"epochs": 0.2})


def test_texts_longer_than_the_context_are_cut_to_fit(world, tmp_path):
    write(tmp_path / "long.jsonl", [{"text": "the soup was good . " * 60}])
    values = configured("pretrain", world) | {"data": {"path": str(tmp_path / "long.jsonl")}, "window": 128, "steps": 2}
    assert (run_recipe("pretrain", tmp_path / "run", values) / "model" / "config.json").exists()
