"""What recipes that improve a model have in common: where they start, and which of their checkpoints is the result."""

from pathlib import Path
from typing import Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from clew.config import ModelName, Training
from clew.data.sources import Source
from clew.models.adapter import LoRA
from clew.models.load import load_policy, load_scalar
from clew.models.policy import Policy
from clew.models.reward import ScalarModel
from clew.runs import Run


class FineTuning(Training):
    """Of a model that is there."""

    model: ModelName
    """Folder or hub name of the model to start from."""
    lora: LoRA | None = None
    """Learn in low-rank adapters, the model itself frozen."""


class HeldOut(FineTuning):
    """Of a model on rows, others being kept to measure it on."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data."""
    batch: int = Field(default=32, ge=1)
    """Rows a step: answers, pairs, or rankings with all that they rank."""
    heldout: Source | None = None
    """Rows that are not learnt from: every checkpoint is measured on them, and the result. Without a path, the other
    side of the split of `data`: `data: {path: pairs.jsonl, part: train}, heldout: {}`."""
    result: Literal["last", "best"] = "last"
    """The checkpoint that becomes the model: the last, or the one that did best on held-out rows."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_same_rows(cls, values: dict[str, Any]) -> dict[str, Any]:
        data, held = values.get("data"), values.get("heldout")
        if not isinstance(data, dict) or not isinstance(held, dict) or "path" in held:
            return values
        if data.get("part") != "train":
            raise ValueError("heldout without a path is the other side of the data's split: set data.part: train")
        same = {name: value for name, value in data.items() if name not in ("fold", "folds", "limit")}
        return {**values, "heldout": {**same, "part": "heldout", **held}}

    @model_validator(mode="after")
    def _best_of_something(self) -> Self:
        if self.result == "best" and self.heldout is None:
            raise ValueError("result: best goes by held-out rows, and `heldout` names none")
        return self


class Loads(Protocol):
    def load(self, folder: Path) -> None: ...


def start_policy(config: FineTuning) -> Policy:
    """The policy that a recipe improves."""
    return load_policy(
        config.model, precision=config.precision, device=config.device, lora=config.lora, seed=config.seed
    )


def start_scalar(config: Training, model: str, lora: LoRA | None) -> ScalarModel:
    """The reward or value model that a recipe improves."""
    return load_scalar(model, precision=config.precision, device=config.device, lora=lora, seed=config.seed)


def take_result(config: HeldOut, model: Loads, run: Run) -> None:
    """After the last step: back to the best checkpoint, where that is wanted."""
    if config.result == "best":
        best = run.best_checkpoint()
        run.note(f"{run.folder.name}: {best.name} did best on held-out rows and becomes the model")
        model.load(best)
