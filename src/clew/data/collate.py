"""Rows of tokens to a Batch. Rows may be encoded answers or rollouts: whatever has tokens and a mask."""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from clew.batch import Batch


class TokenRow(Protocol):
    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def mask(self) -> Sequence[bool]: ...


def collate(
    items: Sequence[Sequence[TokenRow]],
    *,
    ranks: Sequence[Sequence[int]] | None = None,
    side: Literal["left", "right"] = "right",
) -> Batch:
    """Groups of rows as one batch, padded on `side`. `ranks` orders the rows of each item; they arrive best first.

    Raises ValueError for an empty row, a scored first token (nothing predicts it), or ranks out of order.
    """
    rows = [row for item in items for row in item]
    counts = torch.tensor([len(item) for item in items])
    for i, row in enumerate(rows):
        if not row.tokens or len(row.mask) != len(row.tokens) or row.mask[0]:
            raise ValueError(
                f"row {i} of the batch has {len(row.tokens)} tokens and {len(row.mask)} mask values; expected equally "
                "many, at least one, and the first not scored"
            )
    rank = torch.tensor([r for item in ranks for r in item] if ranks else [0] * len(rows))
    item = torch.repeat_interleave(torch.arange(len(items)), counts)
    if bool(((rank.diff() < 0) & (item.diff() == 0)).any()):
        raise ValueError("rows of an item must come in order of rank, best first")
    real = pad([[True] * len(row.tokens) for row in rows], False, side)
    return Batch(
        tokens=pad([row.tokens for row in rows], 0, side),
        real=real,
        mask=pad([row.mask for row in rows], False, side),
        item=item,
        rank=rank,
    )


def pad(rows: Sequence[Sequence[float]], fill: float | bool, side: Literal["left", "right"] = "right") -> Tensor:
    """Rows of numbers as one tensor [B, T]."""
    width = max(len(row) for row in rows)
    if side == "left":
        return torch.tensor([[fill] * (width - len(row)) + list(row) for row in rows])
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])
