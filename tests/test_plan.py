import json
from itertools import chain

import pytest
import torch
from typer.testing import CliRunner

from clew.alternatives import alternatives
from clew.cli import app
from clew.config import ConfigError, load
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.footprint import cache_bytes, optimiser_bytes, update_bytes
from clew.losses.distill import forward_kl
from clew.machine import GPUS, Machine, gpu
from clew.models.adapter import LoRA
from clew.models.layout import Layout
from clew.models.shadow import Shadow
from clew.pipeline import Stage, recipe
from clew.plan import PLANNERS, plan
from clew.recipes.distill import Distill

D, F, LAYERS, HEADS, KEY_HEADS = 16, 32, 2, 4, 2
"""Of the fixture's Llama."""
LAYER = D * D * 2 + 2 * D * (D // HEADS * KEY_HEADS) + 3 * D * F  # the weights of its matrices
MACHINE = Machine("a small one", 8e9, {"fp32": 1e11, "bf16": 1e11}, 1e10, 0.5, "made up")


@pytest.fixture
def config(new_module):
    return new_module().config


@pytest.fixture
def size(config):
    """Numbers in the model, counted by hand."""
    return 2 * config.vocab_size * D + LAYERS * (LAYER + 2 * D) + D


def pairs(num: int, prompt: int = 20, answer: int = 12):
    """Two answers to each of `num` prompts."""
    mask = [False] * prompt + [True] * answer
    return collate([[Encoded([4 + i] * prompt + [j] * answer, mask, True) for j in (1, 2)] for i in range(num)])


def test_weights_gradients_and_optimiser_are_those_counted_by_hand(config, size):
    shadow = Shadow(config)
    assert shadow.num_parameters == shadow.num_trained == size
    assert 0 <= shadow.weights - 4 * size <= 64  # the frequencies of the positions
    assert optimiser_bytes(shadow) == 8 * size
    assert update_bytes(shadow, MACHINE) == 8 * size  # on a GPU, AdamW makes one number more of each
    batch = pairs(3)
    once, again = shadow.learn(batch), shadow.learn(batch, again=True)
    assert again.kept == pytest.approx(once.kept, rel=0.01)
    assert again.peak - again.kept - again.logits >= 4 * size


def test_operations_are_two_a_weight_and_token_and_three_times_that_with_the_way_back(config):
    shadow, batch = Shadow(config), pairs(3)
    tokens, scored = 3 * (20 + 2 * 12), 3 * 2 * 12
    products = 2 * (tokens * LAYERS * LAYER + (scored + 1) * D * config.vocab_size)  # one more: the vocabulary is asked
    read = shadow.read(batch).flops
    attention = read - products
    assert 0 < attention < 0.5 * products
    assert shadow.learn(batch).flops == pytest.approx(3 * products + 3.5 * attention, rel=0.02)


@pytest.mark.parametrize("rows", [3, 12])
def test_activations_are_what_a_real_pass_saves(rows, new_policy):
    policy, batch = new_policy(), pairs(rows)
    found, weights = {}, {p.untyped_storage().data_ptr() for p in policy.parameters()}

    def saved(tensor):
        place = tensor.untyped_storage()
        if place.data_ptr() not in weights:
            found[place.data_ptr()] = place.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor):
        outputs = policy.evaluate(batch)
    assert outputs.logps is not None
    layout = Layout.of(batch.tokens, batch.real, batch.mask)
    shapes = [
        layout.tokens,
        layout.positions,
        layout.index,
        layout.back,
        *chain(*(vars(b).values() for b in layout.buckets)),
    ]
    states = 4 * D * len(layout.tokens)
    held = states + sum(x.nbytes for x in shapes if isinstance(x, torch.Tensor))
    cost = Shadow(policy.module.config).learn(batch)
    assert cost.kept + cost.logits == pytest.approx(sum(found.values()) + held, rel=0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_deep_models_cost_what_running_every_layer_costs(checkpointing, new_module, monkeypatch):
    config, batch = new_module().config, pairs(6)
    config.num_hidden_layers = 12
    found = [(shadow := Shadow(config, checkpointing=checkpointing)).read(batch), shadow.learn(batch)]
    monkeypatch.setattr("clew.models.shadow.MORE", 12)
    wanted = [(shadow := Shadow(config, checkpointing=checkpointing)).read(batch), shadow.learn(batch)]
    assert [list(cost) for cost in found] == [pytest.approx(list(cost), rel=0.12) for cost in wanted]


def test_checkpointing_keeps_less_and_computes_more(config):
    batch = pairs(12)
    plain, again = (Shadow(config, checkpointing=flag).learn(batch) for flag in (False, True))
    assert again.kept < 0.5 * plain.kept
    assert plain.flops < again.flops < 1.5 * plain.flops


def test_only_adapters_have_gradients_and_an_optimiser(config, size):
    shadow = Shadow(config, lora=LoRA(rank=2, alpha=4))
    ends = 2 * D + 2 * D + 2 * (D + D // HEADS * KEY_HEADS) * 1  # q, o; k, v
    assert shadow.num_trained == LAYERS * 2 * (ends + 3 * (D + F))
    assert shadow.num_parameters == size + shadow.num_trained


def test_four_bits_hold_a_weight_in_a_little_more_than_half_a_byte(config):
    bf16, nf4 = (Shadow(config, lora=LoRA(weights=w), precision="bf16").weights for w in ("bf16", "nf4"))
    assert bf16 - nf4 == pytest.approx(LAYERS * LAYER * (2 - 0.516), rel=0.01)


def test_the_cache_has_a_place_for_every_prompt_and_every_answer(config):
    shadow = Shadow(config)
    places = 4 * 10 + 8 * 5  # two groups of four fill eight slots; prompts of twice as many stay
    wanted = 2 * LAYERS * KEY_HEADS * (D // HEADS) * 4 * places
    assert cache_bytes(shadow, slots=8, group=4, longest=10, max_tokens=5) == wanted


@pytest.fixture
def folder(tmp_path, new_module, tokenizer):
    new_module().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": "the soup was " * n, "chosen": "good .", "rejected": "very bad ."} for n in range(1, 9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def stage_of(name: str, folder, **options) -> Stage:
    values = {"out": str(folder / name), "model": str(folder / "model"), "data": {"path": str(folder / "pairs.jsonl")}}
    given = {key: value for key, value in (values | options).items() if value is not None}
    (folder / f"{name}.yaml").write_text(json.dumps(given))
    run, kind = recipe(name)
    return Stage(name, run, load(kind, folder / f"{name}.yaml"), {})


def test_the_phases_of_each_recipe(folder):
    phases = {}
    task = {
        "data": {"path": str(folder / "pairs.jsonl")},
        "reward": "math:sqrt",
        "optimiser": {"name": "crpg", "kl_max": 20},
    }
    for name, options in {
        "sft": {"batch": 4},
        "preference": {"batch": 4},
        "reward": {"batch": 4},
        "rl": {"prompts": 2, "group": 2, "max_tokens": 8, "advantages": "group_mean", "reward": "math:sqrt"},
        "online": {"prompts": 2, "max_tokens": 8, "reward": "math:sqrt"},
        "reject": {"prompts": 2, "max_tokens": 8, "reward": "math:sqrt"},
        "nash": {"prompts": 2, "max_tokens": 8, "preference": "math:sqrt"},
        "cgpo": {"data": None, "tasks": {"one": task | {"prompts": 2}, "two": task | {"prompts": 3}}, "max_tokens": 8},
        "ilql": {"reward": "math:sqrt", "batch": 4},
        "distill": {"context": "be kind . ", "batch": 4},
        "label": {"gold": "math:sqrt", "raters": [{"rater": "honest"}], "sampling": {"max_tokens": 8}},
    }.items():
        found = plan(stage_of(name, folder, **options), MACHINE)
        assert found is not None
        phases[name] = [phase.name for phase in found.phases]
    assert phases == {
        "sft": ["learning"],
        "preference": ["reference", "learning"],
        "reward": ["learning"],
        "rl": ["sampling", "scoring", "learning"],
        "online": ["sampling", "scoring", "learning"],
        "reject": ["sampling", "learning"],
        "nash": ["sampling", "scoring", "learning"],
        "cgpo": ["sampling", "scoring", "learning"],
        "ilql": ["learning"],
        "distill": ["teacher", "learning"],
        "label": ["sampling"],
    }


def test_a_reference_of_its_own_is_a_model_more(folder, size):
    own, other, asked_later, free = (
        plan(stage_of("preference", folder, batch=4, **options), MACHINE)
        for options in ({}, {"reference": str(folder / "model")}, {"loss": "kto"}, {"loss": "simpo"})
    )
    assert "reference" not in own.peak.parts
    assert other.peak.parts["reference"] == asked_later.peak.parts["reference"] == pytest.approx(4 * size, abs=64)
    assert [phase.name for phase in own.phases] == ["reference", "learning"]
    assert [phase.name for phase in free.phases] == ["learning"]


def test_q_heads_are_counted_by_hand(folder, config, size):
    alone, found = (plan(stage_of(*named, batch=4), MACHINE) for named in (("sft", folder), ("ilql", folder)))
    head, value = D * 32 + 32 + 33 * config.vocab_size, D * 32 + 32 + 32 + 1  # a hidden layer of twice the width
    assert found.peak.parts["weights"] - alone.peak.parts["weights"] == 4 * (4 * head + value)
    assert found.peak.parts["optimiser"] == 8 * (size + 2 * head + value)  # the targets do not learn
    judged = plan(stage_of("ilql", folder, reward={"model": str(folder / "model")}), MACHINE)
    assert [phase.name for phase in judged.phases] == ["scoring", "learning"]
    assert judged.peak.parts["rewards"] == pytest.approx(4 * size, abs=64) and judged.seconds["once"] > 0


def test_a_teacher_is_a_model_more_but_where_it_is_the_student_without_its_adapter(folder, size):
    own, shared, said = (
        plan(stage_of("distill", folder, context="be kind . ", batch=4, **options), MACHINE)
        for options in ({}, {"lora": {"rank": 2}}, {"texts": "teacher", "lora": {"rank": 2}, "max_tokens": 4})
    )
    assert own.peak.parts["teacher"] == said.peak.parts["teacher"] == pytest.approx(4 * size, abs=64)
    assert "teacher" not in shared.peak.parts
    assert [phase.name for phase in said.phases] == ["sampling", "teacher", "learning"]
    assert set(said.seconds) == {"sampling", "teacher", "learning"}


def test_comparing_distributions_holds_a_few_rows_of_the_vocabulary_for_each_token(config):
    batch = pairs(12)
    scored, one = 12 * 2 * 12, 4 * config.vocab_size
    plain, beside = Shadow(config).learn(batch), Shadow(config, divergence=forward_kl).learn(batch)
    assert 2 * scored * one <= beside.logits - plain.logits <= 8 * scored * one
    assert beside.flops > plain.flops  # the teacher's head, and the pieces once more on the way back


def test_large_tensors_come_on_top_of_what_a_cpus_heap_keeps(config, monkeypatch):
    shadow, batch = Shadow(config), pairs(12)
    cost = shadow.learn(batch)
    assert cost.held == cost.peak  # all are small here
    monkeypatch.setattr("clew.models.shadow.MAPPED", 1 << 12)
    found = Shadow(config).learn(batch)
    assert found.peak == cost.peak and found.held > cost.peak


def test_a_shared_prompt_is_counted_once(config):
    shared = pairs(6, prompt=40)
    mixed = collate([[Encoded([9 + i, *[4] * 39, *[5] * 12], [False] * 40 + [True] * 12, True)] for i in range(12)])
    shadow = Shadow(config)
    assert shadow.read(shared).kept < 0.75 * shadow.read(mixed).kept
    assert shadow.read(shared).flops < 0.85 * shadow.read(mixed).flops


def run_plan(*arguments: str):
    return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "200"})


def test_what_fits_is_said_with_its_numbers(folder):
    stage_of("sft", folder, batch=4)
    result = run_plan(str(folder / "sft.yaml"), "--recipe", "sft", "--gpu", "h200")
    assert result.exit_code == 0
    assert "h200: 141.0 GB of memory" in result.output and "data sheet" in result.output
    assert "fits" in result.output and "2 steps" in result.output


def test_a_recipe_that_is_not_known_is_named_and_not_passed_over(folder, monkeypatch):
    stage_of("distill", folder, context="be kind . ")
    monkeypatch.delitem(PLANNERS, Distill)
    result = run_plan(str(folder / "distill.yaml"), "--recipe", "distill", "--gpu", "h200")
    assert result.exit_code == 0 and "distill: not predicted" in result.output


def test_what_does_not_fit_says_what_would(folder, monkeypatch):
    stage = stage_of("sft", folder, batch=8, learner={"max_tokens": 256}, lora={"rank": 2})
    found = plan(stage, MACHINE)
    monkeypatch.setitem(GPUS, "toy", (found.peak.total * 0.9 / 1e9, 1, 1, 1, "a toy"))
    result = run_plan(str(folder / "sft.yaml"), "--recipe", "sft", "--gpu", "toy")
    assert result.exit_code == 1
    assert "does not fit" in result.output
    for option in ("learner.max_tokens=", "learner.gradient_checkpointing=true"):
        assert option in result.output


def test_every_alternative_is_a_configuration_that_can_be_written(folder):
    stage = stage_of("sft", folder, batch=4, learner={"lr": 1e-3})
    for text, changed in (pair for group in alternatives(stage) for pair in group):
        written = load(type(stage.config), folder / "sft.yaml", text.split())
        assert written.model_dump() == changed.config.model_dump(), text


def test_models_and_rows_to_come_have_the_shape_of_what_they_come_from(folder):
    stages = {
        "base": {"recipe": "pretrain", "data": {"path": "text.txt"}, "model": {"width": 16, "layers": 1, "heads": 2}},
        "sft": {"recipe": "sft", "model": "@base/model", "data": {"path": "@base/rows.jsonl"}, "batch": 2},
        "judge": {"recipe": "reward", "model": "@sft/model", "data": {"path": "@base/rows.jsonl"}, "batch": 2},
        "rl": {
            "recipe": "rl", "model": "@sft/model", "data": {"path": "@base/rows.jsonl"}, "max_tokens": 8, "prompts": 2,
            "reward": {"model": "@judge/model"}, "critic": {"model": "@judge/model"},
        },
    }  # fmt: skip
    common = {"encoding": {"max_length": 32}}
    (folder / "all.yaml").write_text(json.dumps({"out": str(folder / "runs"), "common": common, "stages": stages}))
    result = run_plan(str(folder / "all.yaml"), "--gpu", "4090", "--json")
    assert result.exit_code == 0, result.output
    found = {stage["name"]: stage for stage in json.loads(result.output)["stages"]}
    weights = {name: stage["parts"]["weights"] for name, stage in found.items()}
    assert weights["base"] == weights["sft"] == weights["rl"] > weights["judge"] * 0.5
    parts = found["rl"]["phases"]["learning"]
    assert parts["critic"] == parts["rewards"] == weights["judge"]
    assert any("32 tokens each" in line for line in found["sft"]["about"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"out": "x"}, "--recipe sft"),
        ({"out": "x", "stages": {"sft": {"recipe": "sft", "model": "./gone", "data": {"path": "a.txt"}}}}, "./gone"),
    ],
)
def test_a_file_that_cannot_be_planned_says_why(content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(json.dumps(content))
    result = run_plan("c.yaml", "--gpu", "h100")
    assert isinstance(result.exception, (ConfigError, OSError)) and says in str(result.exception)


def test_unknown_gpus_are_told_which_there_are():
    with pytest.raises(ConfigError, match="no GPU 'h300' here .*h200"):
        gpu("h300")
