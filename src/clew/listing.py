"""Every option of a recipe as a table: name, type, default and meaning, from its configuration."""

import json
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from clew.config import Choice, Config


class Option(NamedTuple):
    """Example: `Option("learner.lr", "number", "1e-05", "(> 0)")`"""

    name: str
    """Dotted, as an override names it; `reward[].clip` is that of each in a list."""
    kind: str
    default: str
    about: str


def table(kind: type[Config]) -> str:
    """One line an option."""
    rows = [Option("option", "type", "default", "meaning"), *options(kind)]
    widths = [min(max(len(row[i]) for row in rows), WIDEST) for i in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row[:3], widths), row.about]).rstrip() for row in rows)


def options(kind: type[Config], given: Config | None = None, prefix: str = "") -> Iterator[Option]:
    """Options of a configuration and of those inside it. Defaults are those of `given`, where there is one."""
    values = dict(given or {})
    for name, field in kind.model_fields.items():
        inner, words = _inner(field.annotation), _words(field.annotation)
        default = values[name] if given else field.get_default(call_default_factory=True)
        shown = "(needed)" if field.is_required() and not given else _in_yaml(default)
        yield Option(prefix + name, words, shown, _about(field, inner))
        if inner is not None and inner is not kind:
            below = default if isinstance(default, inner) else None
            yield from options(inner, below, f"{prefix}{name}{'[]' * words.startswith('list')}.")


def _about(field: FieldInfo, inner: type[Config] | None) -> str:
    about = field.description or (inner and inner.__doc__) or ""
    return " ".join([*about.split(), *_bounds(field)])


def _bounds(field: FieldInfo) -> Iterator[str]:
    for bound in field.metadata:
        match bound:
            case Gt(gt=value):
                yield f"(> {value})"
            case Ge(ge=value):
                yield f"(>= {value})"
            case Lt(lt=value):
                yield f"(< {value})"
            case Le(le=value):
                yield f"(<= {value})"


def _inner(annotation: Any) -> type[Config] | None:
    """The configuration in a type: itself, or null, or several of it."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next((found for each in get_args(annotation) if (found := _inner(each)) is not None), None)


def _words(annotation: Any) -> str:
    """A type as somebody who writes YAML would call it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(_in_yaml, parts))
    if origin in (Union, types.UnionType):
        return " | ".join(_words(part) for part in parts)
    if origin is tuple:
        return f"list of {_words(parts[0])}"
    if origin in (dict, Mapping):
        return f"names: {_words(parts[1])}"
    if origin is not None:  # Annotated
        return _words(parts[0])
    return "options" if _inner(annotation) else WORDS[annotation]


def _in_yaml(default: Any) -> str:
    if isinstance(default, Config):
        return ""
    if isinstance(default, Choice):
        default = {"name": default.name, **default.options} if default.options else default.name
    return default if isinstance(default, str) else json.dumps(default)


WIDEST = 40
WORDS = {
    str: "text", int: "whole number", float: "number", bool: "true | false", types.NoneType: "null", Any: "anything",
    Choice: "name, or {name, its options}",
}  # fmt: skip
"""`Choice` is a function by name."""
