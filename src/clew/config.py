"""YAML and command line to typed configuration. Unknown keys fail with the nearest valid name."""

import difflib
import importlib
import importlib.util
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from clew.track import TRACKERS


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, what was found and what was expected."""


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused, attribute docstrings as help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _options_of_defaults(cls, values: Any) -> Any:
        """`loss.beta=0.2` alone is an option of the loss that the configuration has anyway."""
        if not isinstance(values, dict):
            return values
        defaults = {n: f.default for n, f in cls.model_fields.items() if isinstance(f.default, Choice)}
        alone = {n: v for n, v in values.items() if n in defaults and isinstance(v, dict) and "name" not in v}
        return {**values, **{n: {"name": defaults[n].name, **defaults[n].options, **v} for n, v in alone.items()}}


@dataclass(frozen=True)
class Inputs:
    """As the context of validation: what a configuration names must be there, unless an earlier stage will write it."""

    coming: tuple[Path, ...] = ()
    """Folders of those stages."""


def must_be_there(info: ValidationInfo, path: str | None = None) -> bool:
    """Whether inputs are being checked, and this one is no earlier stage's to write."""
    if not isinstance(info.context, Inputs):
        return False
    return path is None or not any(Path(path).resolve().is_relative_to(f.resolve()) for f in info.context.coming)


class Choice(BaseModel):
    """A function by name with its options: `dpo`, or `{name: dpo, beta: 0.2}`, or `my_module:my_loss`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_imported(self, info: ValidationInfo) -> Self:
        if ":" in self.name and must_be_there(info):
            import_function(self.name)
        return self

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def bind(self, table: Mapping[str, Callable[..., Any]]) -> "partial[Any]":
        """The function with its options, checked against its keyword-only parameters. Raises ConfigError."""
        function = import_function(self.name) if ":" in self.name else table.get(self.name)
        if function is None:
            raise ConfigError(f"no {self.name!r} here{_nearest(self.name, list(table))}")
        allowed = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for option in self.options:
            if option not in allowed:
                raise ConfigError(f"{self.name} has no option {option!r}{_nearest(option, allowed)}")
        if ":" not in self.name:
            _check_ranges(self.name, self.options)
        return partial(function, **self.options)


def bound_to(table: Mapping[str, Callable[..., Any]]) -> AfterValidator:
    """In a type, `Annotated[Choice, bound_to(LOSSES)]`: its name and options are checked with the configuration."""

    def check(choice: Choice, info: ValidationInfo) -> Choice:
        if ":" not in choice.name or must_be_there(info):
            choice.bind(table)
        return choice

    return AfterValidator(check)


def _names_a_place(choice: Choice) -> Choice:
    if ":" not in choice.name:
        raise ConfigError(f"{choice.name!r} names no function; expected importable_module:name, or folder/file.py:name")
    return choice


Function = Annotated[Choice, AfterValidator(_names_a_place)]
"""A user's own function; there is no table of others."""


def _holds_model(name: str, info: ValidationInfo) -> str:
    """A folder of a model or of adapters. What can only be a hub name is not looked up."""
    folder = Path(name)
    is_path = len(folder.parts) > 2 or (len(folder.parts) == 2 and Path(folder.parts[0]).is_dir())
    if not must_be_there(info, name) or not (folder.exists() or is_path or name.startswith((".", "/", "~"))):
        return name
    if not folder.exists():
        raise ConfigError(f"{name}: no such folder in {Path.cwd()}; expected a model's folder, or a hub name")
    if not any((folder / file).exists() for file in MODEL_FILES):
        meant = f"; did you mean {folder / 'model'}?" if (folder / "model").is_dir() else ""
        raise ConfigError(f"{name} holds no model: there is neither {' nor '.join(MODEL_FILES)}{meant}")
    return name


def _holds_run(name: str, info: ValidationInfo) -> str:
    return name if (Path(name) / "model").is_dir() else _holds_model(name, info)


