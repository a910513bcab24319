"""Everything of a transformers model below its head, run packed through its AttentionInterface, or padded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from clew.batch import Batch
from clew.models.layout import Attends, Layout, Options

ATTENTION = "clew"

Precision = Literal["fp32", "bf16"]


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **asked: Any
) -> tuple[Tensor, None]:
    """transformers' hook: [1, H, M, D] query and [1, H_kv, M, D] key and value -> [1, M, H, D]."""
    unknown = [k for k in ("s_aux", "position_bias") if asked.get(k) is not None]
    if unknown:
        raise NotImplementedError(f"packed attention does not know {', '.join(unknown)}")
    options = Options(
        asked.get("scaling"), asked.get("dropout", 0.0), asked.get("sliding_window"), asked.get("softcap")
    )
    return asked["clew_layout"].attend(module.layer_idx, query, key, value, options), None


AttentionInterface.register(ATTENTION, _attention)


@dataclass
class Trunk:
    """How to run a model: `packed` after its leak test; `native` when its head must not be called apart.

    The states that a trunk gives are hidden states [M, D] or, native, the model's own logits [M, V]. With precision
    "bf16" weights stay float32 and the forward pass runs under autocast.
    """

    module: PreTrainedModel
    packed: bool = True
    native: bool = False
    precision: Precision = "fp32"

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States of the batch's tokens, and the place [B, T] of each real token among them."""
        if self.packed:
            layout = Layout.of(batch.tokens, batch.real, batch.mask)
            return self.encode_packed(layout.tokens, layout.positions, layout), layout.index
        positions = (batch.real.cumsum(1) - 1).clamp(min=0)
        states = self._states(batch.tokens, positions, attention_mask=batch.real.long())
        places = torch.arange(batch.tokens.numel(), device=batch.tokens.device)
        return states.flatten(0, 1), places.view_as(batch.tokens)

    def encode_packed(self, tokens: Tensor, positions: Tensor, layout: Attends) -> Tensor:
        """States of packed tokens [M], `layout` attending in every layer."""
        with self._attending():
            return self._states(tokens[None], positions[None], clew_layout=layout)[0]

    def _states(self, tokens: Tensor, positions: Tensor, **options: Any) -> Tensor:
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.native:
                return self.module(input_ids=tokens, position_ids=positions, use_cache=False, **options).logits
            return self.module.base_model(
                input_ids=tokens, position_ids=positions, use_cache=False, **options
            ).last_hidden_state

    def load(self, folder: Path) -> None:
        """Take the weights back from a saved folder, exactly."""
        stored = type(self.module).from_pretrained(folder, dtype=self.module.dtype)
        self.module.load_state_dict(stored.state_dict())

    @contextmanager
    def _attending(self) -> Iterator[None]:
        config = self.module.config
        before = config._attn_implementation
        config._attn_implementation = ATTENTION
        try:
            yield
        finally:
            config._attn_implementation = before
