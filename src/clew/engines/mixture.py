"""One sequence from two models at once: both read it and write it, and their next-token logits are mixed."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from clew.engines.cache import Decoder
from clew.losses.nash import geometric_mixture
from clew.models.policy import Policy
from clew.models.trunk import Trunk


class Mixed:
    """What a policy is mixed with while it is sampled: `weight` of another model's logits, the rest its own.

    Example: `LocalEngine(policy, mixed=Mixed(reference, 0.125))`
    """

    def __init__(self, other: Policy, weight: float) -> None:
        self.other = other
        self.weight = weight

    def decoder(self, policy: Policy, make: Callable[[Trunk], Decoder]) -> Decoder:
        """It gives mixed logits [A, V] where others give states."""
        return _SideBySide(make(policy.trunk), make(self.other.trunk), self._logits(policy))

    def _logits(self, policy: Policy) -> Callable[[Tensor, Tensor], Tensor]:
        def mix(ours: Tensor, theirs: Tensor) -> Tensor:
            both = policy.head(ours).float(), self.other.head(theirs).float()
            known = min(logits.shape[1] for logits in both)  # columns that only one has are no tokens of the tokenizer
            return geometric_mixture(*(logits[:, :known] for logits in both), beta=self.weight)

        return mix


class _SideBySide:
    """Two decoders of the same sequences, in the same slots."""

    def __init__(self, first: Decoder, second: Decoder, mix: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._both = first, second
        self._mix = mix

    def room(self) -> int:
        return min(decoder.room() for decoder in self._both)

    def read(self, prompts: list[Sequence[int]], n: int, first: int) -> Tensor:
        return self._mix(*(decoder.read(prompts, n, first) for decoder in self._both))

    def step(self, tokens: Tensor, lengths: np.ndarray) -> Tensor:
        return self._mix(*(decoder.step(tokens, lengths) for decoder in self._both))

    def compact(self, done: np.ndarray) -> Tensor:
        order, _ = (decoder.compact(done) for decoder in self._both)
        return order


def as_it_is(logits: Tensor) -> Tensor:
    """The head of what is logits already."""
    return logits
