"""Softmax attention: over a block of keys, or over a part of them that another part is merged with."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Options(NamedTuple):
    """What a layer asks of its attention beyond query, key and value."""

    scaling: float | None
    dropout: float
    window: int | None
    softcap: float | None


def attend_block(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Softmax attention of [R, H, Tq, D] over [R, H_kv, Tk, D]; mask bool, True to attend, None for causal."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if options.softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, mask, options.dropout, is_causal=mask is None, scale=options.scaling
        )
    scale = options.scaling if options.scaling is not None else query.shape[-1] ** -0.5
    logits = options.softcap * torch.tanh(query @ key.transpose(-1, -2) * scale / options.softcap)
    if mask is None:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    weights = logits.masked_fill(~mask, -torch.inf).softmax(-1)
    return F.dropout(weights, options.dropout) @ value


class Span(NamedTuple):
    """Packed places start:end, their queries attending to all of keys_start:keys_end, or causally to themselves."""

    start: int
    end: int
    keys_start: int
    keys_end: int
    causal: bool


class _Spans(torch.autograd.Function):
    """Attention of packed tokens over their spans, in place: nothing padded, gathered or masked.

    A token's two spans, its prompt and its own row, are merged by their normalisers; given the normaliser of both,
    the gradient of attention is a sum over spans.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scale: float | None
    ) -> Tensor:
        """[H, M, D] each -> [M, H, D]. Spans that attend to themselves come first, and cover everything."""
        out, total = query.new_empty(query.transpose(0, 1).shape), query.new_empty(query.shape[:2], dtype=_log(query))
        for q, k, causal in _slices(spans):
            part, log = _FLASH(query[None, :, q], key[None, :, k], value[None, :, k], 0.0, causal, scale=scale)
            part, log = part[0].transpose(0, 1), log[0]
            if causal:
                out[q], total[:, q] = part, log
            else:
                _merge(out[q], total[:, q], part, log)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.spans, ctx.scale = spans, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, out, total = ctx.saved_tensors
        grads = [torch.empty_like(out).transpose(0, 1) for _ in range(3)]
        out, grad = out.transpose(0, 1), grad.transpose(0, 1)
        for q, k, causal in _slices(ctx.spans):
            found = _FLASH_BACKWARD(
                grad[None, :, q], query[None, :, q], key[None, :, k], value[None, :, k], out[None, :, q],
                total[None, :, q], 0.0, causal, scale=ctx.scale,
            )  # fmt: skip
            for whole, part, where in zip(grads, found, (q, k, k), strict=True):
                if causal:
                    whole[:, where] = part[0]
                else:
                    whole[:, where] += part[0]
        return *grads, None, None


def attend_spans(query: Tensor, key: Tensor, value: Tensor, spans: Sequence[Span], scale: float | None) -> Tensor:
    """Packed [H, M, D] over [H_kv, M, D] -> [M, H, D], on a CPU."""
    groups = query.shape[0] // key.shape[0]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
    key, value = key.to(query.dtype), value.to(query.dtype)  # autocast may leave them in different ones
    return _Spans.apply(query, key, value, spans, scale)  # type: ignore[return-value]


def _slices(spans: Sequence[Span]) -> Iterator[tuple[slice, slice, bool]]:
    for span in spans:
        yield slice(span.start, span.end), slice(span.keys_start, span.keys_end), span.causal


def _merge(out: Tensor, log: Tensor, other: Tensor, other_log: Tensor) -> None:
    """Put another part [T, H, D] with normaliser [H, T] into one that is there, in place."""
    total = torch.logaddexp(log, other_log)
    first, second = ((x - total).exp_().T[..., None].to(out.dtype) for x in (log, other_log))
    out.mul_(first).addcmul_(other, second)
    log.copy_(total)


def _log(query: Tensor) -> torch.dtype:
    return query.dtype if query.dtype == torch.float64 else torch.float32


Part = tuple[Tensor, Tensor]
"""Attention over some of the keys, [R, H, Tq, D], and the logarithm of its normaliser, [R, H, Tq]."""


def attend_part(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, options: Options) -> Part:
    """[R, H, Tq, D] over [R, H, Tk, D], without gradient; bias [R, 1, Tq, Tk], -inf where there is nothing to see."""
    if is_for_cpu(query, value) and options.softcap is None and options.window is None:
        return _FLASH(query, key.to(query.dtype), value.to(query.dtype), attn_mask=bias, scale=options.scaling)
    scale = options.scaling if options.scaling is not None else query.shape[-1] ** -0.5
    logits = (query @ key.to(query.dtype).transpose(-1, -2)).to(_log(query)) * scale
    if options.softcap is not None:
        logits = options.softcap * torch.tanh(logits / options.softcap)
    logits = logits + bias
    weights = logits.softmax(-1).nan_to_num(0.0)  # of a part that has nothing to attend to
    return weights.to(value.dtype) @ value, logits.logsumexp(-1)


def merge_parts(one: Part, other: Part) -> Tensor:
    """Attention over the keys of both."""
    total = torch.logaddexp(one[1], other[1])
    return sum(out * (log - total).exp()[..., None].to(out.dtype) for out, log in (one, other))  # type: ignore[return-value]


_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def is_for_cpu(query: Tensor, value: Tensor) -> bool:
    """Whether the CPU's kernel takes them: values as wide as queries (in latent attention they are not)."""
    return (
        query.shape[-1] == value.shape[-1]
        and query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64, torch.bfloat16)
    )
