"""Sampling in the policy's own process: a cache of slots that finished sequences leave and waiting prompts enter.

The loop is `generate`. A prompt is read once for all its samples; noise is counter-based, so a sequence does not
depend on its neighbours; admission depends on counts and never on time. Log-probabilities are those of a training
forward at the same temperature.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from clew.batch import evaluate
from clew.config import Config
from clew.data.collate import collate
from clew.engines.cache import make_decoder, moves
from clew.engines.mixture import Mixed, as_it_is
from clew.engines.noise import stream_key, uniforms
from clew.failure import memory_for
from clew.models.linears import bf16_linears
from clew.models.policy import Policy
from clew.models.trunk import Precision
from clew.types import Finished, Key, Prompt, Rollout, Sampling, Stop, Turn

MAX_TOKENS = 1 << 13
"""Tokens whose log-probabilities are computed at once."""
BLOCK = 64
"""Tokens whose probabilities are added up before one of them is looked for."""


class Tokenizer(Protocol):
    """What sampling needs of a tokenizer."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool) -> Any: ...


class Slots(Config):
    """How a recipe samples."""

    slots: int = Field(default=64, ge=1)
    """Sequences sampled at once."""
    linears: Precision = "fp32"
    """bf16: linear layers in half precision while sampling, for CPUs fast in it; log-probabilities stay exact."""


class Answer(NamedTuple):
    """What one sequence has written."""

    prompt: int  # its place
    number: int  # which of the prompt's samples
    tokens: list[int]
    logps: list[float]
    stop: Stop


