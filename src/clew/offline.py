"""Answers that lie there, each with its reward: rated by people, or scored once by any reward."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from clew.config import ConfigError
from clew.data.chat import Codec, Encoded, Item
from clew.data.example import Example
from clew.engines.local import text_after
from clew.types import Rollout, Score

Scored = tuple[Rollout, Score]


def as_rollouts(codec: Codec, items: Sequence[Item]) -> list[Rollout]:
    """Every answer as if it had been sampled, those of a prompt one after another, with its label among `info`."""
    order: dict[str, list[Rollout]] = {}
    for example, rows in items:
        order.setdefault(example.id, []).extend(_rollout(codec, example, row) for row in rows)
    return [rollout for rollouts in order.values() for rollout in rollouts]


def rated(codec: Codec, rollouts: Sequence[Rollout], path: str) -> list[Score]:
    """What the data say of each answer: its rating or thumb, or the labels of its steps, each where the step ends.

    Raises ConfigError for an answer of which they say nothing.
    """
    found: list[Score] = []
    for rollout in rollouts:
        label, steps = rollout.info.get(LABEL), rollout.info.get("step_labels")
        if label is None and steps is None:
            raise ConfigError(
                f"{path}: an answer has neither `label` nor `rating` (prompt {rollout.prompt!r:.60}, answer "
                f"{rollout.text!r:.60}); rate them, or name a `reward` that scores them, such as a reward model"
            )
        at = () if steps is None else tuple(_at_steps(codec, rollout, rollout.info["steps"], steps))
        found.append(Score(float(label or 0.0), at=at))
    return found


def known(scored: Sequence[Scored], path: str) -> list[Scored]:
    """Without those of which the reward abstained. Raises ConfigError when none is left."""
    kept = [pair for pair in scored if pair[1].value is not None]
    if not kept:
        raise ConfigError(
            f"the reward abstained on every one of {len(scored)} answers in {path}; nothing to learn from"
        )
    return kept


def spread_of(scored: Sequence[Scored], path: str) -> tuple[float, float]:
    """Mean and standard deviation of the answers' rewards. Raises ConfigError where all are alike."""
    totals = [total(score) for _, score in scored]
    mean, std = float(np.mean(totals)), float(np.std(totals))
    if std <= 1e-12 * max(1.0, abs(mean)):
        raise ConfigError(
            f"{path}: all {len(scored)} answers have the reward {mean:g}, so that none is better than another; give "
            "answers whose rewards differ"
        )
    return mean, std


def whitened(scored: Sequence[Scored], mean: float, std: float) -> list[Scored]:
    """Rewards of mean 0 and spread 1 an answer: the mean is taken off where an answer ends."""

    def moved(score: Score) -> Score:
        assert score.value is not None
        return replace(score, value=(score.value - mean) / std, at=[(place, r / std) for place, r in score.at])

    return [(rollout, moved(score)) for rollout, score in scored]


def total(score: Score) -> float:
    """The outcome with all process rewards."""
    assert score.value is not None
    return score.value + sum(reward for _, reward in score.at)


def _rollout(codec: Codec, example: Example, row: Encoded) -> Rollout:
    first = row.mask.index(True)
    prompt, answer = row.tokens[:first], row.tokens[first:]
    text = example.prompt if isinstance(example.prompt, str) else codec.template.prompt(example)
    return Rollout(
        prompt_id=example.id,
        tokens=row.tokens,
        mask=row.mask,
        logps=[0.0] * len(row.tokens),
        stop="end" if row.complete else "length",
        version=0,
        prompt=text,
        text=text_after(prompt, answer, codec.tokenizer),
        info=example.info if example.label is None else {**example.info, LABEL: example.label},
    )


def _at_steps(
    codec: Codec, rollout: Rollout, steps: Sequence[str], labels: Sequence[float]
) -> Iterator[tuple[int, float]]:
    """The place of the token that ends each labelled step, with its label. White space, which decoders change, is not
    counted."""
    first = list(rollout.mask).index(True)
    prompt, answer = list(rollout.tokens[:first]), list(rollout.tokens[first:])

    def num_written(num: int) -> int:
        return _size(text_after(prompt, answer[:num], codec.tokenizer))

    for end, label in zip(accumulate(map(_size, steps)), labels, strict=False):  # labels may end at the first mistake
        place = bisect_left(range(1, len(answer)), end, key=num_written)
        yield first + place, float(label)


def _size(text: str) -> int:
    return len("".join(text.split()))


LABEL = "label"
