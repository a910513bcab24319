import pytest

from clew.config import Choice, Config, ConfigError, apply_overrides, build, load, option


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