class LocalEngine:
    """Samples from a policy with continuous batching.

    Example: `LocalEngine(policy).generate(prompts, n=4, sampling=Sampling(max_tokens=64), key=(seed, step))`
    """

    def __init__(
        self, policy: Policy, *, slots: int = 64, linears: Precision = "fp32", mixed: Mixed | None = None
    ) -> None:
        if policy.device.type == "mps":
            raise ValueError("sampling adds up probabilities in float64, which MPS does not have; set device: cpu")
        if mixed is not None and linears != "fp32":
            raise ValueError(f"linears: {linears} is made good for by one model's log-probabilities; mixed needs fp32")
        self.policy = policy
        self.mixed = mixed
        self.slots = slots
        self.linears = linears
        self.version = 0

    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, key: Key, finished: Finished | None = None
    ) -> list[Rollout]:
        """`n` rollouts a prompt, in the order of `prompts`, each ending with a stop token or cut by length.

        top_k and top_p change what is drawn, not the recorded log-probabilities. Raises ValueError when a prompt
        and its answer would not fit into the model's context.
        """
        self._check(prompts, sampling)
        if self.linears == "fp32":
            return self._generate(prompts, n, sampling, key, finished)
        with bf16_linears(self.policy.module):
            rollouts = self._generate(prompts, n, sampling, key, finished)
        return self._with_exact_logps(rollouts, sampling)

    @memory_for("sampling", advice="lower slots")
    @torch.no_grad()
    def _generate(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, key: Key, finished: Finished | None
    ) -> list[Rollout]:
        slots = max(n, min(self.slots, n * len(prompts)))
        longest = max(len(p.tokens) for p in prompts)
        make = partial(make_decoder, slots=slots, n=n, longest_prompt=longest, max_tokens=sampling.max_tokens)
        if self.mixed is None:
            decoder, head = make(self.policy.trunk), self.policy.head
        else:
            decoder, head = self.mixed.decoder(self.policy, make), as_it_is
        waiting = deque(sorted(range(len(prompts)), key=lambda p: -len(prompts[p].tokens)))
        live = Live(slots, sampling.max_tokens, self.policy.device)
        stops = torch.tensor(sorted(self.policy.stop_ids), device=self.policy.device)
        first = [n * earlier for earlier in _occurrences(prompts)]  # a prompt that comes again goes on counting samples
        groups: list[dict[int, Rollout]] = [{} for _ in prompts]
        states: list[Tensor] = []
        while waiting or live.count:
            free = slots - live.count
            if waiting and free >= n and (free >= slots // 4 or live.count == 0) and (room := decoder.room()):
                entering = [waiting.popleft() for _ in range(min(free // n, len(waiting), room))]
                states.append(decoder.read([prompts[p].tokens for p in entering], n, live.count))
                for p in entering:
                    keys = [stream_key(*key, prompts[p].id, j) for j in range(first[p], first[p] + n)]
                    live.enter(p, len(prompts[p].tokens), keys)
            tokens, logps = sample(head(torch.cat(states)).float(), live.noise(), sampling)
            live.write(tokens, logps)
            ended = torch.isin(tokens, stops).cpu().numpy()
            done = ended | live.full()
            if done.any():
                for answer in live.leave(done, ended):
                    p = answer.prompt
                    groups[p][answer.number] = self._rollout(prompts[p], answer)
                    if finished is not None and len(groups[p]) == n:
                        finished(p, [groups[p][j] for j in range(n)])
                tokens = tokens[decoder.compact(done)]
            states = [decoder.step(tokens, live.lengths())] if live.count else []
        return [group[j] for group in groups for j in range(n)]

    def _with_exact_logps(self, rollouts: list[Rollout], sampling: Sampling) -> list[Rollout]:
        """Log-probabilities computed anew, in full precision: tokens drawn in a lower one are off-policy by a hair."""
        exact = self.policy.at(sampling.temperature or 1.0)
        logps = evaluate(exact, collate([[rollout] for rollout in rollouts]), max_tokens=MAX_TOKENS).logps
        assert logps is not None
        return [
            replace(rollout, logps=row[: len(rollout.tokens)])
            for rollout, row in zip(rollouts, logps.tolist(), strict=True)
        ]

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

    def _rollout(self, prompt: Prompt, answer: Answer) -> Rollout:
        start, end = len(prompt.tokens), len(prompt.tokens) + len(answer.tokens)
        return Rollout(
            prompt_id=prompt.id,
            tokens=[*prompt.tokens, *answer.tokens],
            mask=[False] * start + [True] * len(answer.tokens),
            logps=[0.0] * start + answer.logps,
            stop=answer.stop,
            version=self.version,
            prompt=prompt.text,
            text=text_after(list(prompt.tokens), answer.tokens, self.policy.tokenizer),
            info=prompt.info,
            turns=(Turn("assistant", start, end),),
        )


def text_after(prompt: list[int], answer: list[int], tokenizer: Tokenizer) -> str:
    """What the answer adds to the prompt's text; decoded together, since decoders trim what begins a text."""
    whole, start = (tokenizer.decode(x, skip_special_tokens=True) for x in (prompt + answer, prompt))
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
    probs = (logits if temperature == 1.0 else logits / temperature).softmax(1)
    tokens = probs.argmax(1) if sampling.temperature == 0 else invert(_truncated(probs, sampling), noise)
    return tokens, probs.gather(1, tokens[:, None])[:, 0].log()


def invert(weights: Tensor, noise: Tensor) -> Tensor:
    """The place [A] that has a share `noise` [A] of each row's weights before it: first its block, then within."""
    blocks = F.pad(weights, (0, -weights.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    cumulative = blocks.sum(2).double().cumsum(1)
    drawn = noise.to(weights.device)[:, None] * cumulative[:, -1:]
    block = _first_beyond(cumulative, drawn)
    before = F.pad(cumulative, (1, 0)).gather(1, block)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].double().cumsum(1)
    return (block * BLOCK + _first_beyond(inside, drawn - before))[:, 0]


def _first_beyond(cumulative: Tensor, drawn: Tensor) -> Tensor:
    """First place [A, 1] whose sum exceeds `drawn`: one of weight above zero, also where rounding drew too much."""
    below = torch.minimum(drawn, cumulative[:, -1:] * (1 - 1e-12))
    return torch.searchsorted(cumulative, below, right=True)


def _truncated(probs: Tensor, sampling: Sampling) -> Tensor:
    if sampling.top_k is not None and sampling.top_k < probs.shape[1]:
        kept = probs.topk(sampling.top_k, dim=1).values[:, -1:]
        probs = probs.masked_fill(probs < kept, 0.0)
    if sampling.top_p < 1.0:
        ordered, places = probs.sort(dim=1, descending=True)
        beyond = ordered.cumsum(1) - ordered >= sampling.top_p * ordered.sum(1, keepdim=True)
        beyond[:, 0] = False
        probs = probs.masked_fill(torch.zeros_like(beyond).scatter(1, places, beyond), 0.0)
    return probs


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

    def leave(self, done: np.ndarray, ended: np.ndarray) -> list[Answer]:
        left: list[Answer] = []
        for i in done.nonzero()[0].tolist():
            prompt, number = self._job[i].tolist()
            written = int(self._written[i])
            stop: Stop = "end" if ended[i] else "length"
            left.append(
                Answer(prompt, number, self._tokens[i, :written].tolist(), self._logps[i, :written].tolist(), stop)
            )
        holes, movers = moves(done)
        for state in (self._job, self._key, self._prompt_length, self._written):
            state[holes] = state[movers]
        for buffer in (self._tokens, self._logps):
            buffer[holes] = buffer[movers]
        self.count -= int(done.sum())
        return left
