"""From hidden states to log-probabilities, never holding [B, T, V]: only scored tokens, chunk by chunk."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clew.models.logprobs import LinearStats, TokenStats
from clew.models.trunk import Trunk

KEPT = 1 << 24
"""Logits that are kept for the backward pass (64 MiB in float32); where there are more, it computes them again."""
AT_ONCE = 1 << 23
"""Of those that are not kept."""
Head = Callable[[Tensor], Tensor]


def token_stats(head: Head, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy of softmax(head(hidden) / temperature): [S, D], [S] -> [S], [S], float32 at least."""

    def stats(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(h)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        scaled = logits if temperature == 1.0 else logits / temperature
        return TokenStats.apply(scaled, y)  # type: ignore[return-value]

    linear = plain_linear(head)
    if len(hidden) and linear is not None and linear.weight.dtype in (torch.float32, torch.float64):
        states, vocab = hidden.to(linear.weight.dtype), len(linear.weight)
        size = len(hidden) if len(hidden) * vocab <= KEPT else max(1, AT_ONCE // vocab)
        return LinearStats.apply(states, linear.weight, linear.bias, targets, temperature, size)  # type: ignore[return-value]
    size = max(1, KEPT // head(hidden[:1].detach()).shape[1]) if len(hidden) else 1
    if len(hidden) <= size:
        return stats(hidden, targets)
    chunks = zip(hidden.split(size), targets.split(size), strict=True)
    again = torch.is_grad_enabled()
    found = [
        checkpoint(stats, h, y, use_reentrant=False) if again else stats(h, y)  # type: ignore[misc]
        for h, y in chunks
    ]
    logps, entropy = zip(*found, strict=True)
    return torch.cat(logps), torch.cat(entropy)


def plain_linear(head: Head) -> nn.Linear | None:
    """The layer that is all there is of a head: nothing scales its logits, and no adapter sits on it."""
    layer = head.layer if isinstance(head, LMHead) else head
    return layer if isinstance(layer, nn.Linear) and type(layer) is nn.Linear else None


class LMHead:
    """A causal model's own output layer, called as a module (adapters and ties included), with its scaling."""

    def __init__(self, trunk: Trunk) -> None:
        config = trunk.module.config.get_text_config()
        self._trunk = trunk
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        scale, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
        self._scale: float = (1.0 if scale is None else scale) / (1.0 if divisor is None else divisor)

    @property
    def layer(self) -> nn.Module | None:
        """The model's output layer, where its logits are used as they are."""
        is_scaled = self._trunk.native or self._softcap is not None or self._scale != 1.0
        return None if is_scaled else self._trunk.module.get_output_embeddings()

    def __call__(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., V]"""
        if self._trunk.native:
            return states
        output = self._trunk.module.get_output_embeddings()
        assert output is not None, "a causal language model has output embeddings"
        # Never in bfloat16: at a logit of 100 its steps are half a nat, and the importance ratio drowns in them.
        logits = output(states.to(self._trunk.module.dtype))
        logits = logits if self._scale == 1.0 else logits * self._scale
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap
