"""Sampling in the policy's own process: a cache of slots that finished sequences leave and waiting prompts enter.

The loop is `generate`. A prompt is read once for all its samples; noise is counter-based, so a sequence does not
depend on its neighbours; admission depends on counts and never on time. Log-probabilities are those of a training
forward at the same temperature.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from clew.batch import Batch
from clew.engines.noise import stream_key, uniforms
from clew.failure import memory_for
from clew.models.layout import Layout, Options, attend_block
from clew.models.policy import Policy
from clew.models.trunk import Trunk
from clew.types import Prompt, Rollout, Sampling, Stop, Turn


class LocalEngine:
    """Samples from a policy with continuous batching.

    Example: `LocalEngine(policy).generate(prompts, n=4, sampling=Sampling(max_tokens=64), key=(seed, step))`
    """

    def __init__(self, policy: Policy, *, slots: int = 64) -> None:
        if policy.device.type == "mps":
            raise ValueError("sampling adds up probabilities in float64, which MPS does not have; set device: cpu")
        self.policy = policy
        self.slots = slots
        self.version = 0

    @memory_for("sampling", advice="lower slots")
    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, key: tuple[int, int]) -> list[Rollout]:
        """`n` rollouts a prompt, in the order of `prompts`, each ending with a stop token or cut by length.

        top_k and top_p change what is drawn, not the recorded log-probabilities. Raises ValueError when a prompt
        and its answer would not fit into the model's context.
        """
        self._check(prompts, sampling)
        slots = max(n, min(self.slots, n * len(prompts)))
        waiting = deque(sorted(range(len(prompts)), key=lambda p: -len(prompts[p].tokens)))
        decoder = _decoder(self.policy.trunk, slots, max(len(p.tokens) for p in prompts) + sampling.max_tokens)
        live = Live(slots, sampling.max_tokens, self.policy.device)
        stops = torch.tensor(sorted(self.policy.stop_ids), device=self.policy.device)
        first = [n * earlier for earlier in _occurrences(prompts)]  # a prompt that comes again goes on counting samples
        finished: dict[tuple[int, int], tuple[list[int], list[float], Stop]] = {}
        states: list[Tensor] = []
        while waiting or live.count:
            free = slots - live.count
            if waiting and free >= n and (free >= slots // 4 or live.count == 0):
                entering = [waiting.popleft() for _ in range(min(free // n, len(waiting)))]
                states.append(decoder.read([prompts[p].tokens for p in entering], n, live.count))
                for p in entering:
                    keys = [stream_key(*key, prompts[p].id, j) for j in range(first[p], first[p] + n)]
                    live.enter(p, len(prompts[p].tokens), keys)
            logits = self.policy.head(torch.cat(states)).float()
            tokens, logps = sample(logits, live.noise(), sampling)
            live.write(tokens, logps)
            ended = torch.isin(tokens, stops).cpu().numpy()
            done = ended | live.full()
            if done.any():
                finished.update(live.leave(done, ended))
                tokens = tokens[decoder.compact(done)]
            states = [decoder.step(tokens, live.lengths())] if live.count else []
        return [self._rollout(prompt, *finished[p, j]) for p, prompt in enumerate(prompts) for j in range(n)]

    def _check(self, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        context = self.policy.trunk.context
        for prompt in prompts:
            if not prompt.tokens:
                raise ValueError(f"prompt {prompt.id!r} has no tokens; a model needs at least one (its BOS)")
            needed = len(prompt.tokens) + sampling.max_tokens
            if context is not None and needed > context:
                raise ValueError(
                    f"prompt {prompt.id!r} has {len(prompt.tokens)} tokens and max_tokens is {sampling.max_tokens}: "
                    f"{needed} do not fit into the model's context of {context}; shorten prompts or max_tokens"
                )

    def _rollout(self, prompt: Prompt, tokens: list[int], logps: list[float], stop: Stop) -> Rollout:
        start = len(prompt.tokens)
        return Rollout(
            prompt_id=prompt.id,
            tokens=[*prompt.tokens, *tokens],
            mask=[False] * start + [True] * len(tokens),
            logps=[0.0] * start + logps,
            stop=stop,
            version=self.version,
            prompt=prompt.text,
            text=self._text(list(prompt.tokens), tokens),
            info=prompt.info,
            turns=(Turn("assistant", start, start + len(tokens)),),
        )

    def _text(self, prompt: list[int], answer: list[int]) -> str:
        """What the answer adds to the prompt's text; decoded together, since decoders trim what begins a text."""
        whole, start = (self.policy.tokenizer.decode(x, skip_special_tokens=True) for x in (prompt + answer, prompt))
        return str(whole)[len(start) :]


