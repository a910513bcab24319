"""From hidden states to log-probabilities, never holding [B, T, V]: only scored tokens, chunk by chunk."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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
        logps, entropy, probs = _stats(logits, targets)
        ctx.save_for_backward(probs, targets, entropy)
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, None]:  # type: ignore[override]
        probs, targets, entropy = ctx.saved_tensors
        return _slope(probs, targets, entropy, grad_logps, grad_entropy), None


class _LinearStats(torch.autograd.Function):
    """The same of a linear layer's logits, `size` rows at a time, computed again in the backward pass.

    Gradients are added up in place: what is in memory does not grow with the vocabulary, but for the weights' own.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, size: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        chunks = zip(hidden.split(size), targets.split(size), strict=True)
        found = [_stats(F.linear(h, weight, bias).div_(temperature), y)[:2] for h, y in chunks]
        logps, entropy = (torch.cat(x) for x in zip(*found, strict=True))
        ctx.save_for_backward(hidden, weight, bias, targets, entropy)
        ctx.temperature, ctx.size = temperature, size
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        grads = [
            torch.zeros_like(x) if needed else None
            for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        ]
        by_hidden, by_weight, by_bias = grads
        for start in range(0, len(hidden), ctx.size):
            rows = slice(start, start + ctx.size)
            probs = F.linear(hidden[rows], weight, bias).div_(ctx.temperature).softmax(1)
            asked = (None if x is None else x[rows] for x in (grad_logps, grad_entropy))
            slope = _slope(probs, targets[rows], entropy[rows], *asked)
            assert slope is not None, "a backward pass has a gradient to begin with"
            slope.div_(ctx.temperature)
            if by_hidden is not None:
                by_hidden[rows] = slope @ weight
            if by_weight is not None:
                by_weight.addmm_(slope.T, hidden[rows])
            if by_bias is not None:
                by_bias += slope.sum(0)
        return *grads, None, None, None


def _stats(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(target) [S], entropy [S] and all probabilities [S, V]."""
    top, at = logits.max(1, keepdim=True)
    probs = logits.softmax(1)
    lse = (top - probs.gather(1, at).log())[:, 0]  # the largest probability is at least 1 / V
    return logits.gather(1, targets[:, None])[:, 0] - lse, lse - torch.linalg.vecdot(probs, logits), probs


def _slope(
    probs: Tensor, targets: Tensor, entropy: Tensor, grad_logps: Tensor | None, grad_entropy: Tensor | None
) -> Tensor | None:
    """The gradient by the logits [S, V], written over the probabilities: a second backward pass fails, and says so."""
    slope = None
    if grad_entropy is not None:  # dH/dz = -p (log p + H)
        slope = torch.special.xlogy(probs, probs).addcmul_(probs, entropy[:, None]).mul_(-grad_entropy[:, None])
    if grad_logps is None:
        return slope
    grad = probs.mul_(-grad_logps[:, None])
    grad.scatter_add_(1, targets[:, None], grad_logps[:, None])
    return grad if slope is None else grad.add_(slope)


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
    linear = plain_linear(head)
    if linear is not None and linear.weight.dtype in (torch.float32, torch.float64):
        states = hidden.to(linear.weight.dtype)
        return _LinearStats.apply(states, linear.weight, linear.bias, targets, temperature, size)  # type: ignore[return-value]
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
