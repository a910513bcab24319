"""What a checkpoint holds for each learner: the model as a Hugging Face folder, its optimiser, and the generator."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clew.batch import Model
from clew.durable import read_rows
from clew.learn.learner import Learner


class Stored(Protocol):
    """A model that can be saved as a folder and take its weights back from one."""

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


class TrainState:
    """Learners, plain values and torch's generator, as one thing a run can save and load.

    `values` is mutable state of the recipe that survives with it: the KL coefficient, running means. `models` are
    those that change without learning: a reference that moves. `records` is what the recipe keeps of earlier steps,
    lines of JSON. The first learner's model lies in the checkpoint folder itself, so that
    `from_pretrained(checkpoint)` loads it; others lie in folders of their name.
    """

    def __init__(
        self,
        learners: Mapping[str, Learner],
        values: dict[str, float] | None = None,
        models: Mapping[str, Model] | None = None,
        records: list[dict[str, Any]] | None = None,
    ) -> None:
        self.learners = learners
        self.values = values if values is not None else {}
        self.models = models if models is not None else {}
        self.records = records

    def num_bytes(self) -> tuple[int, int]:
        """Of a checkpoint, with AdamW's two numbers a parameter, and of the model that the run leaves, in float32."""
        trained = sum(
            p.numel() * p.element_size() for learner in self.learners.values() for p in learner.named.values()
        )
        first = cast(nn.Module, next(iter(self.learners.values())).model)
        whole = 4 * sum(p.numel() for p in first.parameters())
        return 3 * trained + whole * len(self.models), whole

    def save(self, folder: Path) -> None:
        counts: dict[str, Any] = {}
        for i, (name, learner) in enumerate(self.learners.items()):
            place = folder if i == 0 else folder / name
            cast(Stored, learner.model).save(place)
            save_file(learner.state_tensors(), place / "optimizer.safetensors")
            counts[name] = {"steps": learner.steps, "tokens_trained": learner.tokens_trained}
        for name, model in self.models.items():
            cast(Stored, model).save(folder / name)
        save_file({"cpu": torch.get_rng_state()}, folder / "generator.safetensors")
        if self.records is not None:
            (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in self.records))
        (folder / "trainer_state.json").write_text(json.dumps({"learners": counts, "values": self.values}))

    def load(self, folder: Path) -> None:
        state = json.loads((folder / "trainer_state.json").read_text())
        for i, (name, learner) in enumerate(self.learners.items()):
            place = folder if i == 0 else folder / name
            cast(Stored, learner.model).load(place)
            learner.load_state(load_file(place / "optimizer.safetensors"), **state["learners"][name])
        for name, model in self.models.items():
            cast(Stored, model).load(folder / name)
        self.values.clear()
        self.values.update(state["values"])
        if self.records is not None:
            self.records[:] = read_rows(folder / "records.jsonl")
        torch.set_rng_state(load_file(folder / "generator.safetensors")["cpu"])
