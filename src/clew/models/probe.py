"""A model is tested before it is trusted: does packing leak, is our head the model's own?"""

import logging
from collections import Counter
from contextlib import suppress

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from clew.batch import Batch
from clew.models.layout import Layout, Options
from clew.models.policy import Policy
from clew.models.trunk import Trunk

log = logging.getLogger(__name__)


def packs(module: PreTrainedModel) -> bool:
    """The leak test: do packed rows get the hidden states that each gets alone? Otherwise pad, and say so."""
    native = module.config._attn_implementation
    packed = _packs(module)
    if not packed:
        module.config._attn_implementation = native
    return packed


def _packs(module: PreTrainedModel) -> bool:
    generator = torch.Generator().manual_seed(0)
    vocab = int(module.config.get_text_config().vocab_size)
    rows = probe(torch.randint(vocab, (3, 11), generator=generator)).to(module.device)
    layout = Layout.of(rows.tokens, rows.real, rows.mask)
    witness = _Witness(layout)
    with torch.no_grad():
        try:
            hidden, index = Trunk(module).encode_packed(layout.tokens, layout.positions, witness), layout.index
        except (ValueError, TypeError, AttributeError, RuntimeError, LookupError) as error:
            log.warning("%s cannot run packed (%s); rows are padded", type(module).__name__, error)
            return False
        if witness.misses(module.config.get_text_config()):
            log.warning("%s keeps a part of its attention in masks; rows are padded", type(module).__name__)
            return False
        for b in range(rows.num_rows):
            alone = rows.tokens[b : b + 1, : int(rows.real[b].sum())]
            expected = module.base_model(input_ids=alone, use_cache=False).last_hidden_state[0]
            if not close(hidden[index[b][rows.real[b]]], expected):
                log.warning("%s leaks between packed rows; rows are padded", type(module).__name__)
                return False
    return True


class _Witness:
    """A layout that notes how the model attended, for what a short probe cannot show in numbers."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._calls: Counter[int] = Counter()
        self._windowed = False

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        self._calls[layer] += 1
        self._windowed = self._windowed or options.window is not None
        return self._layout.attend(layer, query, key, value, options)

    def misses(self, config: PretrainedConfig) -> bool:
        """A window that never reaches the attention call, chunks, or a layer that attends twice (one cache each)."""
        kinds = getattr(config, "layer_types", None) or []
        windowed = getattr(config, "sliding_window", None) is not None
        windowed = windowed and getattr(config, "use_sliding_window", True) is not False
        if kinds:
            windowed = "sliding_attention" in kinds
        twice = any(count > 1 for count in self._calls.values())
        return twice or "chunked_attention" in kinds or (windowed and not self._windowed)


def probe(tokens: Tensor) -> Batch:
    """Three rows of lengths 11, 9 and 7, the first two with a shared prompt of 5."""
    tokens[1, :5] = tokens[0, :5]
    real = torch.arange(11) < torch.tensor([[11], [9], [7]])
    mask = real & (torch.arange(11) >= 5)
    return Batch(tokens, real, mask, torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.long))


def knows_head(policy: Policy) -> bool:
    """Our head must give the model's own logits; for one that scales them otherwise, its own are used whole."""
    vocab = int(policy.module.config.get_text_config().vocab_size)
    tokens = (torch.arange(3, 10, device=policy.device) % vocab)[None]
    mask = torch.ones_like(tokens)
    with torch.no_grad(), suppress(AttributeError):  # a model without a base of its own has only its logits
        native = policy.module(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        states = policy.module.base_model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        if close(policy.head(states), native):
            return True
    log.warning("%s scales its logits in a way clew does not know; its own are used", type(policy.module).__name__)
    return False


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1))
