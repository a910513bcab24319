"""Q and V heads on a language model's hidden states: two Q heads, their slow targets, and V."""

import copy
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clew.models.heads import token_stats

FILE = "q_heads.safetensors"


class QHead(nn.Module):
    """One hidden layer, and a number for each of `num` tokens; it begins with zeros, preferring nothing."""

    def __init__(self, size: int, width: int, num: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, width)
        self.out = nn.Linear(width, num)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def features(self, states: Tensor) -> Tensor:
        """[S, D] -> [S, W]"""
        return self.hidden(states.to(self.hidden.weight.dtype)).relu()

    def forward(self, states: Tensor) -> Tensor:
        """[S, D] -> [S, num]"""
        return self.out(self.features(states))

    def of(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Of one token each, [S, W] and [S] -> [S], without the numbers of all others."""
        return (features * F.embedding(tokens, self.out.weight)).sum(1) + self.out.bias[tokens]


class QHeads(nn.Module):
    """What ILQL learns beside the language model. `target` never learns: it follows `q` (`reference.follow`).

    Example: `QHeads(size=64, vocab=512, width=128, seed=0)`
    """

    def __init__(self, size: int, vocab: int, width: int, *, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.q = nn.ModuleList([QHead(size, width, vocab) for _ in range(2)])
            self.v = QHead(size, width, 1)
        self.target = copy.deepcopy(self.q).requires_grad_(False)

    def of(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both heads' Q(s, token) and log softmax(Q)(token), [S, 2] each, and the smaller target's Q(s, token) [S].

        All numbers of the vocabulary are there chunk by chunk only, for the softmax.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for head in self.q:
            assert isinstance(head, QHead)
            features = head.features(states)
            found.append((head.of(features, tokens), token_stats(head.out, features, tokens)[0]))
        q, q_logps = (torch.stack(pair, 1) for pair in zip(*found, strict=True))
        with torch.no_grad():
            slow = [head.of(head.features(states), tokens) for head in self.target if isinstance(head, QHead)]
        return q, q_logps, torch.stack(slow).amin(0)

    def values(self, states: Tensor) -> Tensor:
        """V(s): [S, D] -> [S]."""
        return self.v(states)[:, 0]

    def smaller_target(self, states: Tensor) -> Tensor:
        """What is decoded by: the smaller of the targets' Q of every token, [S, D] -> [S, V]."""
        first, second = self.target
        return torch.minimum(first(states), second(states))

    def save(self, folder: Path, about: str) -> None:
        """Beside the model; `about` says how to decode by them."""
        tensors = {name: x.detach().contiguous() for name, x in self.state_dict().items()}
        save_file(tensors, folder / FILE, metadata={"decode": about})

    def load(self, folder: Path) -> None:
        self.load_state_dict(load_file(folder / FILE))

    @classmethod
    def saved(cls, folder: Path) -> tuple[Self, str]:
        """From a folder that has them, with what is said about decoding."""
        with safe_open(folder / FILE, framework="pt") as file:
            width, size = file.get_slice("q.0.hidden.weight").get_shape()
            vocab, _ = file.get_slice("q.0.out.weight").get_shape()
            about = file.metadata()["decode"]
        heads = cls(size, vocab, width, seed=0)
        heads.load(folder)
        return heads, about
