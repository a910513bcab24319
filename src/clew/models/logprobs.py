"""Log-probabilities and entropies of tokens, with their gradients: a model's largest tensors, held once at most."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECES = 4
"""Of logits in memory at once, for what needs a second copy of them."""


class TokenStats(torch.autograd.Function):
    """Log-probability of each target and entropy of each row, saving nothing but the probabilities."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        probs = torch.empty_like(logits)
        logps, entropy = _stats(logits, targets, probs)
        ctx.save_for_backward(probs, targets, entropy)
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, None]:  # type: ignore[override]
        probs, targets, entropy = ctx.saved_tensors
        return _slope(probs, targets, entropy, grad_logps, grad_entropy), None


class LinearStats(torch.autograd.Function):
    """The same of a linear layer's logits, kept as probabilities or, `size` rows at a time, computed again.

    Gradients are added up in place: what is in memory does not grow with the vocabulary, but for the weights' own.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, size: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        is_kept = len(hidden) <= size and any(ctx.needs_input_grad)
        size = min(size, len(hidden))
        room, probs = _room(hidden, size, len(weight), together=not is_kept)
        piece = len(probs)
        logps, entropy = hidden.new_empty(2, len(hidden))
        for start in range(0, len(hidden), size):
            logits = _scaled(hidden[start : start + size], weight, bias, temperature, room)
            for i, part in enumerate(logits.split(piece)):
                rows = slice(start + i * piece, start + i * piece + len(part))
                logps[rows], entropy[rows] = _stats(part, targets[rows], probs[: len(part)])
                if is_kept:
                    part.copy_(probs[: len(part)])
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, room if is_kept else None)
        ctx.temperature, ctx.size = temperature, size
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, targets, entropy, kept = ctx.saved_tensors
        grads = [
            torch.zeros_like(x) if needed else None
            for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        ]
        by_hidden, by_weight, by_bias = grads
        room = None if kept is not None else _room(hidden, ctx.size, len(weight), together=True)
        for start in range(0, len(hidden), ctx.size):
            rows = slice(start, start + ctx.size)
            probs = kept
            if room is not None:
                probs = _softmaxed(_scaled(hidden[rows], weight, bias, ctx.temperature, room[0]), room[1])
            assert probs is not None
            asked = (None if x is None else x[rows] for x in (grad_logps, grad_entropy))
            slope = _slope(probs, targets[rows], entropy[rows], *asked)
            assert slope is not None, "a backward pass has a gradient to begin with"
            if ctx.temperature != 1.0:
                slope.div_(ctx.temperature)
            if by_hidden is not None:
                torch.mm(slope, weight, out=by_hidden[rows])
            if by_weight is not None:
                by_weight.addmm_(slope.T, hidden[rows])
            if by_bias is not None:
                by_bias += slope.sum(0)
        return *grads, None, None, None


def _scaled(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, room: Tensor) -> Tensor:
    """Logits over the temperature, written into `room`: memory asked for anew would be zeroed page by page first."""
    logits = torch.mm(hidden, weight.T, out=room[: len(hidden)])
    if bias is not None:
        logits += bias
    return logits if temperature == 1.0 else logits.div_(temperature)


def _room(like: Tensor, size: int, vocab: int, *, together: bool) -> tuple[Tensor, Tensor]:
    """For logits and for a piece of them; together where both are needed for a moment: one block, given back whole."""
    piece = -(-size // PIECES)
    if together:
        return like.new_empty(size + piece, vocab).split((size, piece))  # type: ignore[return-value]
    return like.new_empty(size, vocab), like.new_empty(piece, vocab)


def _softmaxed(logits: Tensor, room: Tensor) -> Tensor:
    """In place, piece by piece."""
    for part in logits.split(len(room)):
        part.copy_(torch.softmax(part, 1, out=room[: len(part)]))
    return logits


def _stats(logits: Tensor, targets: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """log p(target) [S] and entropy [S]; all probabilities [S, V] are written into `probs`."""
    top, at = logits.max(1, keepdim=True)
    torch.softmax(logits, 1, out=probs)
    lse = (top - probs.gather(1, at).log())[:, 0]  # the largest probability is at least 1 / V
    mean = torch.bmm(probs[:, None], logits[:, :, None])[:, 0, 0]  # vecdot would hold all products
    return logits.gather(1, targets[:, None])[:, 0] - lse, lse - mean


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
