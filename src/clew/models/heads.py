"""From hidden states to log-probabilities, never holding [B, T, V]: only scored tokens, chunk by chunk."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from clew.models.trunk import Trunk

KEPT = 1 << 24
"""Logits in memory at once (64 MiB in float32); where there are more, the backward pass computes them again."""

Head = Callable[[Tensor], Tensor]


class _TokenStats(torch.autograd.Function):
    """Log-probability of each target and entropy of each row, saving nothing but the probabilities."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        top, at = logits.max(1, keepdim=True)
        probs = logits.softmax(1)
        lse = (top - probs.gather(1, at).log())[:, 0]  # the largest probability is at least 1 / V
        entropy = lse - torch.linalg.vecdot(probs, logits)
        ctx.save_for_backward(probs, targets, entropy)
        return logits.gather(1, targets[:, None])[:, 0] - lse, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, None]:  # type: ignore[override]
        probs, targets, entropy = ctx.saved_tensors
        slope = None
        if grad_entropy is not None:  # dH/dz = -p (log p + H)
            slope = torch.special.xlogy(probs, probs).addcmul_(probs, entropy[:, None]).mul_(-grad_entropy[:, None])
        if grad_logps is None:
            return slope, None
        grad = probs.mul_(-grad_logps[:, None])  # in place: a second backward pass would fail, and say so
        grad.scatter_add_(1, targets[:, None], grad_logps[:, None])
        return grad if slope is None else grad.add_(slope), None


def token_stats(head: Head, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy of softmax(head(hidden) / temperature): [S, D], [S] -> [S], [S], float32 at least."""

    def stats(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(h)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        scaled = logits if temperature == 1.0 else logits / temperature
        return _TokenStats.apply(scaled, y)  # type: ignore[return-value]

    vocab = head(hidden[:1].detach()).shape[1] if len(hidden) else 1
    size = max(1, KEPT // vocab)
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
