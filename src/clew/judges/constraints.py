"""Constraint judges: what an answer must satisfy, whatever its reward. Built-in rules, or a function of one's own.

A judge is called as f(prompts, completions, **columns) and gives True or False, or None to abstain, for each: a rule,
or a model that is asked (it may be an `async def`).
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from clew.config import Choice, Config, must_be_there
from clew.judges.combine import Combined, Member, Values
from clew.judges.score import TIMEOUT_S, Per, check_threads, chosen_reward
from clew.types import Reward, Rollout, Score

JUDGE = "judge/"
"""What a judge's part of a score is called by begins with this."""


def length(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    least: int = 0,
    most: int | None = None,
    unit: Literal["words", "characters"] = "words",
) -> list[bool]:
    """At least, and at most, so many words between white space, or characters."""
    if not isinstance(least, int) or not isinstance(most, int | None):
        raise ValueError(f"length: least and most are whole numbers; got {least!r} and {most!r}")
    if unit not in ("words", "characters"):
        raise ValueError(f"length counts words or characters; got unit {unit!r}")
    if most is not None and most < least:
        raise ValueError(f"length: at least {least} and at most {most} can never be; swap them")
    found = [len(c.split() if unit == "words" else c.strip()) for c in completions]
    return [num >= least and (most is None or num <= most) for num in found]


def forbidden(prompts: Sequence[str], completions: Sequence[str], *, words: Sequence[str] = ()) -> list[bool]:
    """None of the words, in whatever case; parts of longer words do not count."""
    if isinstance(words, str) or not words:
        raise ValueError(f"forbidden needs words: [one, another]; got {words!r}")
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    return [pattern.search(c) is None for c in completions]


def required(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    text: str | None = None,
    column: str | None = None,
    **columns: Sequence[Any],
) -> list[bool]:
    """A text, in whatever case: the same for all, or that in a column of the data."""
    if (text is None) == (column is None):
        raise ValueError(f"required needs a text, or a column of the data; got text {text!r} and column {column!r}")
    if completions and column is not None and column not in columns:
        raise ValueError(f"required: the data has no column {column!r}; its columns: {sorted(columns)}")
    wanted = [text] * len(completions) if column is None else columns.get(column, ())
    return [str(w).casefold() in c.casefold() for w, c in zip(wanted, completions, strict=True)]


RULES = {f.__name__: f for f in (length, forbidden, required)}


def _known_rule(choice: Choice, info: ValidationInfo) -> Choice:
    """Options of a built-in rule are tried on no answers at all."""
    if ":" not in choice.name:
        choice.bind(RULES)([], [])
    elif must_be_there(info):
        chosen_reward(choice, None)
    return choice


class Judge(Config):
    """A constraint on answers."""

    rule: Annotated[Choice, AfterValidator(_known_rule)]
    """length (least, most, unit), forbidden (words), required (text or column), or `module:function` with its options,
    called as f(prompts, completions, **columns) -> list of bool or None."""
    name: str | None = None
    """In metrics; when absent the rule's."""
    timeout_s: float | None = Field(default=TIMEOUT_S, gt=0)
    """For one call, as of a reward function."""
    per: Per = "batch"
    """group: asked once a prompt, while others are being sampled."""
    at_once: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        check_threads(self.per, self.timeout_s)
        return self


def as_judges(value: Any) -> Any:
    """A judge may be written as its rule alone."""
    judges = value if isinstance(value, (list, tuple)) else [value]
    return [{"rule": j} if isinstance(j, str) or (isinstance(j, dict) and "rule" not in j) else j for j in judges]


Judges = Annotated[tuple[Judge, ...], BeforeValidator(as_judges)]


def judged_reward(reward: Reward, judges: Sequence[Judge]) -> Reward:
    """The reward as it is, with what each judge says in `Score.parts`; it abstains where the reward or a judge does.

    The reward raises ValueError where a judge says other than yes, no or None.
    """
    names: list[str] = []
    for judge in judges:
        name = judge.name or judge.rule.name.rpartition(":")[2]
        names.append(f"{name} {len(names)}" if name in names else name)
    asked = [Member(JUDGE + name, _asked(judge)) for name, judge in zip(names, judges, strict=True)]

    def the_reward(values: Values, rollouts: Sequence[Rollout]) -> Values:
        for name, said in zip(names, values[1:].tolist(), strict=True):
            for value, rollout in zip(said, rollouts, strict=True):
                if value not in (0, 1):
                    raise ValueError(
                        f"judge {name} said {value} of prompt {rollout.prompt_id}, completion {rollout.text!r:.80}; "
                        "expected True, False or None (what has degrees is a reward)"
                    )
        return values[0]

    return Combined([Member("reward", reward), *asked], the_reward)


def _asked(judge: Judge) -> Reward:
    rule = judge.rule
    if ":" not in rule.name:
        rule = Choice.model_validate({"name": f"{__name__}:{rule.name}", **rule.options})
    return chosen_reward(rule, judge.timeout_s, per=judge.per, at_once=judge.at_once)


def satisfied(score: Score) -> bool:
    """Whether every judge passes the answer."""
    return all(value == 1 for name, value in score.parts.items() if name.startswith(JUDGE))
