"""YAML and command line to typed configuration. Unknown keys fail with the nearest valid name."""

import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says which key, what was found and what was expected."""


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused, attribute docstrings as help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Choice(BaseModel):
    """A function by name with its options: `dpo`, or `{name: dpo, beta: 0.2}`, or `my_module:my_loss`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

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
        return partial(function, **self.options)


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
    trackers: tuple[Choice, ...] = ()
    """Where metrics go besides the console and metrics.jsonl: tensorboard, wandb, trackio, or `module:function`."""


def option(bound: "partial[Any]", name: str, default: float) -> float:
    """The value an option of a bound function has: as chosen, by the function's default, or `default`."""
    parameter = inspect.signature(bound.func).parameters.get(name)
    return bound.keywords.get(name, default if parameter is None else parameter.default)


def import_function(path: str) -> Callable[..., Any]:
    """`package.module:name` or `folder/file.py:name` -> the object. Raises ConfigError when there is none."""
    module, _, name = path.rpartition(":")
    try:
        return getattr(_from_file(module) if module.endswith(".py") else importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, OSError) as error:
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


def build(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """Validate; on failure raise ConfigError with one line for each wrong key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(kind, e, where) for e in error.errors())) from error


def _explain(kind: type[BaseModel], error: ErrorDetails, where: str) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        got = "" if error["type"] == "missing" else f"; got {error['input']!r:.80}"
        return f"{where}: {'.'.join(path)}: {error['msg']}{got}"
    allowed = _fields_at(kind, path[:-1])
    owner = ".".join(path[:-1]) or kind.__name__.lower()
    return f"{where}: {owner} has no option {path[-1]!r}{_nearest(path[-1], allowed)}"


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Field names of the model that `path` leads to."""
    for name in path:
        field = kind.model_fields.get(name)
        annotation = field.annotation if field else None
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        models = [a for a in inner if issubclass(a, BaseModel)]
        if not models:
            return []
        kind = models[0]
    return list(kind.model_fields)


def _nearest(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} (options: {', '.join(allowed) or 'none'})"
