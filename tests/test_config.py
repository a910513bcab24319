import pytest

from clew.config import Choice, Config, ConfigError, apply_overrides, build, load, option
from clew.listing import options
from clew.pipeline import RECIPES, recipe


class Inner(Config):
    rate: float = 0.1


class Outer(Config):
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None
    loss: Choice = Choice(name="dpo")


def f(x, *, beta=0.1, gamma=1.0):
    return x * beta


TABLE = {"f": f}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"nam": "x"}, "outer has no option 'nam'; did you mean 'name'? (options: name, inner, maybe, loss)"),
        ({"name": "x", "inner": {"rat": 1}}, "inner has no option 'rat'; did you mean 'rate'? (options: rate)"),
        ({"name": "x", "maybe": {"rat": 1}}, "maybe has no option 'rat'; did you mean 'rate'"),
        ({"name": "x", "inner": {"rate": "fast"}}, "inner.rate: Input should be a valid number"),
        ({}, "name: Field required"),
    ],
)
def test_wrong_keys_are_told_with_the_right_ones(values, says):
    with pytest.raises(ConfigError) as error:
        build(Outer, values, "file.yaml")
    assert says in str(error.value)
    assert "file.yaml" in str(error.value)


def test_yaml_with_overrides(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("name: a\nloss: dpo\n")
    config = load(Outer, file, ["inner.rate=1e-5", "loss.beta=0.3", "maybe.rate=2", "name=b"])
    assert config.inner.rate == 1e-5
    assert (config.loss.name, config.loss.options) == ("dpo", {"beta": 0.3})
    assert (config.maybe.rate, config.name) == (2.0, "b")


@pytest.mark.parametrize(
    ("content", "says"), [("- 1\n", "expected keys with values"), ("a: [", "is not YAML"), (None, "does not exist")]
)
def test_broken_files(tmp_path, content, says):
    file = tmp_path / "c.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=says):
        load(Outer, file)


def test_overrides_that_set_nothing():
    with pytest.raises(ConfigError, match="expected key=value"):
        apply_overrides({}, ["learner.lr"])
    with pytest.raises(ConfigError, match="which has no keys"):
        apply_overrides({"a": 3}, ["a.b=1"])


def test_overrides_do_not_leak_through_yaml_aliases():
    shared = {"x": 1}
    assert apply_overrides({"a": shared, "b": shared}, ["a.x=2"]) == {"a": {"x": 2}, "b": {"x": 1}}


def test_choices_bind_their_options():
    assert Choice(name="f").bind(TABLE)(10) == 1.0
    bound = Choice.model_validate({"name": "f", "beta": 0.5}).bind(TABLE)
    assert bound(10) == 5.0
    assert (option(bound, "beta", 0), option(bound, "gamma", 0), option(bound, "nothing", 7.0)) == (0.5, 1.0, 7.0)
    with pytest.raises(ConfigError, match="f has no option 'bta'; did you mean 'beta'"):
        Choice.model_validate({"name": "f", "bta": 1}).bind(TABLE)
    with pytest.raises(ConfigError, match="no 'g' here"):
        Choice(name="g").bind(TABLE)


def test_options_alone_are_those_of_the_default_function():
    assert build(Outer, {"name": "x", "loss": {"beta": 0.3}}, "").loss == Choice.model_validate(
        {"name": "dpo", "beta": 0.3}
    )


def test_a_users_own_function_by_import_path():
    assert Choice.model_validate({"name": f"{__name__}:f", "beta": 2.0}).bind({})(3) == 6.0
    with pytest.raises(ConfigError, match="cannot import 'nowhere:f'"):
        Choice(name="nowhere:f").bind({})


def test_numbers_are_those_people_write(tmp_path):
    (tmp_path / "c.yaml").write_text("name: x\nloss: {name: f, beta: 1e-1}\ninner: {rate: 2.5E+3}\n")
    config = load(Outer, tmp_path / "c.yaml", ["loss.gamma=1e2"])
    assert config.loss.options == {"beta": 0.1, "gamma": 100.0}
    assert config.inner.rate == 2500.0
    assert apply_overrides({}, ["loss={name: f, beta: 1e-2}"]) == {"loss": {"name": "f", "beta": 0.01}}


def test_an_override_fills_what_is_null_and_may_be_plain_text():
    assert apply_overrides({"a": None}, ["a.b=1"]) == {"a": {"b": 1}}
    assert apply_overrides({}, ["a=@one/x.jsonl", "b=Q: {q} A: b: c"]) == {"a": "@one/x.jsonl", "b": "Q: {q} A: b: c"}


SHORTEST = {
    "sft": {"model": "m", "data": {"path": "d"}},
    "reward": {"model": "m", "data": {"path": "d"}},
    "preference": {"model": "m", "data": {"path": "d"}},
    "pretrain": {"data": {"path": "d"}},
    "rl": {"model": "m", "data": {"path": "d"}, "reward": [{"model": "r"}], "advantages": "batch_mean"},
    "label": {"model": "m", "data": {"path": "d"}, "raters": [{"rater": "honest"}], "gold": "a:b"},
    "evaluate": {"baseline": "m", "policies": {"a": "b"}, "data": {"path": "d"}, "proxy": "p"},
}


def configured(name, *overrides):
    return build(recipe(name)[1], apply_overrides({"out": "o", **SHORTEST[name]}, overrides), "file.yaml")


@pytest.mark.parametrize(
    ("name", "override", "says"),
    [
        ("preference", "loss.beta=-1", "loss: dpo.beta: Input should be greater than 0; got -1"),
        ("preference", "loss={name: ipo, tau: 0}", "loss: ipo.tau: Input should be greater than 0; got 0"),
        ("preference", "loss={name: robust_dpo, flip_rate: 0.5}", "loss: robust_dpo.flip_rate: Input should be less than 0.5"),
        ("preference", "loss.beta=high", "loss: dpo.beta: Input should be a valid number"),
        ("preference", "loss.bta=1", "loss: dpo has no option 'bta'; did you mean 'beta'"),
        ("preference", "loss=dpoo", "loss: no 'dpoo' here; did you mean 'dpo'"),
        ("reward", "loss={name: mixed_uniform, noise: 2}", "loss: mixed_uniform.noise: Input should be less than or equal to 1"),
        ("rl", "loss.low=-0.1", "loss: clipped.low: Input should be greater than or equal to 0"),
        ("rl", "loss.dual=0.5", "loss: clipped.dual: Input should be greater than 1"),
        ("label", "raters=[{rater: honestt}]", "raters.0.rater: no 'honestt' here; did you mean 'honest'"),
        ("sft", "trackers=[tensorbord]", "trackers.0: no 'tensorbord' here; did you mean 'tensorboard'"),
        ("evaluate", "gold=tidy", "gold: 'tidy' names no function; expected importable_module:name"),
        ("label", "gold=tidy", "gold: 'tidy' names no function"),
        ("rl", "reward=[{function: tidy}]", "reward.0.function: 'tidy' names no function"),
        ("rl", "reward=[{weight: 2.0}]", "reward.0: a reward is either a model or a function"),
        ("sft", "epochs=0", "epochs: Input should be greater than 0; got 0"),
        ("preference", "epochs=-1", "epochs: Input should be greater than 0; got -1"),
        ("sft", "steps=0", "steps: Input should be greater than or equal to 1"),
        ("sft", "batch=0", "batch: Input should be greater than or equal to 1"),
        ("reward", "batch=0", "batch: Input should be greater than or equal to 1"),
        ("preference", "batch=0", "batch: Input should be greater than or equal to 1"),
        ("pretrain", "batch=0", "batch: Input should be greater than or equal to 1"),
        ("label", "batch=0", "batch: Input should be greater than or equal to 1"),
        ("rl", "prompts=0", "prompts: Input should be greater than or equal to 1"),
        ("rl", "steps=0", "steps: Input should be greater than or equal to 1"),
        ("rl", "reward=[]", "reward: Tuple should have at least 1 item"),
        ("rl", "kl.coefficient=-1", "kl.coefficient: Input should be greater than or equal to 0"),
        ("sft", "learner.max_tokens=0", "learner.max_tokens: Input should be greater than or equal to 1"),
        ("sft", "learner.lr=-1", "learner.lr: Input should be greater than 0"),
        ("sft", "lora.rank=0", "lora.rank: Input should be greater than or equal to 1"),
        ("sft", "data.limit=0", "data.limit: Input should be greater than or equal to 1"),
        ("sft", "encoding.max_length=0", "encoding.max_length: Input should be greater than or equal to 1"),
        ("evaluate", "slots=0", "slots: Input should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_the_key_and_the_bound(name, override, says):
    configured(name)
    with pytest.raises(ConfigError) as error:
        configured(name, override)
    assert f"file.yaml: {says}" in str(error.value)


@pytest.mark.parametrize("advantages", ["group_mean", "group_normalised", "leave_one_out"])
def test_a_group_of_one_has_nothing_to_compare(advantages):
    assert configured("rl", f"advantages={advantages}", "group=2").group == 2
    with pytest.raises(ConfigError, match=rf"^file.yaml: advantages: {advantages} compares .* \(group: 1\).*set group"):
        configured("rl", f"advantages={advantages}")


def test_what_is_asked_for_is_said_where_something_else_was_given():
    with pytest.raises(ConfigError, match=r"data: Input should be keys with values; got 'd.jsonl' \(Prompts with"):
        configured("sft", "data=d.jsonl")
    with pytest.raises(ConfigError, match=r"reward: Input should be a list; got 3 \(A list of summands: \[{function: "):
        configured("rl", "reward=3")
    assert configured("rl", "reward=rewards.py:tidy").reward[0].function.name == "rewards.py:tidy"


def test_held_out_rows_without_a_path_are_the_other_side_of_the_data():
    config = configured("preference", "data={path: p, columns: {prompt: q}, part: train, heldout: 0.2}", "heldout={}")
    held = config.heldout
    assert (held.path, held.columns, held.part, held.heldout) == ("p", {"prompt": "q"}, "heldout", 0.2)
    assert configured("sft", "heldout.path=q").heldout.part == "all"
    with pytest.raises(ConfigError, match="set data.part: train"):
        configured("preference", "heldout={part: heldout}")


def keys(values: dict, prefix: str = "") -> list[str]:
    """Dotted keys of what is set; of options of functions and of names only the first."""
    found = []
    for key, value in values.items():
        found.append(prefix + key)
        if isinstance(value, dict) and "name" not in value and key not in ("policies", "columns"):
            found += keys(value, f"{prefix}{key}.")
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_the_options_that_are_listed_are_those_there_are(name):
    listed = {option.name: option for option in options(recipe(name)[1])}
    assert listed["out"].default == "(needed)"
    assert all(option.kind for option in listed.values())
    if name in SHORTEST:
        assert set(keys(configured(name).model_dump())) <= {name.replace("[]", "") for name in listed}


def test_defaults_are_listed_as_a_recipe_has_them():
    listed = {option.name: option for option in options(recipe("sft")[1])}
    assert (listed["learner.lr"].default, listed["learner.warmup"].default) == ("0.0001", "0.03")
    assert listed["batch"] == ("batch", "whole number", "32", listed["batch"].about)
    assert listed["batch"].about.endswith("(>= 1)")
    assert listed["heldout"].kind == "options | null"
    assert listed["encoding.truncation"].kind == "error | drop | truncate_prompt_left | truncate_completion"
    assert listed["data.path"].default == "(needed)"
    assert {o.name for o in options(recipe("rl")[1])} >= {"reward[].clip", "critic.learner.lr", "ptx.data.path"}
