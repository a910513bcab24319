"""Rows packed into one sequence without padding, a prompt that several rows share encoded once.

A `Layout` says where each (row, column) of a batch lies among the M packed tokens, and attends on behalf of the
model, which never learns that its one long sequence is many.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from clew.models.attention import Options, Span, attend_block, attend_spans, is_for_cpu

MIN_SHARED = 4
"""Shared prompts shorter than this are cheaper to encode twice."""
CHEAP_AREA = 1 << 14
"""Query-key pairs that cost less than one more call of the attention kernel."""

SHORT = 16
"""Spans shorter than this on average are cheaper to attend to in padded blocks."""


class Attends(Protocol):
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: "Options") -> Tensor: ...


class Block(NamedTuple):
    """Queries start:start+length attend, causally, to context:context+before and to themselves."""

    start: int
    length: int
    context: int
    before: int

    @property
    def keys(self) -> int:
        return self.before + self.length


@dataclass(frozen=True)
class Bucket:
    """Blocks of similar size, attended to in one call."""

    queries: Tensor  # [R * Tq] packed places, padded with the block's last
    keys: Tensor  # [R * Tk]
    is_query: Tensor  # [R * Tq] bool: False where `queries` is padding
    num_blocks: int
    mask: Tensor | None  # [R, 1, Tq, Tk] bool; None: plain causal
    distance: Tensor  # [R, 1, Tq, Tk] how far back a key lies, for sliding windows

    @classmethod
    def of(cls, blocks: list[Block], device: torch.device) -> "Bucket":
        tq, tk = max(b.length for b in blocks), max(b.keys for b in blocks)
        start, length, context, before = (torch.tensor(x, device=device)[:, None] for x in zip(*blocks, strict=True))
        i, j = torch.arange(tq, device=device), torch.arange(tk, device=device)
        queries = start + i.minimum(length - 1)
        keys = torch.where(j < before, context + j, start + (j - before).minimum(length - 1))
        distance = (before + i)[:, None, :, None] - j
        plain = tq == tk and int(before.max()) == 0
        mask = None if plain else distance >= 0
        return cls(queries.flatten(), keys.flatten(), (i < length).flatten(), len(blocks), mask, distance)


@dataclass(frozen=True)
class Layout:
    """Where every token of a batch lies in the packed sequence.

    Example: two rows [p p a] and [p p b b] with a shared prompt pack to [p p a b b], index [[0 1 2 .] [0 1 3 4]].
    """

    tokens: Tensor  # [M] long
    positions: Tensor  # [M] long, each row counting from 0
    index: Tensor  # [B, T] long: place among the M of each real token; 0 on padding
    blocks: list[Block]
    spans: list[Span]

    @classmethod
    def of(cls, tokens: Tensor, real: Tensor, mask: Tensor, *, share: bool = True) -> "Layout":
        """Lay out [B, T] rows; neighbours with equal prompts (all before the first scored token) share them."""
        rows = [row[keep] for row, keep in zip(tokens, real, strict=True)]
        spans, blocks, pieces = _segments(rows, _prompt_lengths(real, mask), share)
        index = torch.zeros_like(tokens)
        positions = []
        for b, (shared, own, length) in enumerate(spans):
            device = tokens.device
            before = len(rows[b]) - length
            index[b, real[b]] = torch.cat(
                [
                    torch.arange(shared, shared + before, device=device),
                    torch.arange(own, own + length, device=device),
                ]
            )
        for start, piece in pieces:
            positions.append(torch.arange(start, start + len(piece), device=tokens.device))
        packed = torch.cat([piece for _, piece in pieces])
        return cls(packed, torch.cat(positions), index, blocks, _spans(blocks))

    @cached_property
    def buckets(self) -> list[Bucket]:
        return [Bucket.of(group, self.tokens.device) for group in _similar(self.blocks)]

    @cached_property
    def back(self) -> Tensor:
        """Place [M] of each packed token in the buckets' outputs, one after another."""
        is_query = torch.cat([bucket.is_query for bucket in self.buckets])
        back = torch.empty_like(self.tokens)
        back[torch.cat([bucket.queries for bucket in self.buckets])[is_query]] = is_query.nonzero().flatten()
        return back

    def goes_by_spans(self, query: Tensor, value: Tensor, options: Options) -> bool:
        """Whether attention needs no buckets: on a CPU, where spans are long enough, and nothing special is asked."""
        longest = max(block.keys for block in self.blocks)
        plain = options.softcap is None and not options.dropout and (options.window or longest) >= longest
        return plain and is_for_cpu(query, value) and len(self.tokens) >= SHORT * len(self.spans)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        if self.goes_by_spans(query, value, options):
            return attend_spans(query[0], key[0], value[0], self.spans, options.scaling)[None]
        outputs = []
        for bucket in self.buckets:
            q, k, v = (
                x[0].index_select(1, places).unflatten(1, (bucket.num_blocks, -1)).transpose(0, 1)
                for x, places in ((query, bucket.queries), (key, bucket.keys), (value, bucket.keys))
            )
            mask = bucket.mask
            if options.window is not None and options.window < k.shape[2]:
                mask = (bucket.distance >= 0) & (bucket.distance < options.window)
            outputs.append(attend_block(q, k, v, mask, options).transpose(1, 2).flatten(0, 1))
        return torch.cat(outputs).index_select(0, self.back)[None]


