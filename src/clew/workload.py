"""What a stage will meet, before it runs: models by their shape, and the rows of its steps.

Models and rows may not be there yet: a model has the shape of that which it will come from, and rows that an earlier
stage has yet to write are taken to be as long as they may.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from clew.batch import Batch
from clew.config import ConfigError
from clew.data.chat import Codec, Encoded
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, step_indices
from clew.learn.learner import Optimiser
from clew.models.adapter import LoRA, base_of, has_head, is_adapter
from clew.models.fresh import llama
from clew.models.shadow import Shadow
from clew.pipeline import Stage
from clew.recipes.preference import Preference
from clew.recipes.pretrain import Pretrain
from clew.recipes.reward import RewardConfig

SAMPLE = 512
"""Rows that are encoded to learn their lengths."""
STEPS = 200
"""Steps among which the busiest is looked for."""

Read = Callable[[Codec, Source], list[list[Encoded]]]
"""A source's rows as the items that a step takes."""


class Workload:
    """Of one stage, after `earlier` ones. `about` says what had to be assumed."""

    def __init__(self, stage: Stage, earlier: Sequence[Stage]) -> None:
        self.stage, self.earlier = stage, earlier
        self.config = cast(Any, stage.config)
        self.about: list[str] = []

    def origin(self, path: str) -> tuple[Stage, str] | None:
        """The earlier stage that will write this model, where none is there yet."""
        if Path(path).exists():
            return None
        found = (s for s in self.earlier if Path(path).resolve().is_relative_to(s.folder.resolve()))
        return next(((s, path) for s in found), None)

    def shape(self, path: str, *, scalar: bool | None = None) -> tuple[PretrainedConfig, bool]:
        """Configuration of a model, or of that which it will come from, and whether it has a scalar head."""
        coming = self.origin(path)
        if coming is None:
            return _configuration(path), _has_scalar_head(path) if scalar is None else scalar
        config = cast(Any, coming[0].config)
        is_reward = isinstance(config, RewardConfig)
        if isinstance(config, Pretrain):
            return llama(config.model, config.tokenizer.size), bool(scalar)
        return self.shape(config.model, scalar=is_reward if scalar is None else scalar)[0], (
            is_reward if scalar is None else scalar
        )

    def shadow(self, path: str, *, scalar: bool | None = None, lora: LoRA | None = None,
               optimiser: Optimiser | None = None, precision: str | None = None, **ending: Any) -> Shadow:  # fmt: skip
        """`optimiser` says that it learns, `ending` what else than the next token: `heads` or `divergence`."""
        config, is_scalar = self.shape(path, scalar=scalar)
        if is_scalar:
            config.num_labels = 1
            config.pad_token_id = config.get_text_config().pad_token_id = 0
        checkpointing = optimiser is not None and optimiser.gradient_checkpointing
        return Shadow(config, scalar=is_scalar, lora=lora, precision=cast(Any, precision or self.config.precision),
                      checkpointing=checkpointing, **ending)  # fmt: skip

    def codec(self, path: str) -> Codec | None:
        """None where the tokenizer is still to be learnt."""
        coming = self.origin(path)
        if coming is not None:
            return None if isinstance(coming[0].config, Pretrain) else self.codec(cast(Any, coming[0].config).model)
        own = (Path(path) / "tokenizer_config.json").exists()
        return Codec(AutoTokenizer.from_pretrained(path if own else base_of(path)), self.config.encoding)

    def assume(self, said: str) -> None:
        """Once, however many parts of a stage assume it."""
        if said not in self.about:
            self.about.append(said)

    def rows(self, path: str, read: Read, source: Source | None = None) -> "Rows":
        """A sample of the items that a step takes, encoded; of the greatest length where they cannot be read yet."""
        source = source or cast(Source, self.config.data)
        codec = self.codec(path)
        coming = not Path(source.path).exists() and any(
            Path(source.path).resolve().is_relative_to(s.folder.resolve()) for s in self.earlier
        )
        if coming or codec is None:
            length = self.config.encoding.max_length
            self.assume(f"rows are not there yet: {length} tokens each, the most that encoding.max_length allows")
            row = Encoded([0] * length, [i >= length // 2 for i in range(length)], True)
            return Rows([[row] * (2 if isinstance(self.config, (Preference, RewardConfig)) else 1)], None)
        examples = len(load_examples(source))
        items = read(codec, source.model_copy(update={"limit": min(examples, SAMPLE)}))
        if examples > SAMPLE:
            self.assume(f"lengths from {SAMPLE:,} of {examples:,} rows")
        return Rows(items, round(len(items) * max(1.0, examples / SAMPLE)))


class Rows(NamedTuple):
    items: list[list[Encoded]]
    total: int | None
    """Items in all; None where that is not known yet."""

    def busiest(self, size: int, steps: int, seed: int, max_tokens: int) -> "Busiest":
        """Of the steps of a run, the one with most tokens, and its largest micro-batch."""
        lengths = [sum(len(row.tokens) for row in rows) for rows in self.items]
        picked = [step_indices(len(lengths), size, seed=seed, step=s) for s in range(min(steps, STEPS))]
        sums = [sum(lengths[i] for i in step) for step in picked]
        most = picked[max(range(len(sums)), key=sums.__getitem__)]
        micros = list(collate([self.items[i] for i in most]).split(max_tokens))
        micro = max(micros, key=lambda m: int(m.real.sum()))
        return Busiest(micro, len(micros) > 1, sum(sums) / len(sums) / int(micro.real.sum()))


class Busiest(NamedTuple):
    batch: Batch
    again: bool
    """There are others in its step."""
    times: float
    """Tokens of a mean step, in its own."""


def _configuration(path: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(base_of(path))
    except (OSError, ValueError) as error:
        says = str(error).splitlines()[0]
        raise ConfigError(f"{path}: no model whose configuration could be read: {says}") from error


def _has_scalar_head(path: str) -> bool:
    if is_adapter(path) and has_head(path):
        return True
    return any(name.endswith("ForSequenceClassification") for name in _configuration(path).architectures or [])
