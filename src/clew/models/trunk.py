"""Everything of a transformers model below its head, run packed through its AttentionInterface, or padded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from clew.batch import Batch
from clew.models.adapter import Adapter
from clew.models.layout import Attends, Layout, Options, attend_block

ATTENTION = "clew"

Precision = Literal["fp32", "bf16"]

_NO_MASK = torch.empty(1, 1, 1, 1)
"""transformers passes a 4-d mask on as it is, instead of making an M x M one for the packed row; nobody reads it."""


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **asked: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' hook: [1, H, M, D] query and [1, H_kv, M, D] key and value -> [1, M, H, D].

    Calls that bring no layout (the model used natively, `generate`) get transformers' own attention.
    """
    layout: Attends | None = asked.pop("clew_layout", None)
    if layout is None and asked.get("softcap") is None:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **asked)
    unknown = [k for k in ("s_aux", "position_bias") if asked.get(k) is not None]
    if unknown:
        raise NotImplementedError(f"packed attention does not know {', '.join(unknown)}")
    options = Options(
        asked.get("scaling"), asked.get("dropout", 0.0), asked.get("sliding_window"), asked.get("softcap")
    )
    if layout is None:  # sdpa has no softcap
        return attend_block(query, key, value, attention_mask, options).transpose(1, 2), None
    return layout.attend(module.layer_idx, query, key, value, options), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@dataclass
class Trunk:
    """How to run a model: `packed` after its leak test; `native` when its head must not be called apart.

    The states that a trunk gives are hidden states [M, D] or, native, the model's own logits [M, V]. With precision
    "bf16" weights stay float32 and the forward pass runs under autocast. With an adapter only that learns.
    """

    module: PreTrainedModel
    packed: bool = True
    native: bool = False
    precision: Precision = "fp32"
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        # For good, not for a call: gradient checkpointing runs layers again when no call of ours is on the stack.
        if self.packed:
            self.module.config._attn_implementation = ATTENTION

    @property
    def context(self) -> int | None:
        """Tokens a row may have; None where nothing limits it.

        Rotary scaling that changes with the longest row of a call (dynamic, longrope) would let neighbours decide
        what a row's log-probabilities are: such models are used up to the length where it sets in.
        """
        config = self.module.config.get_text_config()
        limit: int | None = getattr(config, "max_position_embeddings", None)
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") in ("dynamic", "longrope"):
            limit = rope.get("original_max_position_embeddings") or limit
        return limit

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States of the batch's tokens, and the place [B, T] of each real token among them.

        Raises ValueError for a row that is longer than the model's context.
        """
        longest = int(batch.real.sum(1).max())
        if self.context is not None and longest > self.context:
            raise ValueError(f"a row has {longest} tokens and the model's context {self.context}; shorten max_length")
        if self.packed:
            layout = Layout.of(batch.tokens, batch.real, batch.mask)
            return self.encode_packed(layout.tokens, layout.positions, layout), layout.index
        positions = (batch.real.cumsum(1) - 1).clamp(min=0)
        states = self._states(batch.tokens, positions, attention_mask=batch.real.long())
        places = torch.arange(batch.tokens.numel(), device=batch.tokens.device)
        return states.flatten(0, 1), places.view_as(batch.tokens)

    def encode_packed(self, tokens: Tensor, positions: Tensor, layout: Attends) -> Tensor:
        """States of packed tokens [M], `layout` attending in every layer."""
        return self._states(tokens[None], positions[None], attention_mask=_NO_MASK, clew_layout=layout)[0]

    def _states(self, tokens: Tensor, positions: Tensor, **options: Any) -> Tensor:
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.native:
                return self.module(input_ids=tokens, position_ids=positions, use_cache=False, **options).logits
            return self.module.base_model(
                input_ids=tokens, position_ids=positions, use_cache=False, **options
            ).last_hidden_state

    def save(self, folder: Path) -> None:
        """What is trained: the adapter, or the whole model, safetensors only."""
        (self.adapter or self.module).save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Take what is trained back from a saved folder, exactly."""
        if self.adapter is not None:
            self.adapter.load(folder)
            return
        stored = type(self.module).from_pretrained(folder, dtype=self.module.dtype)
        self.module.load_state_dict(stored.state_dict())

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass instead of keeping them."""
        self.module.activation_checkpointing_enable()