def _occurrences(prompts: Sequence[Prompt]) -> list[int]:
    """How often each prompt's id stood before it."""
    seen: Counter[str] = Counter()
    counts: list[int] = []
    for prompt in prompts:
        counts.append(seen[prompt.id])
        seen[prompt.id] += 1
    return counts


def sample(logits: Tensor, noise: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the distribution function: [A, V], [A] -> ids [A], log-probabilities [A].

    The log-probabilities are of softmax(logits / temperature), whatever top_k and top_p leave out; greedy
    (temperature 0) reports those of temperature 1.
    """
    temperature = sampling.temperature or 1.0
    logps = (logits / temperature).log_softmax(1)
    if sampling.temperature == 0:
        tokens = logps.argmax(1)
    else:
        cumulative = _truncated(logps, sampling).exp().double().cumsum(1)
        drawn = noise.to(logits.device)[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return tokens, logps.gather(1, tokens[:, None])[:, 0]


def _truncated(logps: Tensor, sampling: Sampling) -> Tensor:
    if sampling.top_k is not None and sampling.top_k < logps.shape[1]:
        kept = logps.topk(sampling.top_k, dim=1).values[:, -1:]
        logps = logps.masked_fill(logps < kept, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, places = logps.softmax(1).sort(dim=1, descending=True)
        beyond = ordered.cumsum(1) - ordered >= sampling.top_p
        beyond[:, 0] = False
        logps = logps.masked_fill(torch.zeros_like(beyond).scatter(1, places, beyond), -torch.inf)
    return logps


class Live:
    """Bookkeeping of the sequences in the slots, the first `count` of them in use; order changes as some leave."""

    def __init__(self, slots: int, max_tokens: int, device: torch.device) -> None:
        self.count = 0
        self._job = np.zeros((slots, 2), dtype=np.int64)  # prompt, sample
        self._key = np.zeros(slots, dtype=np.uint64)
        self._prompt_length = np.zeros(slots, dtype=np.int64)
        self._written = np.zeros(slots, dtype=np.int64)
        self._tokens = torch.zeros(slots, max_tokens, dtype=torch.long, device=device)
        self._logps = torch.zeros(slots, max_tokens, device=device)

    def enter(self, prompt: int, prompt_length: int, keys: list[int]) -> None:
        place = slice(self.count, self.count + len(keys))
        self._job[place, 0], self._job[place, 1] = prompt, np.arange(len(keys))
        self._key[place] = np.array(keys, dtype=np.uint64)
        self._prompt_length[place], self._written[place] = prompt_length, 0
        self.count += len(keys)

    def noise(self) -> Tensor:
        return torch.from_numpy(uniforms(self._key[: self.count], self._written[: self.count]))

    def write(self, tokens: Tensor, logps: Tensor) -> None:
        rows = torch.arange(self.count, device=tokens.device)
        at = torch.from_numpy(self._written[: self.count]).to(tokens.device)
        self._tokens[rows, at], self._logps[rows, at] = tokens, logps
        self._written[: self.count] += 1

    def full(self) -> np.ndarray:
        return self._written[: self.count] >= self._tokens.shape[1]

    def lengths(self) -> np.ndarray:
        """Tokens of each live sequence, prompt and last token included."""
        return self._prompt_length[: self.count] + self._written[: self.count]

    def leave(self, done: np.ndarray, ended: np.ndarray) -> dict[tuple[int, int], tuple[list[int], list[float], Stop]]:
        left: dict[tuple[int, int], tuple[list[int], list[float], Stop]] = {}
        for i in done.nonzero()[0].tolist():
            prompt, number = self._job[i].tolist()
            written = int(self._written[i])
            stop: Stop = "end" if ended[i] else "length"
            left[prompt, number] = self._tokens[i, :written].tolist(), self._logps[i, :written].tolist(), stop
        holes, movers = moves(done)
        for state in (self._job, self._key, self._prompt_length, self._written):
            state[holes] = state[movers]
        for buffer in (self._tokens, self._logps):
            buffer[holes] = buffer[movers]
        self.count -= int(done.sum())
        return left


def moves(done: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which sequences from the end fill the holes that finished ones leave in front."""
    remaining = len(done) - int(done.sum())
    return done[:remaining].nonzero()[0], (~done[remaining:]).nonzero()[0] + remaining


class Decoder(Protocol):
    """States for the next token of every live sequence."""

    def read(self, prompts: list[Sequence[int]], n: int, first: int) -> Tensor:
        """Read prompts into slots from `first` on, n slots each: [len(prompts) * n, D]."""
        ...

    def step(self, tokens: Tensor, lengths: np.ndarray) -> Tensor:
        """Append one token to every live sequence, now of these lengths: [A] -> [A, D]."""
        ...

    def compact(self, done: np.ndarray) -> Tensor:
        """Drop finished sequences and close the holes; the order in which the rest now stand."""
        ...


def _decoder(trunk: Trunk, slots: int, width: int) -> Decoder:
    return Cached(trunk, slots, width) if trunk.packed else Recomputed(trunk, slots, width)


@dataclass
class _Write:
    """Packed tokens `source` go to (slot, column) of the cache."""

    source: Tensor
    slot: Tensor
    column: Tensor


class Cached:
    """Keys and values of every slot, preallocated: [S, H_kv, width, D] a layer."""

    def __init__(self, trunk: Trunk, slots: int, width: int) -> None:
        self._trunk = trunk
        self._shape = (slots, width)
        self._store: dict[int, tuple[Tensor, Tensor]] = {}

    def read(self, prompts: list[Sequence[int]], n: int, first: int) -> Tensor:
        device = self._trunk.module.device
        lengths = torch.tensor([len(p) for p in prompts])
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        tokens = torch.zeros(real.shape, dtype=torch.long)
        tokens[real] = torch.tensor([t for p in prompts for t in p])
        tokens, real = tokens.to(device), real.to(device)
        layout = Layout.of(tokens, real, torch.zeros_like(real), share=False)
        row, column = real.nonzero().unbind(1)
        copy = torch.arange(n, device=device)[:, None]
        write = _Write(layout.index[row, column].repeat(n), (first + row * n + copy).flatten(), column.repeat(n))
        states = self._trunk.encode_packed(layout.tokens, layout.positions, _Reading(self, layout, write))
        last = layout.index.gather(1, lengths[:, None].to(device) - 1)[:, 0]
        return states[last].repeat_interleave(n, 0)

    def step(self, tokens: Tensor, lengths: np.ndarray) -> Tensor:
        at = torch.from_numpy(lengths - 1).to(tokens.device)
        return self._trunk.encode_packed(tokens, at, _Stepping(self, at, int(lengths.max())))

    def compact(self, done: np.ndarray) -> Tensor:
        holes, movers = (torch.from_numpy(x) for x in moves(done))
        for pair in self._store.values():
            for cache in pair:
                cache[holes] = cache[movers]
        order = torch.arange(len(done) - int(done.sum()))
        order[holes] = movers
        return order

    def write(self, layer: int, key: Tensor, value: Tensor, write: _Write) -> tuple[Tensor, Tensor]:
        if layer not in self._store:
            slots, width = self._shape
            shape = (slots, key.shape[1], width)
            # Zeros, not empty: what lies beyond a sequence's end is multiplied by zero, and NaN times zero is NaN.
            self._store[layer] = key.new_zeros(*shape, key.shape[3]), value.new_zeros(*shape, value.shape[3])
        keys, values = self._store[layer]
        keys[write.slot, :, write.column] = key[0].transpose(0, 1)[write.source]
        values[write.slot, :, write.column] = value[0].transpose(0, 1)[write.source]
        return keys, values


@dataclass
class _Reading:
    """Attention while prompts are read: packed, and written to the slots of every sample."""

    cache: Cached
    layout: Layout
    to: _Write

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        self.cache.write(layer, key, value, self.to)
        return self.layout.attend(layer, query, key, value, options)


class _Stepping:
    """Attention of one new token a sequence over its slot."""

    def __init__(self, cache: Cached, at: Tensor, width: int) -> None:
        rows = torch.arange(len(at), device=at.device)
        self._cache, self._width = cache, width
        self._to = _Write(rows, rows, at)
        self._distance = (at[:, None] - torch.arange(width, device=at.device))[:, None, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        stored = self._cache.write(layer, key, value, self._to)
        keys, values = (x[: query.shape[2], :, : self._width] for x in stored)
        mask = self._distance >= 0
        if options.window is not None and options.window < self._width:
            mask = mask & (self._distance < options.window)
        # Query heads that share a key head stand as rows of one block: [A, H_kv, H / H_kv, D].
        grouped = query[0].transpose(0, 1).unflatten(1, (keys.shape[1], -1))
        return attend_block(grouped, keys, values, mask, options).flatten(1, 2)[None]


class Recomputed:
    """For models that cannot attend through our cache (state-space layers): all tokens again at every step."""

    def __init__(self, trunk: Trunk, slots: int, width: int) -> None:
        self._trunk = trunk
        self._tokens = torch.zeros(slots, width, dtype=torch.long, device=trunk.module.device)

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
