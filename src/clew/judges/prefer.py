"""Preferences: the probability that one answer beats another, from a model that reads both, or from a function."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Self, cast

import torch
from pydantic import BeforeValidator, Field, model_validator

from clew.batch import evaluate
from clew.config import Config, ConfigError, Function, ModelName, import_function
from clew.data.collate import collate
from clew.data.pairs import one_after_another
from clew.judges.score import TIMEOUT_S, function_reward
from clew.models.device import Device
from clew.models.load import load_comparing
from clew.models.policy import Policy
from clew.models.reward import ScalarModel, separator
from clew.types import Reward, Rollout

Preference = Callable[[Sequence[Rollout], Sequence[Rollout]], list[float | None]]
"""P(a beats b) of every rollout a and the b in the same place, answers to the same prompt; None where it abstains."""
AGAINST = "opponents"
"""The argument by which a function is given the second answers."""


def as_source(value: Any) -> Any:
    """A text is `module:function`, or else a folder."""
    if isinstance(value, str):
        return {"function": value} if ":" in value else {"model": value}
    return value


class PreferenceSource(Config):
    """Who says which of two answers is better: a model's folder, or a function."""

    model: ModelName | None = None
    """Folder of a preference model (`clew reward`, `reads: pairs`); of a reward model, sigma of the difference of raw
    scores."""
    function: Function | None = None
    """`module:function` with its options, called as f(prompts, completions, opponents, **columns) -> list of
    P(completion beats opponent), each in [0, 1] or None."""
    both_orders: bool = False
    """Ask the function a second time with the answers the other way round and average: a judge that favours a place
    then favours none."""
    timeout_s: float | None = Field(default=TIMEOUT_S, gt=0)
    """For one call of the function; null waits for ever, and calls it in the main thread."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.model is None) == (self.function is None):
            raise ValueError(f"a preference is either a model or a function; got {self!r}")
        if self.both_orders and self.function is None:
            raise ValueError("both_orders: true is for functions; a model's preference turns with the order anyway")
        return self


AnyPreference = Annotated[PreferenceSource, BeforeValidator(as_source)]


def make_preference(source: PreferenceSource, policy: Policy, *, max_tokens: int = 16384) -> Preference:
    """Raises ConfigError or ValueError for a source that cannot judge this policy's tokens."""
    if source.model is not None:
        model = load_comparing(source.model, policy, device=cast(Device, policy.device.type))
        return partial(preferred_by_model if model.reads_pairs else preferred_by_score, model, max_tokens=max_tokens)
    assert source.function is not None
    function = import_function(source.function.name)
    if AGAINST not in inspect.signature(function).parameters:
        raise ConfigError(
            f"preference {source.function.name} has no argument {AGAINST!r}; expected "
            f"f(prompts, completions, {AGAINST}, **columns) -> list of P(completion beats opponent)"
        )
    asked = function_reward(function, source.timeout_s, **source.function.options)
    once = partial(preferred_by_function, asked, source.function.name)
    return partial(in_both_orders, once) if source.both_orders else once


def preferred_by_model(
    model: ScalarModel, a: Sequence[Rollout], b: Sequence[Rollout], *, max_tokens: int
) -> list[float | None]:
    """sigma(f(b, a) - f(a, b)), f the score of a row's second answer: P + P^T = 1, and a = b gives 1/2."""
    stop = separator(model.tokenizer)
    pairs = zip(a, b, strict=True)
    rows = [[one_after_another(y, x, stop=stop), one_after_another(x, y, stop=stop)] for x, y in pairs]
    scores = evaluate(model, collate(rows), max_tokens=max_tokens).scores
    assert scores is not None
    first, second = scores.view(-1, 2).unbind(1)
    return torch.sigmoid((first - second).double()).tolist()


def preferred_by_score(
    model: ScalarModel, a: Sequence[Rollout], b: Sequence[Rollout], *, max_tokens: int
) -> list[float | None]:
    """A reward model's, Bradley-Terry: sigma of the difference of raw scores."""
    scores = evaluate(model, collate([[row] for row in (*a, *b)]), max_tokens=max_tokens).scores
    assert scores is not None
    first, second = scores.view(2, -1)
    return torch.sigmoid((first - second).double()).tolist()


def preferred_by_function(asked: Reward, name: str, a: Sequence[Rollout], b: Sequence[Rollout]) -> list[float | None]:
    """Raises ValueError for what is no probability."""
    both = [replace(x, info={**x.info, AGAINST: y.text}) for x, y in zip(a, b, strict=True)]
    values = [score.value for score in asked(both)]
    for value, x, y in zip(values, a, b, strict=True):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(
                f"preference {name} returned {value} for prompt {x.prompt_id}, completion {x.text!r:.60}, opponent "
                f"{y.text!r:.60}; expected a probability in [0, 1], or None to abstain"
            )
    return values


def in_both_orders(preference: Preference, a: Sequence[Rollout], b: Sequence[Rollout]) -> list[float | None]:
    """The mean of P(a beats b) and 1 - P(b beats a); it abstains where either does."""
    there, back = preference(a, b), preference(b, a)
    return [None if p is None or q is None else (p + 1 - q) / 2 for p, q in zip(there, back, strict=True)]
