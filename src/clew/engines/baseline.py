"""Answers beside the baseline that they are measured against: that of the data, or one that a frozen model wrote."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from clew.data.chat import Encoded
from clew.engines.local import Tokenizer, text_after
from clew.types import Engine, Finished, Key, Prompt, Rollout, Sampling

Baseline = Callable[[Sequence[Prompt], Sampling], list[Rollout]]
"""One rollout for each prompt; the same whenever it is asked for."""
FIXED = -1
"""The step whose noise a baseline is drawn with: no step of a run."""


class WithBaseline:
    """An engine whose groups end with the baseline of their prompt: n + 1 rollouts each.

    Example: `WithBaseline(engine, one_sample(LocalEngine(reference), seed))`
    """

    def __init__(self, engine: Engine, baseline: Baseline) -> None:
        self._engine = engine
        self._baseline = baseline
        self.version = 0

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, key: Key, finished: Finished | None = None
    ) -> list[Rollout]:
        last = self._baseline(prompts, sampling)

        def told(place: int, rollouts: Sequence[Rollout]) -> None:
            if finished is not None:
                finished(place, [*rollouts, last[place]])

        self._engine.version = self.version
        ours = self._engine.generate(
            prompts, n=n, sampling=sampling, key=key, finished=None if finished is None else told
        )
        return [r for place, b in enumerate(last) for r in (*ours[n * place : n * (place + 1)], b)]


def one_sample(engine: Engine, seed: int) -> Baseline:
    """Of a model that never learns: the noise is a function of seed and prompt alone, so the sample stays the same."""

    def baseline(prompts: Sequence[Prompt], sampling: Sampling) -> list[Rollout]:
        once = list({prompt.id: prompt for prompt in prompts}.values())
        found = {r.prompt_id: r for r in engine.generate(once, n=1, sampling=sampling, key=(seed, FIXED))}
        return [replace(found[prompt.id], info=prompt.info) for prompt in prompts]

    return baseline


def from_data(rows: Mapping[str, Encoded], tokenizer: Tokenizer) -> Baseline:
    """The data's answers, by their prompts' ids."""

    def baseline(prompts: Sequence[Prompt], sampling: Sampling) -> list[Rollout]:
        return [_as_rollout(prompt, rows[prompt.id], tokenizer) for prompt in prompts]

    return baseline


def _as_rollout(prompt: Prompt, row: Encoded, tokenizer: Tokenizer) -> Rollout:
    first = row.mask.index(True)
    return Rollout(
        prompt_id=prompt.id,
        tokens=row.tokens,
        mask=row.mask,
        logps=[0.0] * len(row.tokens),
        stop="end" if row.complete else "length",
        version=FIXED,
        prompt=prompt.text,
        text=text_after(row.tokens[:first], row.tokens[first:], tokenizer),
        info=prompt.info,
    )
