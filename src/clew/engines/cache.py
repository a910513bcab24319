"""What a decoder remembers of the sequences it is at: keys and values, a prompt's once for all of its samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from clew.batch import Batch
from clew.models.attention import Options, attend_part, merge_parts
from clew.models.layout import Layout
from clew.models.trunk import Trunk


class Decoder(Protocol):
    """States for the next token of every live sequence."""

    def room(self) -> int:
        """How many prompts may be read now."""
        ...

    def read(self, prompts: list[Sequence[int]], n: int, first: int) -> Tensor:
        """Read prompts into slots from `first` on, n slots each: [len(prompts) * n, D]."""
        ...

    def step(self, tokens: Tensor, lengths: np.ndarray) -> Tensor:
        """Append one token to every live sequence, now of these lengths: [A] -> [A, D]."""
        ...

    def compact(self, done: np.ndarray) -> Tensor:
        """Drop finished sequences and close the holes; the order in which the rest now stand."""
        ...


def make_decoder(trunk: Trunk, *, slots: int, n: int, longest_prompt: int, max_tokens: int) -> Decoder:
    """The cache, or its replacement for models that cannot attend through it."""
    if not trunk.packed:
        return Recomputed(trunk, slots, longest_prompt + max_tokens)
    # Prompts stay until their last sample has left: room for twice as many as fill the slots.
    return Cached(trunk, Shape(slots, n, min(slots, 2 * slots // n), longest_prompt, max_tokens))


def moves(done: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of those at the end fill the holes that finished ones leave in front."""
    remaining = len(done) - int(done.sum())
    return done[:remaining].nonzero()[0], (~done[remaining:]).nonzero()[0] + remaining


@dataclass(frozen=True)
class Shape:
    """How much a cache holds: S slots for answers of max_tokens, n slots a prompt, prompts as long as the longest."""

    slots: int
    n: int
    prompts: int
    longest_prompt: int
    max_tokens: int


Pair = tuple[Tensor, Tensor]


