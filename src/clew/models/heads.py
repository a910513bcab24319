"""From hidden states to log-probabilities, never holding [B, T, V]: only scored tokens, chunk by chunk."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from clew.models.trunk import Trunk

CHUNK = 1 << 22
"""Logits computed at once (16 MiB in float32)."""
KEEP = 1 << 24
"""Logits that may stay in memory for the backward pass; beyond, they are computed again there."""

Head = Callable[[Tensor], Tensor]


class _TokenStats(torch.autograd.Function):
    """Log-probability of each target and entropy of each row, saving nothing but the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        lse = logits.logsumexp(1)
        logps = logits.gather(1, targets[:, None])[:, 0] - lse
        entropy = lse - torch.linalg.vecdot((logits - lse[:, None]).exp_(), logits)
        ctx.save_for_backward(logits, targets, lse, entropy)
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor, None]:  # type: ignore[override]
        grad_logps, grad_entropy = grad_outputs
        logits, targets, lse, entropy = ctx.saved_tensors
        log_probs = logits - lse[:, None]
        probs = log_probs.exp()
        grad = torch.zeros_like(probs) if grad_logps is None else -grad_logps[:, None] * probs
        if grad_logps is not None:
            grad.scatter_add_(1, targets[:, None], grad_logps[:, None])
        if grad_entropy is not None:  # dH/dz = -p (log p + H)
            grad -= grad_entropy[:, None] * probs * (log_probs + entropy[:, None])
        return grad, None


def token_stats(head: Head, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy of softmax(head(hidden) / temperature): [S, D], [S] -> [S], [S], float32 at least."""

    def chunk_stats(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(h)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        scaled = logits if temperature == 1.0 else logits / temperature
        return _TokenStats.apply(scaled, y)  # type: ignore[return-value]

    vocab = head(hidden[:1].detach()).shape[1] if len(hidden) else 1
    size = max(1, CHUNK // vocab)
    if len(hidden) <= size:
        return chunk_stats(hidden, targets)
    keep = len(hidden) * vocab <= KEEP or not torch.is_grad_enabled()
    chunks = zip(hidden.split(size), targets.split(size), strict=True)
    stats = [
        chunk_stats(h, y) if keep else checkpoint(chunk_stats, h, y, use_reentrant=False)  # type: ignore[misc]
        for h, y in chunks
    ]
    logps, entropy = zip(*stats, strict=True)
    return torch.cat(logps), torch.cat(entropy)


class LMHead:
    """A causal model's own output layer, called as a module (adapters and ties included), with its scaling."""

    def __init__(self, trunk: Trunk) -> None:
        config = trunk.module.config.get_text_config()
        self._trunk = trunk
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        scale, divisor = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
        self._scale: float = (1.0 if scale is None else scale) / (1.0 if divisor is None else divisor)

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
