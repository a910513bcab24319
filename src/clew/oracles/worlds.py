"""Enumerable worlds: all sequences over a few tokens, with tables in place of networks, in float64.

The tables answer `evaluate(batch)` as any model does, so losses, learner and recipes run on them unchanged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clew.batch import Batch, Outputs
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.engines.noise import stream_key, uniforms
from clew.losses.q import perturbed
from clew.types import Finished, Key, Prompt, Rollout, Sampling

EOS = 0
GREEDY = 1e-9
"""A temperature at which the most probable token takes all."""


@dataclass(frozen=True)
class Tree:
    """Sequences over `vocab` tokens that end at EOS (token 0) or, where `fixed` is False, at EOS or length `depth`.

    With depth 1 it is a bandit of `vocab` arms. With `fixed` every sequence has `depth` tokens and none stops early.
    """

    vocab: int
    depth: int
    fixed: bool = False

    @cached_property
    def sequences(self) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []

        def grow(prefix: tuple[int, ...]) -> None:
            if len(prefix) == self.depth or (prefix and prefix[-1] == EOS and not self.fixed):
                found.append(prefix)
                return
            for token in range(self.vocab):
                grow((*prefix, token))

        grow(())
        return found

    @property
    def start(self) -> int:
        """The prompt's only token."""
        return self.vocab

    @property
    def num_states(self) -> int:
        """Prefixes shorter than `depth`, also those behind EOS, which are never visited."""
        return sum(self.vocab**d for d in range(self.depth))

    @cached_property
    def index(self) -> Mapping[tuple[int, ...], int]:
        return {sequence: i for i, sequence in enumerate(self.sequences)}

    def rows(self, sequences: Iterable[Sequence[int]] | None = None) -> list[Encoded]:
        """Sequences behind the prompt, every token scored."""
        chosen = self.sequences if sequences is None else sequences
        return [Encoded([self.start, *s], [False] + [True] * len(s), True) for s in chosen]

    def states(self, batch: Batch) -> Tensor:
        """State [B, T] in which each token was chosen: the index of the prefix before it."""
        code = torch.zeros(batch.num_rows, dtype=torch.long)
        depth = torch.full((batch.num_rows,), -1)
        first = torch.tensor([sum(self.vocab**d for d in range(k)) for k in range(self.depth + 1)])
        states = torch.zeros_like(batch.tokens)
        for t in range(batch.tokens.shape[1]):
            here = batch.real[:, t]
            within = here & (depth >= 0) & (depth < self.depth)
            states[:, t] = torch.where(within, first[depth.clamp(0, self.depth)] + code, 0)
            code = torch.where(within, code * self.vocab + batch.tokens[:, t].clamp(max=self.vocab - 1), code)
            depth = depth + here
        return states


class TablePolicy(nn.Module):
    """One row of logits for every state."""

    def __init__(self, tree: Tree, logits: Tensor | None = None) -> None:
        super().__init__()
        self.tree = tree
        start = torch.zeros(tree.num_states, tree.vocab, dtype=torch.float64) if logits is None else logits.clone()
        self.logits = nn.Parameter(start)
        self.temperature = 1.0

    def evaluate(self, batch: Batch) -> Outputs:
        states = self.tree.states(batch)
        log_probs = (self.logits / self.temperature).log_softmax(1)[states]
        tokens = batch.tokens.clamp(max=self.tree.vocab - 1)
        logps = log_probs.gather(2, tokens[..., None])[..., 0] * batch.mask
        entropy = -(log_probs.exp() * log_probs).sum(2) * batch.mask
        return Outputs(logps=logps, entropy=entropy)

    def sequence_logps(self) -> Tensor:
        """log pi(y) of every sequence, exact and differentiable: [N]."""
        batch = collate([[row] for row in self.tree.rows()])
        logps = self.evaluate(batch).logps
        assert logps is not None
        return batch.per_row(logps)

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


class TableValue(nn.Module):
    """One value for every state."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        self.table = nn.Parameter(torch.zeros(tree.num_states, dtype=torch.float64))

    def evaluate(self, batch: Batch) -> Outputs:
        return Outputs(values=self.table[self.tree.states(batch)] * batch.mask)

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


class TableReward(nn.Module):
    """One score for every whole sequence."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        self.table = nn.Parameter(torch.zeros(len(tree.sequences), dtype=torch.float64))
        self.cuts: nn.Parameter | None = None
        self.raters: nn.Parameter | None = None
        self.rater_names: list[str] = []
        self.centre, self.scale = 0.0, 1.0

    def set_cuts(self, raw: Tensor) -> None:
        self.cuts = nn.Parameter(raw.double())

    def set_raters(self, names: Sequence[str], log_odds: Tensor) -> None:
        self.rater_names = list(names)
        self.raters = nn.Parameter(log_odds.double())

    def evaluate(self, batch: Batch) -> Outputs:
        found = [tuple(row[mask].tolist()) for row, mask in zip(batch.tokens, batch.mask, strict=True)]
        return Outputs(scores=self.table[torch.tensor([self.tree.index[s] for s in found])])

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