class Cached:
    """Keys and values, preallocated: of prompts [P, H_kv, longest, D], of answers [S, H_kv, max_tokens, D], a layer.

    All samples of a prompt attend to its one copy in one product (a cascade), each to its own answer in another; the
    two are put together by their normalisers.
    """

    def __init__(self, trunk: Trunk, shape: Shape) -> None:
        self._trunk = trunk
        self._shape = shape
        self._prompts: dict[int, Pair] = {}
        self._answers: dict[int, Pair] = {}
        self._prompt = np.zeros(shape.slots, dtype=np.int64)  # place of each slot's prompt
        self._lane = np.zeros(shape.slots, dtype=np.int64)  # which of its samples
        self._lengths = np.zeros(shape.prompts, dtype=np.int64)
        self._num_prompts = 0

    def room(self) -> int:
        return self._shape.prompts - self._num_prompts

    def read(self, prompts: list[Sequence[int]], n: int, first: int) -> Tensor:
        device = self._trunk.module.device
        lengths = torch.tensor([len(p) for p in prompts])
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        tokens = torch.zeros(real.shape, dtype=torch.long)
        tokens[real] = torch.tensor([t for p in prompts for t in p])
        tokens, real = tokens.to(device), real.to(device)
        layout = Layout.of(tokens, real, torch.zeros_like(real), share=False)
        row, column = real.nonzero().unbind(1)
        reading = _Reading(self, layout, layout.index[row, column], row + self._num_prompts, column)
        self._enter(lengths.numpy(), n, first)
        states = self._trunk.encode_packed(layout.tokens, layout.positions, reading)
        last = layout.index.gather(1, lengths[:, None].to(device) - 1)[:, 0]
        return states[last].repeat_interleave(n, 0)

    def _enter(self, lengths: np.ndarray, n: int, first: int) -> None:
        places = np.arange(self._num_prompts, self._num_prompts + len(lengths))
        slots = slice(first, first + n * len(lengths))
        self._prompt[slots], self._lane[slots] = places.repeat(n), np.tile(np.arange(n), len(lengths))
        self._lengths[places] = lengths
        self._num_prompts += len(lengths)

    def step(self, tokens: Tensor, lengths: np.ndarray) -> Tensor:
        num = len(lengths)
        lanes = _Lanes(self._prompt[:num], self._lane[:num], self._shape.n, tokens.device)
        stepping = _Stepping(self, lengths - 1, self._lengths[: self._num_prompts], lanes)
        return self._trunk.encode_packed(tokens, torch.from_numpy(lengths - 1).to(tokens.device), stepping)

    def compact(self, done: np.ndarray) -> Tensor:
        holes, movers = moves(done)
        order = torch.arange(remaining := len(done) - int(done.sum()))
        order[torch.from_numpy(holes)] = torch.from_numpy(movers)
        for state in (self._prompt, self._lane):
            state[holes] = state[movers]
        _move(self._answers, holes, movers)
        left = np.bincount(self._prompt[:remaining], minlength=self._num_prompts) == 0
        if left.any():
            holes, movers = moves(left)
            now = np.arange(self._num_prompts)
            now[movers] = holes
            self._prompt[:remaining] = now[self._prompt[:remaining]]
            self._lengths[holes] = self._lengths[movers]
            _move(self._prompts, holes, movers)
            self._num_prompts -= int(left.sum())
        return order

    def write_prompts(self, layer: int, key: Tensor, value: Tensor, to: tuple[Tensor, Tensor, Tensor]) -> None:
        """Packed tokens `source` go to (prompt, column)."""
        if layer not in self._prompts:
            self._prompts[layer] = _room(key, value, self._shape.prompts, self._shape.longest_prompt)
        source, prompt, column = to
        for store, new in zip(self._prompts[layer], (key, value), strict=True):
            store[prompt, :, column] = new[0].transpose(0, 1)[source]

    def write_answers(self, layer: int, key: Tensor, value: Tensor, own: np.ndarray) -> tuple[Pair, Pair]:
        """One token more a slot, in the columns `own`; all that is remembered in this layer."""
        if layer not in self._answers:
            self._answers[layer] = _room(key, value, self._shape.slots, self._shape.max_tokens)
        for store, new in zip(self._answers[layer], (key, value), strict=True):
            token = new[0].transpose(0, 1)
            if own.min() == own.max():  # as when all have begun together: a plain copy
                store[: len(own), :, int(own[0])] = token
            else:
                store[torch.arange(len(own)), :, torch.from_numpy(own)] = token
        return self._prompts[layer], self._answers[layer]


def _room(key: Tensor, value: Tensor, rows: int, width: int) -> Pair:
    """Zeros, not empty: what lies beyond a sequence's end is multiplied by zero, and NaN times zero is NaN."""
    return tuple(x.new_zeros(rows, x.shape[1], width, x.shape[3]) for x in (key, value))  # type: ignore[return-value]


def _move(stores: dict[int, Pair], holes: np.ndarray, movers: np.ndarray) -> None:
    to, source = torch.from_numpy(holes), torch.from_numpy(movers)
    for pair in stores.values():
        for store in pair:
            store[to] = store[source]


@dataclass
class _Reading:
    """Attention while prompts are read: packed, and kept."""

    cache: Cached
    layout: Layout
    source: Tensor
    prompt: Tensor
    column: Tensor

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        self.cache.write_prompts(layer, key, value, (self.source, self.prompt, self.column))
        return self.layout.attend(layer, query, key, value, options)