def _prompt_lengths(real: Tensor, mask: Tensor) -> list[int]:
    """Real tokens before the first scored one; all of them where nothing is scored."""
    before = (mask.cumsum(1) == 0) & real
    return before.sum(1).tolist()


def _segments(
    rows: list[Tensor], prompts: list[int], share: bool
) -> tuple[list[tuple[int, int, int]], list[Block], list[tuple[int, Tensor]]]:
    """For each row (place of its prompt, place of its own part, length of that); blocks; (position, tokens) pieces."""
    spans: list[tuple[int, int, int]] = []
    blocks: list[Block] = []
    pieces: list[tuple[int, Tensor]] = []
    place, b = 0, 0
    while b < len(rows):
        p, end = prompts[b], b + 1
        if share and p >= MIN_SHARED:
            head = rows[b][:p]
            while end < len(rows) and prompts[end] == p and torch.equal(rows[end][:p], head):
                end += 1
        if end == b + 1:
            p = 0
        else:
            pieces.append((0, rows[b][:p]))
            blocks.append(Block(place, p, place, 0))
        prompt, place = place, place + p
        for row in rows[b:end]:
            own = len(row) - p
            spans.append((prompt, place, own))
            if own:
                pieces.append((p, row[p:]))
                blocks.append(Block(place, own, prompt, p))
            place += own
        b = end
    return spans, blocks, pieces


def _spans(blocks: list[Block]) -> list[Span]:
    """Every block over itself; then, over each shared prompt, all that share it at once."""
    own = [Span(b.start, b.start + b.length, b.start, b.start + b.length, True) for b in blocks]
    shared: dict[int, Span] = {}
    for b in blocks:
        if b.before:
            start = shared[b.context].start if b.context in shared else b.start
            shared[b.context] = Span(start, b.start + b.length, b.context, b.context + b.before, False)
    return own + list(shared.values())


def _similar(blocks: list[Block]) -> list[list[Block]]:
    """Blocks by size, in groups that waste at most about half of their padded attention."""
    groups: list[list[Block]] = []
    used, widest = 0, 0
    for block in sorted(blocks, key=lambda b: (b.before > 0, b.keys, b.length)):
        area = block.length * block.keys
        if groups and (groups[-1][0].before > 0) == (block.before > 0):
            padded = (len(groups[-1]) + 1) * max(widest, block.length) * block.keys
            if padded <= 1.5 * (used + area) + CHEAP_AREA:
                groups[-1].append(block)
                used, widest = used + area, max(widest, block.length)
                continue
        groups.append([block])
        used, widest = area, block.length
    return groups
