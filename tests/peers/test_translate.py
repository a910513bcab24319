"""`clew import-config`: files as the peers' documentation shows them, and what each option becomes."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from clew.cli import app
from clew.config import ConfigError, build
from clew.peers.aliases import ALIASES, METHODS, PAIR_LOSSES, SETTLED
from clew.peers.translate import translate
from clew.pipeline import recipe

LLAMA = {
    "model_name_or_path": "Qwen/Qwen3-4B", "do_train": True, "finetuning_type": "lora", "lora_rank": 8,
    "lora_target": "all", "template": "qwen3", "cutoff_len": 2048, "output_dir": "saves/x", "logging_steps": 10,
    "save_steps": 500, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 1e-4,
    "num_train_epochs": 3.0, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": True, "report_to": "none",
}  # fmt: skip
TRL = {"model_name_or_path": "Qwen/Qwen2.5-0.5B", "dataset_name": "trl-lib/x", "output_dir": "out"}
FILES = {
    "llama sft": ({**LLAMA, "stage": "sft", "dataset": "identity"}, None, "sft"),
    "llama dpo": ({**LLAMA, "stage": "dpo", "dataset": "dpo_en_demo", "pref_beta": 0.2, "pref_loss": "sigmoid"}, None, "preference"),
    "llama simpo": ({**LLAMA, "stage": "dpo", "dataset": "d", "pref_beta": 2.5, "pref_loss": "simpo", "simpo_gamma": 0.8}, None, "preference"),
    "llama kto": ({**LLAMA, "stage": "kto", "dataset": "kto_en_demo", "kto_rejected_weight": 1.5}, None, "preference"),
    "llama rm": ({**LLAMA, "stage": "rm", "dataset": "dpo_en_demo"}, None, "reward"),
    "llama ppo": ({**LLAMA, "stage": "ppo", "dataset": "identity,alpaca_en_demo", "reward_model": "saves/rm", "max_new_tokens": 512, "top_k": 0, "top_p": 0.9}, None, "rl"),
    "llama full": ({**LLAMA, "stage": "sft", "dataset": "d", "finetuning_type": "full", "val_size": 0.1}, None, "sft"),
    "trl sft": ({**TRL, "packing": True, "max_length": 4096, "report_to": ["tensorboard", "comet"]}, None, "sft"),
    "trl dpo": ({**TRL, "loss_type": "ipo", "beta": 0.3, "max_steps": 40, "use_peft": True, "lora_target_modules": ["q_proj"], "load_in_4bit": True}, None, "preference"),
    "trl kto": ({**TRL, "desirable_weight": 1.2}, None, "preference"),
    "trl reward": ({**TRL, "center_rewards_coefficient": 0.01}, None, "reward"),
    "trl grpo": ({**TRL, "num_generations": 8, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "beta": 0.04, "epsilon_high": 0.28, "reward_funcs": ["my_lib.rewards.brief"], "max_steps": 500, "loss_type": "dapo"}, None, "rl"),
    "trl rloo": ({**TRL, "num_generations": 4, "reward_model_name_or_path": "rm"}, "rloo", "rl"),
}  # fmt: skip


def translated(tmp_path, values, method=None):
    file = tmp_path / "theirs.yaml"
    file.write_text(yaml.safe_dump(values))
    name, text = translate(file, method)
    return name, yaml.safe_load(text), text


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_peers_become_configurations_that_load(name, tmp_path):
    values, method, expected = FILES[name]
    found, ours, text = translated(tmp_path, values, method)
    assert found == expected
    config = build(recipe(found)[1], ours, "ours").model_dump()
    assert config["model"] == values["model_name_or_path"]
    assert config["out"] == values["output_dir"]
    for option in values:  # each is somewhere: translated, or named in a comment
        known = option in ALIASES or f"#   {option}" in text or option in TOLD
        assert known, option


TOLD = set(
    "do_train stage finetuning_type use_peft dataset dataset_name bf16 report_to per_device_train_batch_size beta "
    "gradient_accumulation_steps pref_beta pref_loss simpo_gamma kto_rejected_weight reward_model loss_type max_steps "
    "lora_target lora_target_modules load_in_4bit desirable_weight val_size reward_funcs epsilon_high "
    "reward_model_name_or_path".split()
)
"""Options that become part of another one; the tests below say what."""


def test_batch_is_rows_times_accumulation_and_in_rl_prompts(tmp_path):
    assert translated(tmp_path, FILES["llama sft"][0])[1]["batch"] == 8
    assert translated(tmp_path, TRL, "sft")[1]["batch"] == 8  # TRL's default of 8 rows, 1 accumulation
    grpo = translated(tmp_path, FILES["trl grpo"][0])[1]
    assert (grpo["prompts"], grpo["group"], grpo["minibatches"]) == (8 * 4 // 8, 8, 1)
    twice = translated(tmp_path, {**FILES["trl grpo"][0], "steps_per_generation": 8})[1]
    assert (twice["prompts"], twice["minibatches"]) == (8, 2)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("llama dpo", {"name": "dpo", "beta": 0.2}),
        ("llama simpo", {"name": "simpo", "beta": 2.5, "margin": 0.8}),
        ("llama kto", {"name": "kto", "beta": 0.1, "undesirable_weight": 1.5}),
        ("trl dpo", {"name": "ipo_mean", "tau": 0.3}),
        ("trl kto", {"name": "kto", "beta": 0.1, "desirable_weight": 1.2}),
    ],
)
def test_losses_keep_their_options(name, loss, tmp_path):
    assert translated(tmp_path, *FILES[name][:2])[1]["loss"] == loss


def test_the_losses_of_the_table_take_the_options_of_the_table():
    from clew.config import Choice
    from clew.recipes.preference import LOSSES

    for name, options in PAIR_LOSSES.values():
        Choice(name=name, **dict.fromkeys(options.values(), 0.1)).bind(LOSSES)


def test_adapters_keep_rank_alpha_and_targets(tmp_path):
    assert translated(tmp_path, FILES["llama sft"][0])[1]["lora"] == {"rank": 8, "alpha": 16}
    dpo = translated(tmp_path, FILES["trl dpo"][0])[1]
    assert dpo["lora"] == {"rank": 16, "alpha": 32, "targets": ["q_proj"], "weights": "nf4"}
    assert dpo["precision"] == "bf16"
    assert "lora" not in translated(tmp_path, FILES["llama full"][0])[1]
    assert "lora" not in translated(tmp_path, TRL, "sft")[1]


def test_splits_rewards_and_trackers(tmp_path):
    full = translated(tmp_path, FILES["llama full"][0])[1]
    assert (full["data"]["part"], full["heldout"]) == (
        "train",
        {"path": "data/d.json", "part": "heldout", "heldout": 0.1},
    )
    assert translated(tmp_path, FILES["trl grpo"][0])[1]["reward"] == [{"function": "my_lib.rewards:brief"}]
    ppo = translated(tmp_path, FILES["llama ppo"][0])[1]
    assert (ppo["reward"], ppo["critic"], ppo["epochs"]) == ([{"model": "saves/rm"}], {"model": "saves/rm"}, 4)
    _, sft, text = translated(tmp_path, FILES["trl sft"][0])
    assert sft["trackers"] == ["tensorboard"]
    assert "#   report_to (['tensorboard', 'comet']): comet: there are tensorboard, wandb, trackio" in text


def test_objectives_of_rl(tmp_path):
    grpo = translated(tmp_path, FILES["trl grpo"][0])[1]
    assert grpo["loss"] == {"name": "clipped", "low": 0.2, "high": 0.28}
    assert (grpo["averaging"], grpo["advantages"]) == ("token", "group_normalised")
    assert grpo["kl"] == {"coefficient": 0.04, "place": "loss", "loss": "forward"}
    bare = translated(
        tmp_path, {**FILES["trl grpo"][0], "loss_type": "dr_grpo", "scale_rewards": "none", "delta": 4.0}
    )[1]
    assert (bare["averaging"], bare["advantages"], bare["loss"]["dual"]) == ("fixed", "group_mean", 4.0)
    rloo = translated(tmp_path, FILES["trl rloo"][0], "rloo")[1]
    assert (rloo["advantages"], rloo["loss"], rloo["kl"]) == ("leave_one_out", "reinforce", {"coefficient": 0.05, "place": "reward"})  # fmt: skip


GRPO = {**FILES["trl grpo"][0], "gradient_accumulation_steps": 2, "steps_per_generation": 8, "num_iterations": 4}


def test_updates_of_trl_are_counted_in_batches_of_rollouts(tmp_path):
    _, ours, text = translated(tmp_path, {**GRPO, "max_steps": 1000, "save_steps": 160})
    assert (ours["epochs"], ours["minibatches"]) == (4, 4)
    assert (ours["steps"], ours["save_every"]) == (63, 10)
    assert "#   max_steps (1000): 62.5 batches of rollouts, each with the 16 updates that TRL counts" in text
    often = translated(tmp_path, {**GRPO, "save_steps": 5})[1]
    assert often["save_every"] == 1
    alone = translated(tmp_path, {**FILES["trl grpo"][0], "save_steps": 50})[1]
    assert (alone["steps"], alone["save_every"]) == (500, 50)
    size = translated(tmp_path, {**FILES["trl grpo"][0], "generation_batch_size": 64})[1]
    assert (size["prompts"], size["minibatches"], size["steps"]) == (8, 2, 250)
    ppo = translated(tmp_path, {**FILES["llama ppo"][0], "max_steps": 100, "save_steps": 20})[1]
    assert (ppo["epochs"], ppo["steps"], ppo["save_every"]) == (4, 100, 20)  # LLaMA-Factory counts the same


@pytest.mark.parametrize("more", [{"num_iterations": 2}, {"steps_per_generation": 2}])
def test_clipping_a_whole_sequence_is_not_passed_over(more, tmp_path):
    _, ours, text = translated(tmp_path, {**FILES["trl rloo"][0], **more}, "rloo")
    assert ours["loss"] == {"name": "clipped", "low": 0.2, "high": 0.2}
    assert "TRL clips the ratio of a whole sequence, clipped that of each token" in text
    _, _, text = translated(tmp_path, FILES["trl rloo"][0], "rloo")
    assert "TRL clips" not in text


def test_what_feels_a_factor_on_the_loss_is_divided_by_it(tmp_path):
    sizes = {"max_completion_length": 256, "max_grad_norm": 0.5, "adam_epsilon": 1e-6}
    ours = translated(tmp_path, {**FILES["trl rloo"][0], **sizes}, "rloo")[1]
    assert ours["averaging"] == "fixed"
    assert (ours["learner"]["clip"], ours["learner"]["eps"]) == (0.5 / 256, 1e-6 / 256)


def test_memory_and_precision_are_as_the_tool_has_them(tmp_path):
    silent = translated(tmp_path, TRL, "sft")[1]
    assert (silent["precision"], silent["learner"]["gradient_checkpointing"]) == ("bf16", True)
    for told in ({"fp16": True}, {"bf16": False}):
        assert "precision" not in translated(tmp_path, {**TRL, **told}, "sft")[1]
    llama = {"stage": "sft", "model_name_or_path": "m", "dataset": "d"}
    assert "precision" not in translated(tmp_path, llama)[1]
    assert translated(tmp_path, llama)[1]["learner"]["gradient_checkpointing"] is True
    without = translated(tmp_path, {**llama, "disable_gradient_checkpointing": True})[1]
    assert without["learner"]["gradient_checkpointing"] is False


def test_layers_that_peft_would_choose_are_said(tmp_path):
    says = "#   lora_target_modules: peft chooses some layers by the kind of model (often q_proj and v_proj)"
    assert says in translated(tmp_path, {**TRL, "use_peft": True}, "sft")[2]
    assert says not in translated(tmp_path, {**TRL, "use_peft": True, "lora_target_modules": "all-linear"}, "sft")[2]
    assert says not in translated(tmp_path, FILES["llama sft"][0])[2]


def test_a_number_of_held_out_rows_is_said(tmp_path):
    _, ours, text = translated(tmp_path, {**FILES["llama full"][0], "val_size": 200})
    assert "heldout" not in ours
    assert (
        "#   val_size (200): set data.part: train, data.heldout: 200 divided by the rows of the data, and heldout"
        in text
    )


def test_what_is_too_long_is_cut_and_not_dropped_for_llama_factory(tmp_path):
    assert translated(tmp_path, FILES["llama rm"][0])[1]["encoding"]["truncation"] == "truncate_completion"
    assert translated(tmp_path, FILES["trl reward"][0])[1]["encoding"]["truncation"] == "drop"


def test_datasets_of_llama_factory_are_files_or_hub_names(tmp_path):
    described = {
        "file": {"file_name": "f.json"},
        "hub": {"hf_hub_url": "owner/name", "split": "test", "columns": {"prompt": "ask"}},
        "elsewhere": {"ms_hub_url": "owner/name"},
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset_info.json").write_text(json.dumps(described))

    def path(name):
        _, ours, text = translated(tmp_path, {**FILES["llama sft"][0], "dataset": name})
        return ours["data"]["path"], text

    assert path("file")[0] == str(tmp_path / "data/f.json")
    name, text = path("hub")
    assert name == "owner/name:test"
    assert "was not found" not in text
    assert "dataset_info.json is not read for hub names (columns); data.columns names columns" in text
    for name in ("elsewhere", "other"):
        says = f"data/dataset_info.json has no file or hub name for it, so the file of {name!r} is a guess"
        assert says in path(name)[1]
    (tmp_path / "data/dataset_info.json").unlink()
    assert "data/dataset_info.json was not found, so the file of 'file' is a guess" in path("file")[1]


@pytest.mark.parametrize(
    ("values", "method"),
    [
        ({"scale_rewards": "none"}, "grpo"),
        ({"loss_type": "dr_grpo"}, "grpo"),
        ({"num_iterations": 2, "delta": 4.0}, "grpo"),
        ({"reward_funcs": ["m.f"], "normalize_advantages": True}, "rloo"),
        ({"epsilon": 0.2, "num_iterations": 1, "reward_funcs": ["m.f"], "sync_ref_model": True}, None),
        ({"precompute_ref_log_probs": True}, None),
        ({"precompute_ref_log_probs": True, "undesirable_weight": 1.1}, "kto"),
        ({"loss_weights": [1.0]}, "dpo"),
    ],
)
def test_only_options_of_one_trainer_tell_which_it_is(values, method, tmp_path):
    if method is None:
        with pytest.raises(ConfigError, match="does not say what it is for; --method is one of"):
            translated(tmp_path, {**TRL, **values})
    else:
        assert f"(TRL, {method})" in translated(tmp_path, {**TRL, **values})[2]


def test_what_is_silent_has_the_defaults_of_the_tool(tmp_path):
    trl = translated(tmp_path, TRL, "dpo")[1]
    assert (trl["learner"]["lr"], trl["epochs"], trl["encoding"]["max_length"]) == (1e-6, 3.0, 1024)
    assert (trl["learner"]["schedule"], trl["learner"]["betas"], trl["seed"]) == ("linear", [0.9, 0.999], 42)
    llama = translated(tmp_path, {"stage": "sft", "model_name_or_path": "m", "dataset": "d"})[1]
    assert (llama["learner"]["lr"], llama["lora"]["rank"], llama["encoding"]["max_length"]) == (5e-5, 8, 2048)


def test_what_is_left_to_do_is_said(tmp_path):
    _, _, text = translated(
        tmp_path, {**FILES["trl dpo"][0], "warmup_steps": 10, "neftune_noise_alpha": 5, "fp16": True}
    )
    assert "#   max_steps (40): set epochs: 40 times batch, divided by the rows of the data" in text
    assert "#   neftune_noise_alpha (5): no counterpart" in text
    assert "#   fp16 (True): there is bf16 and fp32, no fp16" in text
    _, ours, _ = translated(tmp_path, {**FILES["trl dpo"][0], "warmup_steps": 10})
    assert ours["learner"]["warmup"] == 0.25
    _, _, text = translated(tmp_path, {**TRL, "lr_scheduler_type": "polynomial"}, "sft")
    assert "#   lr_scheduler_type ('polynomial'): no counterpart for the value 'polynomial'" in text


def test_a_dataset_by_name_is_found_beside_the_configuration(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset_info.json").write_text(json.dumps({"mine": {"file_name": "m.json"}}))
    _, ours, text = translated(tmp_path, {**LLAMA, "stage": "sft", "dataset": "mine"})
    assert ours["data"]["path"] == str(tmp_path / "data/m.json")
    assert "guess" not in text


@pytest.mark.parametrize(
    ("values", "method", "says"),
    [
        (TRL, None, "does not say what it is for; --method is one of sft, dpo"),
        (TRL, "ilql", "--method 'ilql' is none of sft, dpo"),
        (TRL, "dpoo", "--method 'dpoo' is none of sft, .*; did you mean 'dpo'?"),
        ({**TRL, "loss_type": "nca_pair"}, "dpo", "the loss 'nca_pair' has no counterpart"),
        ({**TRL, "loss_type": "cispo"}, "grpo", "loss_type 'cispo' has no counterpart"),
    ],
)
def test_what_cannot_be_translated_is_refused(values, method, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        translated(tmp_path, values, method)


@pytest.mark.parametrize(
    ("files", "data", "heldout"),
    [
        (None, "data.jsonl", None),
        ("mine.jsonl", "mine.jsonl", None),
        ({"train": ["a.jsonl"], "test": "b.jsonl"}, "a.jsonl", {"path": "b.jsonl"}),
    ],
)
def test_a_kind_of_file_is_no_dataset(files, data, heldout, tmp_path):
    values = {**TRL, "warmup_steps": 9, "dataset_name": "json", "data_files": files, "eval_strategy": "steps"}
    _, ours, text = translated(tmp_path, values, "dpo")
    assert (ours["data"], ours.get("heldout")) == ({"path": data}, heldout)
    remarks = text.partition("# Not translated, or to be looked at:\n")[2].splitlines()
    assert any("warmup_steps" in line for line in remarks)
    if files is None:
        assert remarks[:2] == [
            "#   data: to be filled in, the file names none: data.path, and heldout.path if there is one",
            "#   dataset_name ('json'): json is a kind of file, and no data_files name one",
        ]
    else:
        assert "dataset_name" not in text


def test_a_misspelt_option_is_told_the_one_that_was_meant(tmp_path):
    _, _, text = translated(tmp_path, {**TRL, "max_gramd_norm": 0.5, "neftune_noise_alpha": 5}, "sft")
    assert "#   max_gramd_norm (0.5): no counterpart; did you mean max_grad_norm?\n" in text
    assert "#   neftune_noise_alpha (5): no counterpart\n" in text


def test_no_option_is_in_two_tables():
    assert not set(ALIASES) & set(SETTLED)
    assert set(METHODS.values()) == {"sft", "preference", "reward", "rl"}


def test_the_command_writes_a_file_that_the_recipe_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(FILES["trl kto"][0]))
    told = CliRunner().invoke(app, ["import-config", "theirs.yaml", "--out", "ours.yaml"])
    assert "ours.yaml is ready; read it, then: clew preference ours.yaml --show" in told.output
    shown = CliRunner().invoke(app, ["preference", "ours.yaml", "--show"])
    assert shown.exit_code == 0
    assert yaml.safe_load(shown.output)["loss"]["desirable_weight"] == 1.2
