"""Rewards: scores from reward models and from functions, and what they come to together."""

import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from clew.batch import evaluate
from clew.config import Choice, Config, Function, ModelName, bound_to, import_function
from clew.data.collate import collate
from clew.failure import Failure
from clew.judges.ahead import GroupWise
from clew.judges.call import Hangs, call_within
from clew.judges.combine import COMBINATIONS, Combined, Member
from clew.models.device import Device
from clew.models.load import load_judge
from clew.models.policy import Policy
from clew.models.reward import ScalarModel
from clew.types import Reward, Rollout, Score

RewardFunction = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]
TIMEOUT_S = 1800.0
Per = Literal["batch", "group"]


def check_threads(per: Per, timeout_s: float | None) -> None:
    """Raises ValueError for groups to be asked in threads and in the main thread."""
    if per == "group" and timeout_s is None:
        raise ValueError("per: group calls in threads, and timeout_s: null in the main thread; set a timeout_s")


def as_sources(value: Any) -> Any:
    """Several sources from one or several; each may be a text: `module:function`, or else a reward model's folder."""
    if isinstance(value, (str, Mapping, RewardSource)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return value
    return [({"function": v} if ":" in v else {"model": v}) if isinstance(v, str) else v for v in value]


class RewardSource(Config):
    """One summand of the reward: a reward model's folder, a function, or several of these in combination."""

    model: ModelName | None = None
    """Folder of a reward model; its score is (raw - centre) / scale, as it was saved."""
    function: Function | None = None
    """`module:function` with its options, called as f(prompts, completions, **columns) -> list of float or None."""
    of: Annotated[tuple["RewardSource", ...], BeforeValidator(as_sources)] = ()
    """Rewards that `combine` makes one of."""
    combine: Annotated[Choice, bound_to(COMBINATIONS)] = Choice(name="total")
    """total, mean, worst, minus_variance, minus_deviation, safety_first (helpfulness, then safety; Llama 2), whiten."""
    name: str | None = None
    """In metrics; when absent the function's, or model."""
    weight: float = 1.0
    clip: float | None = Field(default=None, gt=0)
    """Bound on the absolute value, before the weight."""
    is_probability: bool = False
    """Its values lie in [0, 1], and their log-odds count."""
    only: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Asked about prompts alone whose columns have these values, as in {task: chat}: a reward for each task."""
    timeout_s: float | None = Field(default=TIMEOUT_S, gt=0)
    """For one call of the function, in a thread of its own; null waits for ever, and calls it in the main thread."""
    per: Per = "batch"
    """batch: the function is called once, with all completions of a step. group: once a prompt, as soon as its
    completions are there, while others are being sampled: for functions that wait, and compare nothing across
    prompts."""
    at_once: int = Field(default=8, ge=1)
    """Calls under way at the same time, per: group; the function must bear them, in different threads."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.model is not None) + (self.function is not None) + bool(self.of) != 1:
            raise ValueError(f"a reward is either a model or a function, or a combination `of` others; got {self!r}")
        if self.per == "group" and self.function is None:
            raise ValueError(
                "per: group is for functions; a reward model reads all completions together, which is quicker"
            )
        check_threads(self.per, self.timeout_s)
        return self

    @model_validator(mode="after")
    def _can_be_combined(self) -> Self:
        how, num = self.combine.name, len(self.of)
        if not self.of and how != "total":
            raise ValueError(f"combine: {how} has nothing to combine; name the rewards in `of`")
        if how == "safety_first" and num != 2:
            raise ValueError(f"safety_first combines two rewards, helpfulness and then safety; got {num}")
        if how != "total" and any(source.only for source in self.of):
            raise ValueError(f"combine: {how} needs all its rewards for every prompt; set `only` beside `combine`")
        return self


Sources = Annotated[tuple[RewardSource, ...], BeforeValidator(as_sources)]


def leaves(sources: Sequence[RewardSource]) -> Iterator[RewardSource]:
    """The models and functions in all combinations."""
    for source in sources:
        yield from leaves(source.of) if source.of else (source,)


def make_reward(sources: Sequence[RewardSource], policy: Policy, *, max_tokens: int = 16384) -> Reward:
    """The weighted sum of sources; it abstains where any of them does. `Score.parts` holds each before its weight.

    Raises ConfigError or ValueError for a source that cannot judge this policy's tokens.
    """
    return Combined(_members(sources, policy, max_tokens))


def _members(sources: Sequence[RewardSource], policy: Policy, max_tokens: int) -> list[Member]:
    found: dict[str, Member] = {}
    for i, source in enumerate(sources):
        name = _name(source, i)
        name = f"{name} {i}" if name in found else name
        found[name] = Member(
            name,
            _make_one(source, policy, max_tokens),
            weight=source.weight,
            clip=source.clip,
            is_probability=source.is_probability,
            only=source.only,
        )
    return list(found.values())


def _make_one(source: RewardSource, policy: Policy, max_tokens: int) -> Reward:
    if source.of:
        return Combined(_members(source.of, policy, max_tokens), source.combine.bind(COMBINATIONS))
    if source.model is not None:
        judge = load_judge(source.model, policy, device=cast(Device, policy.device.type))
        return partial(score_with_model, judge, max_tokens=max_tokens)
    assert source.function is not None
    return chosen_reward(source.function, source.timeout_s, per=source.per, at_once=source.at_once)


def _name(source: RewardSource, i: int) -> str:
    if source.name is not None:
        return source.name
    if source.of:
        return source.combine.name.rpartition(":")[2]
    if source.function is not None:
        return source.function.name.rpartition(":")[2]
    return "model" if i == 0 else f"model {i}"


def score_with_model(model: ScalarModel, rollouts: Sequence[Rollout], *, max_tokens: int) -> list[Score]:
    """A reward model's scores, centred and scaled as it was saved: tokens in, no text in between."""
    batch = collate([[rollout] for rollout in rollouts])
    scores = evaluate(model, batch, max_tokens=max_tokens).scores
    assert scores is not None
    return [Score((s - model.centre) / model.scale) for s in scores.tolist()]


def chosen_reward(choice: Choice, timeout_s: float | None, *, per: Per = "batch", at_once: int = 1) -> Reward:
    """`module:function` with its options. Raises ConfigError when there is none."""
    reward = function_reward(import_function(choice.name), timeout_s, **choice.options)
    return GroupWise(reward, at_once) if per == "group" else reward


def function_reward(function: RewardFunction, timeout_s: float | None = TIMEOUT_S, /, **options: Any) -> Reward:
    """A function, plain or async, as a Reward: prompts and completions as lists of text, columns as keyword lists.

    The reward raises ValueError when the function returns other than one finite number or None each, RewardFailed
    when the function raises or quits, Hangs when it does not return in time.
    """
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    wanted = {p.name for p in parameters}
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    name = getattr(function, "__name__", repr(function))

    def reward(rollouts: Sequence[Rollout]) -> list[Score]:
        there = {key for r in rollouts for key in r.info}
        columns = there if takes_any else there & wanted
        missing = [key for key in needed[2:] if key not in columns and key not in options]
        if missing:
            raise ValueError(f"reward {name} needs the column {missing[0]!r}; the data's columns: {sorted(there)}")
        texts = [r.prompt for r in rollouts], [r.text for r in rollouts]
        extra = {key: [r.info.get(key) for r in rollouts] for key in sorted(columns)}
        asked = f"reward {name}, asked about {len(rollouts)} completions of {_prompts(rollouts)},"
        try:
            values = call_within(timeout_s, partial(function, *texts, **extra, **options), asked)
        except Hangs:
            raise
        except (Exception, SystemExit) as error:
            raise _failed(name, len(rollouts), error) from error
        if not isinstance(values, Collection) or len(values) != len(rollouts):
            got = f"{len(values)} values" if isinstance(values, Collection) else repr(values)
            raise ValueError(f"reward {name} returned {got} for {len(rollouts)} completions; expected one each")
        return [_checked(value, name, rollout) for value, rollout in zip(values, rollouts, strict=True)]

    return reward


class RewardFailed(Failure, RuntimeError):
    """A reward function raised; the evidence is where."""


def _failed(name: str, num: int, error: BaseException) -> RewardFailed:
    place = traceback.extract_tb(error.__traceback__)[-1]
    hint = "; set timeout_s: null to call it in the main thread" if "main thread" in str(error) else ""
    says = (
        f"reward {name} raised {type(error).__name__} for {num} completions: {error} ({place.filename}:{place.lineno})"
    )
    return RewardFailed(says + hint, {"reward_error.txt": "".join(traceback.format_exception(error))})


def _prompts(rollouts: Sequence[Rollout]) -> str:
    """The first prompts, short enough to be read."""
    shown = [repr(text[:60]) for text in dict.fromkeys(r.prompt for r in rollouts)]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} other prompts" if len(shown) > 3 else "")


def _checked(value: float | None, name: str, rollout: Rollout) -> Score:
    if value is None:
        return Score(None)
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(
            f"reward {name} returned {value!r} for prompt {rollout.prompt_id}, completion {rollout.text!r:.80}; "
            "expected a finite number, or None to abstain"
        )
    return Score(float(value))
