"""What to change where a stage does not fit: options that need less memory."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from clew.config import Config
from clew.models.adapter import LoRA
from clew.pipeline import Stage

Change = tuple[str, dict[str, Any]]
"""An option as it is written, and its values."""


def alternatives(stage: Stage) -> list[list[tuple[str, Stage]]]:
    """Options that need less memory, and the stage with each: by kind, ever less; at last, all that go together."""
    groups = _changes(cast(Any, stage.config))
    together = [group[-1] for group in groups]
    whole = " ".join(text for text, _ in together), _merged([values for _, values in together])
    return [
        [(text, stage._replace(config=_changed(stage.config, values))) for text, values in group]
        for group in [*groups, *([[whole]] if len(together) > 1 else [])]
    ]


def _changes(config: Any) -> list[list[Change]]:
    fields = type(config).model_fields
    groups: list[list[Change]] = []
    if "learner" in fields:
        budgets = [config.learner.max_tokens // n for n in (2, 4, 8)]
        groups.append([(f"learner.max_tokens={tokens}", {"learner": {"max_tokens": tokens}}) for tokens in budgets])
        if not config.learner.gradient_checkpointing:
            values = {"learner": {"gradient_checkpointing": True}}
            groups.append([("learner.gradient_checkpointing=true", values)])
    if "slots" in fields:
        groups.append(
            [(f"slots={config.slots // n}", {"slots": config.slots // n}) for n in (2, 4) if n <= config.slots]
        )
    if "lora" in fields and config.lora is None:
        adapters: list[Change] = [("lora.rank=16", {"lora": LoRA()})]
        for weights in ("bf16", "nf4"):
            values = {"lora": LoRA(weights=weights), "precision": "bf16"}
            adapters.append((f"lora.weights={weights} precision=bf16", values))
        groups.append(adapters)
    return groups


def _merged(changes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for values in changes:
        for name, value in values.items():
            merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return merged


def _changed(config: Config, changes: Mapping[str, Any]) -> Config:
    nested = {k: getattr(config, k).model_copy(update=v) if isinstance(v, dict) else v for k, v in changes.items()}
    return config.model_copy(update=nested)
