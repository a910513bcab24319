"""Softmax attention: over a block of keys, or over a part of them that another part is merged with."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


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


Part = tuple[Tensor, Tensor]
"""Attention over some of the keys, [R, H, Tq, D], and the logarithm of its normaliser, [R, H, Tq]."""


def attend_part(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, options: Options) -> Part:
    """[R, H, Tq, D] over [R, H, Tk, D], without gradient; mask bool [R, 1, Tq, Tk], True to attend."""
    if _is_for_cpu(query) and options.softcap is None and options.window is None:
        bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        return _FLASH(query, key, value, attn_mask=bias, scale=options.scaling)
    scale = options.scaling if options.scaling is not None else query.shape[-1] ** -0.5
    logits = (query @ key.transpose(-1, -2)).float() * scale
    if options.softcap is not None:
        logits = options.softcap * torch.tanh(logits / options.softcap)
    logits = logits.masked_fill(~mask, -torch.inf)
    weights = logits.softmax(-1).nan_to_num(0.0)  # of a part that has nothing to attend to
    return weights.to(value.dtype) @ value, logits.logsumexp(-1)


def merge_parts(one: Part, other: Part) -> Tensor:
    """Attention over the keys of both."""
    total = torch.logaddexp(one[1], other[1])
    return sum(out * (log - total).exp()[..., None].to(out.dtype) for out, log in (one, other))  # type: ignore[return-value]


_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def _is_for_cpu(query: Tensor) -> bool:
    return query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64, torch.bfloat16)