class TableQ(nn.Module):
    """A table of logits, two of Q with their targets, and one of V."""

    def __init__(self, tree: Tree, logits: Tensor | None = None) -> None:
        super().__init__()
        self.tree = tree
        self.policy = TablePolicy(tree, logits)
        self.q = Tables(tree)
        self.target = Tables(tree).requires_grad_(False)
        self.v = nn.Parameter(torch.zeros(tree.num_states, dtype=torch.float64))

    def evaluate(self, batch: Batch) -> Outputs:
        states, tokens = self.tree.states(batch), batch.tokens.clamp(max=self.tree.vocab - 1)
        said, mask = self.policy.evaluate(batch), batch.mask[..., None]
        q, q_logps, target = (
            x[..., states, :].gather(-1, tokens.expand(2, -1, -1)[..., None])[..., 0].movedim(0, -1) * mask
            for x in (self.q.table, self.q.table.log_softmax(-1), self.target.table)
        )
        values = self.v[states] * batch.mask
        return Outputs(said.logps, said.entropy, values, q=q, q_logps=q_logps, target_q=target.amin(-1))

    def decoded(self, *, beta: float, top_k: int | None = None) -> TablePolicy:
        logits = perturbed(self.policy.logits.detach(), self.target.table.amin(0), beta=beta, top_k=top_k)
        return TablePolicy(self.tree, logits)

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...


class Tables(nn.Module):
    """Two heads' numbers, [2, S, V]."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, tree.num_states, tree.vocab, dtype=torch.float64))


class TableEngine:
    """Samples from a table, token by token, with the same counter-based noise as the real engine.

    `drawn_at` is for showing what it costs when the engine draws, and records, at another temperature than training.
    """

    def __init__(self, policy: TablePolicy, *, drawn_at: float | None = None) -> None:
        self.policy = policy
        self.version = 0
        self.drawn_at = drawn_at

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling, key: Key, finished: Finished | None = None
    ) -> list[Rollout]:
        tree = self.policy.tree
        temperature = self.drawn_at or max(sampling.temperature, GREEDY)
        logps = (self.policy.logits / temperature).log_softmax(1)
        cumulative = logps.exp().cumsum(1).numpy()
        keys = np.array([stream_key(*key, p.id, j) for p in prompts for j in range(n)], dtype=np.uint64)
        state, offset = np.zeros(len(keys), dtype=np.int64), 0
        written: list[tuple[np.ndarray, np.ndarray]] = []
        for t in range(tree.depth):
            draw = uniforms(keys, np.full(len(keys), t))
            row = offset + state
            token = (cumulative[row] < (draw * cumulative[row, -1])[:, None]).sum(1)
            written.append((token, logps.numpy()[row, token]))
            offset, state = offset + tree.vocab**t, state * tree.vocab + token
        asked = [p for p in prompts for _ in range(n)]
        drawn = [self._rollout(p, [(int(w[0][i]), float(w[1][i])) for w in written]) for i, p in enumerate(asked)]
        if finished is not None:
            for place in range(len(prompts)):
                finished(place, drawn[n * place : n * (place + 1)])
        return drawn

    def _rollout(self, prompt: Prompt, written: list[tuple[int, float]]) -> Rollout:
        tokens = [token for token, _ in written]
        end = len(tokens) if self.policy.tree.fixed or EOS not in tokens else tokens.index(EOS) + 1
        start = len(prompt.tokens)
        return Rollout(
            prompt_id=prompt.id,
            tokens=[*prompt.tokens, *tokens[:end]],
            mask=[False] * start + [True] * end,
            logps=[0.0] * start + [logp for _, logp in written[:end]],
            stop="end" if self.policy.tree.fixed or EOS in tokens else "length",
            version=self.version,
            prompt=prompt.text,
            text=" ".join(map(str, tokens[:end])),
        )


def table_of(tree: Tree, target: Tensor) -> TablePolicy:
    """The table whose sequences have these log-probabilities [N]."""
    policy, batch = TablePolicy(tree), collate([[row] for row in tree.rows()])
    states, tokens = tree.states(batch), batch.tokens.clamp(max=tree.vocab - 1)
    mass = torch.zeros_like(policy.logits)
    for probability, state, token, mask in zip(target.exp(), states, tokens, batch.mask, strict=True):
        mass.index_put_((state[mask], token[mask]), probability, accumulate=True)
    policy.logits.data = torch.where(mass > 0, mass, 1.0).log()
    return policy


def total_variation(logp: Tensor, target: Tensor) -> float:
    """Half the L1 distance of two distributions, given as log-probabilities [N]."""
    return float((logp.detach().exp() - target.exp()).abs().sum() / 2)


def random_logits(tree: Tree, seed: int, scale: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(tree.num_states, tree.vocab, generator=generator, dtype=torch.float64)


def random_rewards(tree: Tree, seed: int) -> Tensor:
    """A reward for every sequence, [N], standard normal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(tree.sequences), generator=generator, dtype=torch.float64)