class _Stepping:
    """Attention of one new token a sequence; what layers have in common is made once.

    at, own, prompt, lane [A]: places in the sequence and in its answer, its prompt, which of that one's samples;
    lengths [P]: of prompts.
    """

    def __init__(self, cache: Cached, at: np.ndarray, lengths: np.ndarray, shape: "_Lanes") -> None:
        self._cache, self._at, self._lengths, self._lanes = cache, at, lengths, shape
        self._own = at - lengths[shape.prompt]
        self._place = torch.from_numpy(shape.prompt * shape.n + shape.lane).to(shape.device)
        self._biases: dict[tuple[int | None, torch.dtype], tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        prompts, answers = self._cache.write_answers(layer, key, value, self._own)
        own_bias, bias = self._bias(options.window, query)
        # Query heads that share a key head stand as rows of one block: [A, H_kv, H / H_kv, D].
        grouped = query[0].transpose(0, 1).unflatten(1, (key.shape[1], -1))
        keys, values = (x[: len(grouped), :, : own_bias.shape[-1]] for x in answers)
        own = attend_part(grouped, keys, values, own_bias, options)
        num, groups = len(self._lengths), grouped.shape[2]
        asked = grouped.new_zeros(num * self._lanes.n, *grouped.shape[1:]).index_copy_(0, self._place, grouped)
        by_head = asked.unflatten(0, (num, -1)).permute(0, 2, 3, 1, 4)  # [P, H_kv, H / H_kv, n, D]
        keys, values = (x[:num, :, : bias.shape[-1]] for x in prompts)
        part = attend_part(by_head.flatten(2, 3), keys, values, bias.repeat(1, 1, groups, 1), options)
        back = (x.unflatten(2, (groups, -1)).movedim(3, 1).flatten(0, 1).index_select(0, self._place) for x in part)
        return merge_parts(own, (*back,)).flatten(1, 2)[None]  # type: ignore[arg-type]

    def _bias(self, window: int | None, query: Tensor) -> tuple[Tensor, Tensor]:
        """0 where a token may look and -inf elsewhere: [A, 1, 1, answers' columns], [P, 1, n, prompts' columns]."""
        if (window, query.dtype) not in self._biases:
            columns = np.arange(max(int(self._own.max()) + 1, int(self._lengths.max())))
            own = (self._own[:, None] - columns[: self._own.max() + 1])[:, None, None]
            positions = np.zeros((len(self._lengths), self._lanes.n), dtype=np.int64)
            positions[self._lanes.prompt, self._lanes.lane] = self._at
            inside = columns[: self._lengths.max()]
            distance = np.where(inside < self._lengths[:, None, None], positions[:, :, None] - inside, -1)[:, None]
            seen = ((d >= 0) & (d < (window or np.inf)) for d in (own, distance))
            made = (torch.from_numpy(np.where(s, 0.0, -np.inf)).to(query.device, query.dtype) for s in seen)
            self._biases[window, query.dtype] = (*made,)  # type: ignore[assignment]
        return self._biases[window, query.dtype]


class _Lanes(NamedTuple):
    """Which prompt each sequence answers, and which of its n samples it is: [A] each."""

    prompt: np.ndarray
    lane: np.ndarray
    n: int
    device: torch.device


class Recomputed:
    """For models that cannot attend through our cache (state-space layers): all tokens again at every step."""

    def __init__(self, trunk: Trunk, slots: int, width: int) -> None:
        self._trunk = trunk
        self._tokens = torch.zeros(slots, width, dtype=torch.long, device=trunk.module.device)

    def room(self) -> int:
        return len(self._tokens)

    def read(self, prompts: list[Sequence[int]], n: int, first: int) -> Tensor:
        for i, prompt in enumerate(prompts):
            self._tokens[first + i * n : first + (i + 1) * n, : len(prompt)] = torch.tensor(list(prompt))
        lengths = np.repeat([len(p) for p in prompts], n)
        return self._states(slice(first, first + len(lengths)), lengths)

    def step(self, tokens: Tensor, lengths: np.ndarray) -> Tensor:
        self._tokens[torch.arange(len(lengths)), torch.from_numpy(lengths - 1)] = tokens
        return self._states(slice(0, len(lengths)), lengths)

    def compact(self, done: np.ndarray) -> Tensor:
        holes, movers = (torch.from_numpy(x) for x in moves(done))
        self._tokens[holes] = self._tokens[movers]
        order = torch.arange(len(done) - int(done.sum()))
        order[holes] = movers
        return order

    def _states(self, rows: slice, lengths: np.ndarray) -> Tensor:
        tokens = self._tokens[rows, : int(lengths.max())]
        ends = torch.from_numpy(lengths).to(tokens.device)
        real = torch.arange(tokens.shape[1], device=tokens.device) < ends[:, None]
        item = torch.arange(len(tokens), device=tokens.device)
        states, index = self._trunk.encode(Batch(tokens, real, torch.zeros_like(real), item, torch.zeros_like(item)))
        return states[index.gather(1, ends[:, None] - 1)[:, 0]]
