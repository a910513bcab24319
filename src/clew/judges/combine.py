"""Several rewards as one: a sum, an ensemble's worst case or cautious mean, safety before helpfulness, whitened.

A combination is called as f(values, rollouts, **options): values [M, B], those of each member in a row, as they were
clipped and weighed. It gives one number a rollout, [B]. Reward models are only comparable on one scale: they are saved
with their own centre and scale, and what is not may be whitened first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clew.judges.ahead import Asked, ahead
from clew.types import Reward, Rollout, Score

Values = NDArray[np.float64]
Combine = Callable[[Values, Sequence[Rollout]], Values]


def total(values: Values, rollouts: Sequence[Rollout]) -> Values:
    """The weighted sum."""
    return values.sum(0)


def mean(values: Values, rollouts: Sequence[Rollout]) -> Values:
    """The mean of an ensemble."""
    return values.mean(0)


def worst(values: Values, rollouts: Sequence[Rollout]) -> Values:
    """Worst-case optimisation (Coste et al., arXiv 2310.02743): the lowest of an ensemble.

    The members must be on one scale, or it is the one with the lowest offset that is always taken.
    """
    return values.min(0)


def minus_variance(values: Values, rollouts: Sequence[Rollout], *, lam: float = 0.1) -> Values:
    """Uncertainty-weighted optimisation (arXiv 2310.02743): mean - lam * variance within the ensemble, divided by M."""
    return values.mean(0) - lam * values.var(0)


def minus_deviation(values: Values, rollouts: Sequence[Rollout], *, lam: float = 1.0) -> Values:
    """A lower confidence bound, mean - lam * standard deviation: as `minus_variance`, in the reward's own unit."""
    return values.mean(0) - lam * values.std(0)


def safety_first(
    values: Values, rollouts: Sequence[Rollout], *, threshold: float = 0.15, risky: str | None = None
) -> Values:
    """Llama 2's combination (arXiv 2307.09288, sec. 3.2.3) of two members, helpfulness and safety.

    The score of safety where its sigmoid is below `threshold`, or where the data's column `risky` is true; else that
    of helpfulness. Scores are log-odds, as reward models give them: the paper's logit of a sigmoid is the score again.
    """
    helpful, safe = values
    tagged = np.array([risky is not None and bool(_column(r, risky)) for r in rollouts], dtype=bool)
    return np.where(tagged | (safe < log(threshold / (1 - threshold))), safe, helpful)


def whiten(values: Values, rollouts: Sequence[Rollout], *, eps: float = 1e-8) -> Values:
    """The sum with mean 0 and variance 1 over all rollouts that are asked about together.

    For learning alone: what is measured in different calls, as in `evaluate`, cannot be compared any more.
    """
    summed = values.sum(0)
    return (summed - summed.mean()) / (summed.std() + eps)


def _column(rollout: Rollout, name: str) -> Any:
    if name not in rollout.info:
        raise ValueError(
            f"prompt {rollout.prompt_id} has no column {name!r} (its columns: {sorted(rollout.info)}); "
            "add it to the data, or choose another"
        )
    return rollout.info[name]


@dataclass(frozen=True)
class Member:
    """A reward among others, and what of it counts."""

    name: str
    reward: Reward
    weight: float = 1.0
    clip: float | None = None
    is_probability: bool = False
    """Its log-odds count."""
    only: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Columns of the data: asked about prompts with these values alone."""

    def asks(self, rollout: Rollout) -> bool:
        return not self.only or all(_column(rollout, name) in _several(wanted) for name, wanted in self.only.items())

    def bounded(self, value: float, rollout: Rollout) -> float:
        if self.is_probability:
            if not 0 <= value <= 1:
                raise ValueError(
                    f"reward {self.name} gave {value} for prompt {rollout.prompt_id}; with is_probability it must lie "
                    "in [0, 1]"
                )
            sure = min(max(value, 1e-6), 1 - 1e-6)
            value = log(sure / (1 - sure))
        return value if self.clip is None else max(-self.clip, min(self.clip, value))


def _several(wanted: Any) -> Sequence[Any]:
    return wanted if isinstance(wanted, (list, tuple)) else [wanted]


class Combined:
    """Members as one reward, which abstains where one that is asked does.

    `Score.parts` holds each member's value, clipped and before its weight, and its own parts behind its name.
    """

    def __init__(self, members: Sequence[Member], combine: Combine = total) -> None:
        self._members = members
        self._combine = combine

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return self._scores([member.reward for member in self._members], rollouts)

    @contextmanager
    def ahead(self) -> Iterator[Asked]:
        with ExitStack() as stack:
            asked = [stack.enter_context(ahead(member.reward)) for member in self._members]
            early = [(m, a.finished) for m, a in zip(self._members, asked, strict=True) if a.finished is not None]

            def finished(place: int, rollouts: Sequence[Rollout]) -> None:
                for member, tell in early:
                    if member.asks(rollouts[0]):
                        tell(place, rollouts)

            ask = [one.scores for one in asked]
            yield Asked(lambda rollouts: self._scores(ask, rollouts), finished if early else None)

    def _scores(self, ask: Sequence[Reward], rollouts: Sequence[Rollout]) -> list[Score]:
        values, known = np.zeros((len(self._members), len(rollouts))), np.ones(len(rollouts), dtype=bool)
        parts: list[dict[str, float]] = [{} for _ in rollouts]
        for row, member, of in zip(values, self._members, ask, strict=True):
            places = [b for b, rollout in enumerate(rollouts) if member.asks(rollout)]
            scores = of([rollouts[b] for b in places]) if places else []
            for b, score in zip(places, scores, strict=True):
                parts[b] |= {f"{member.name}/{name}": value for name, value in score.parts.items()}
                if score.value is None:
                    known[b] = False
                else:
                    parts[b][member.name] = member.bounded(score.value, rollouts[b])
                    row[b] = member.weight * parts[b][member.name]
        self._check(rollouts)
        some = [rollout for rollout, is_known in zip(rollouts, known, strict=True) if is_known]
        found = iter(self._combine(values[:, known], some).tolist() if some else [])
        return [Score(next(found) if k else None, p) for k, p in zip(known, parts, strict=True)]

    def _check(self, rollouts: Sequence[Rollout]) -> None:
        if not all(member.only for member in self._members):
            return
        for rollout in rollouts:
            if not any(member.asks(rollout) for member in self._members):
                wanted = ", ".join(str(dict(member.only)) for member in self._members)
                found = {name: rollout.info.get(name) for member in self._members for name in member.only}
                raise ValueError(
                    f"no reward is asked about prompt {rollout.prompt_id}, whose columns are {found}; the rewards are "
                    f"for {wanted}. Add one for it, or one without `only`"
                )


COMBINATIONS = {f.__name__: f for f in (total, mean, worst, minus_variance, minus_deviation, safety_first, whiten)}
"""Of `reward`, by name."""