MODEL_FILES = ("config.json", "adapter_config.json")
ModelName = Annotated[str, AfterValidator(_holds_model)]
"""Folder or hub name of a model."""
RunName = Annotated[str, AfterValidator(_holds_run)]
"""A run's folder with its `model`, or what a `ModelName` is."""


class Training(Config):
    """What every training recipe has."""

    out: str
    """The run directory."""
    seed: int = 0
    save_every: int = Field(default=100, ge=1)
    """Steps between checkpoints; the last step always has one."""
    keep: int | None = Field(default=2, ge=1)
    """Newest checkpoints to keep; null keeps all."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the forward pass; weights, losses and optimiser stay float32."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: a CUDA GPU where there is one, else the CPU."""
    trackers: tuple[Annotated[Choice, bound_to(TRACKERS)], ...] = ()
    """Where metrics go besides the console and metrics.jsonl: tensorboard, wandb, trackio, or `module:function`."""


def cache_folder(asked: str | None) -> Path | None:
    """Of what later runs may find again: the folder asked for, the user's own for `auto`, none for None."""
    if asked != "auto":
        return None if asked is None else Path(asked).expanduser()
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clew"
    return Path(os.environ.get("CLEW_CACHE") or own)


def option(bound: "partial[Any]", name: str, default: float) -> float:
    """The value an option of a bound function has: as chosen, by the function's default, or `default`."""
    parameter = inspect.signature(bound.func).parameters.get(name)
    return bound.keywords.get(name, default if parameter is None else parameter.default)


def import_function(path: str) -> Callable[..., Any]:
    """`package.module:name` or `folder/file.py:name` -> the object. Raises ConfigError when there is none."""
    module, _, name = path.rpartition(":")
    try:
        return getattr(_from_file(module) if module.endswith(".py") else importlib.import_module(module), name)
    except (ImportError, AttributeError, NameError, SyntaxError, ValueError, OSError) as error:
        raise ConfigError(
            f"cannot import {path!r}: {error}; expected importable_module:name, or folder/file.py:name"
        ) from error


