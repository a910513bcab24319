"""The language model: log-probabilities and entropies of scored tokens, packed inside, [B, T] outside."""

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from clew.batch import Batch, Outputs
from clew.models.heads import Head, LMHead, token_stats
from clew.models.trunk import Trunk


class Policy(nn.Module):
    """Any causal language model of transformers, with its tokenizer and the temperature it is sampled at.

    Training and sampling divide logits by the same temperature, so that their log-probabilities are of one
    distribution.
    """

    def __init__(self, trunk: Trunk, tokenizer: PreTrainedTokenizerBase, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.trunk = trunk
        self.module: PreTrainedModel = trunk.module
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.head: Head = LMHead(trunk)

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer: the tokenizer's EOS and those of the model's generation config."""
        configured = self.module.generation_config.eos_token_id if self.module.generation_config else None
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if isinstance(i, int))

    def stop_at(self, ids: Collection[int]) -> None:
        """Let these tokens end an answer too: what a chat template ends a turn with. Saved with the model."""
        if self.module.generation_config is not None and not self.stop_ids.issuperset(ids):
            self.module.generation_config.eos_token_id = sorted(self.stop_ids.union(ids))

    def evaluate(self, batch: Batch) -> Outputs:
        """Log-probability and entropy [B, T] of every scored token, at the policy's temperature."""
        batch = batch.to(self.device)
        states = self.scored_states(batch)
        logps, entropy = token_stats(self.head, states, batch.tokens[batch.mask], self.temperature)
        return Outputs(logps=spread(logps, batch.mask), entropy=spread(entropy, batch.mask))

    def scored_states(self, batch: Batch) -> Tensor:
        """Where every scored token was chosen: [S, D], which `head` makes logits of."""
        batch = batch.to(self.device)
        states, index = self.trunk.encode(batch)
        return states.index_select(0, before(batch, index))

    def at(self, temperature: float) -> Self:
        """The same weights at another temperature."""
        other = copy.copy(self)
        other.temperature = temperature
        return other

    def checkpoint_activations(self) -> None:
        self.trunk.checkpoint_activations()

    def save(self, folder: Path) -> None:
        """What is trained, as a Hugging Face folder; the pad token is never among the stop tokens."""
        generation = self.module.generation_config
        if generation is not None and generation.pad_token_id in self.stop_ids:
            generation.pad_token_id = None
        self.trunk.save(folder)
        if generation is not None:
            generation.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Take the weights back from a saved folder, exactly."""
        self.trunk.load(folder)


def before(batch: Batch, index: Tensor) -> Tensor:
    """Packed place [S] of the token before each scored one: the state in which it was chosen."""
    return index.roll(1, dims=1)[batch.mask]


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """[S, ...] back to [B, T, ...], zero where mask is False."""
    within = mask.view(*mask.shape, *[1] * (values.ndim - 1))
    return values.new_zeros(*mask.shape, *values.shape[1:]).masked_scatter(within, values)