def _from_file(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


C = TypeVar("C", bound=Config)


def load(kind: type[C], file: Path, overrides: Sequence[str] = ()) -> C:
    """A YAML file with dotted overrides (`learner.lr=1e-5`) as a configuration. Raises ConfigError."""
    return build(kind, apply_overrides(read_yaml(file), overrides), str(file))


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping. Raises ConfigError when the file is missing, broken or no mapping."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Yaml)
    except FileNotFoundError as error:
        raise ConfigError(f"{file} does not exist") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected keys with values; got {type(content).__name__}")
    return content


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set `a.b.c=value`, the value read as YAML, in a copy of the mapping. Raises ConfigError."""
    result = _unshared(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} sets nothing; expected key=value, as in learner.lr=1e-5")
        *parents, last = path.split(".")
        at: dict[str, Any] = result
        for name in parents:
            inner = at.get(name)
            if inner is None:
                inner = at[name] = {}
            elif isinstance(inner, str):  # a Choice by name alone
                inner = at[name] = {"name": inner}
            if not isinstance(inner, dict):
                raise ConfigError(f"{override!r}: {name!r} is {inner!r:.40}, which has no keys")
            at = inner
        try:
            at[last] = yaml.load(text, Loader=_Yaml)
        except yaml.YAMLError:
            at[last] = text  # no YAML, so the text as it is: @stage/file, a template
    return result


def _unshared(value: Any) -> Any:
    """A copy in which nothing is shared, as YAML's anchors share."""
    if isinstance(value, dict):
        return {k: _unshared(v) for k, v in value.items()}
    return [_unshared(v) for v in value] if isinstance(value, list) else value


class _Yaml(yaml.SafeLoader):
    """YAML with the numbers of YAML 1.2: 1e-5 is one, where YAML 1.1 reads text."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def build(kind: type[C], values: Mapping[str, Any], where: str, inputs: Inputs | None = None) -> C:
    """Validate; on failure raise ConfigError with one line for each wrong key. `inputs` must be there, if given."""
    try:
        return kind.model_validate(values, context=inputs)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, e, where) for e in error.errors())) from error


def check_inputs(config: Config, where: str, coming: Sequence[Path] = ()) -> None:
    """Rows, models and functions that the configuration names are there, or will come into these folders.

    Files are opened and their first row is read; functions are imported; models are only looked for. Raises
    ConfigError with one line for each that is not.
    """
    build(type(config), config.model_dump(), where, Inputs(tuple(coming)))


def _explain(kind: type[BaseModel], error: ErrorDetails, where: str) -> str:
    path = [str(part) for part in error["loc"]]
    place = f"{where}: {'.'.join(path)}" if path else where
    if error["type"] == "value_error":  # its own words say what was found
        return f"{place}: {error['msg'].removeprefix('Value error, ')}"
    if error["type"] != "extra_forbidden":
        got = "" if error["type"] == "missing" else f"; got {error['input']!r:.80}"
        return f"{place}: {_in_yaml(error['msg'])}{got}{_meaning(kind, path, error['type'])}"
    allowed = list(_fields_at(kind, path[:-1]))
    owner = ".".join(path[:-1]) or kind.__name__.lower()
    return f"{where}: {owner} has no option {path[-1]!r}{_nearest(path[-1], allowed)}"


def _in_yaml(message: str) -> str:
    """pydantic's words for Python's types, as YAML has them."""
    return re.sub(r"a valid dictionary( or .*)?$", "keys with values", message.replace("a valid tuple", "a list"))


def _meaning(kind: type[BaseModel], path: list[str], error: str) -> str:
    """What the option is, where something of another type was given."""
    field = _fields_at(kind, path[:-1]).get(path[-1]) if path and error.endswith("_type") else None
    return f" ({field.description})" if field and field.description else ""


def _fields_at(kind: type[BaseModel], path: list[str]) -> dict[str, FieldInfo]:
    """Fields of the model that `path` leads to."""
    for name in path:
        field = kind.model_fields.get(name)
        if field is None:  # a place in a list, or a name in a mapping
            continue
        annotation = field.annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        models = [a for a in inner if issubclass(a, BaseModel)]
        if not models:
            return {}
        kind = models[0]
    return kind.model_fields


def _nearest(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} (options: {', '.join(allowed) or 'none'})"


def _check_ranges(name: str, options: Mapping[str, Any]) -> None:
    for option in options.keys() & RANGES.keys():
        try:
            TypeAdapter(RANGES[option]).validate_python(options[option])
        except ValidationError as error:
            raise ConfigError(f"{name}.{option}: {error.errors()[0]['msg']}; got {options[option]!r}") from error


_ABOVE_0, _FROM_0 = Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)]
_SHARE, _BELOW_HALF = Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, lt=0.5)]
RANGES: dict[str, Any] = {
    "beta": _ABOVE_0, "tau": _ABOVE_0, "delta": _ABOVE_0, "clip": _ABOVE_0, "low": _FROM_0, "high": _FROM_0,
    "dual": Annotated[float | None, Field(gt=1)], "lam": _FROM_0, "gamma": _SHARE, "noise": _SHARE,
    "label_smoothing": _BELOW_HALF, "flip_rate": _BELOW_HALF, "desirable_weight": _FROM_0,
    "undesirable_weight": _FROM_0, "carelessness": _SHARE, "malice": _SHARE, "sharpness": _FROM_0,
    "threshold": Annotated[float, Field(gt=0, lt=1)], "kl_max": _ABOVE_0,
    "num": Annotated[int, Field(ge=1)], "share": Annotated[float, Field(gt=0, le=1)],
}  # fmt: skip
"""What options of clew's own functions can be: beyond it they train backwards, or divide by zero."""
