"""Which of many sampled answers are kept: filters by reward, and what makes two answers the same.

A filter is called as f(candidates, **options) and says of each whether it is kept, a key as f(text, **options), equal
for answers that are one. What is kept depends on what the candidates are, never on their order.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clew.engines.noise import stream_key, uniforms

TIE = 1 << 40
"""Place in a rollout's stream of noise that no token reaches."""


class Candidates(NamedTuple):
    """Answers with their rewards.

    Example: `Candidates(["p7", "p7"], ["Lovely.", "Awful."], array([0.8, -0.3]), array([0.11, 0.62]))`
    """

    prompts: Sequence[str]  # [N] ids
    texts: Sequence[str]  # [N]
    rewards: NDArray[np.float64]  # [N]
    ties: NDArray[np.float64]  # [N] uniform in [0, 1), one for each answer: of equal rewards the higher goes first

    def best_first(self) -> list[int]:
        """Places in order."""
        keys = list(zip(self.rewards.tolist(), self.ties.tolist(), self.texts, self.prompts, strict=True))
        return sorted(range(len(keys)), key=keys.__getitem__, reverse=True)


Filter = Callable[[Candidates], Sequence[bool] | NDArray[np.bool_]]
Same = Callable[[str], Hashable]


def best(candidates: Candidates, *, num: int = 1) -> NDArray[np.bool_]:
    """The best of every prompt: best-of-n; RAFT (arXiv 2304.06767), Llama 2 (2307.09288, sec. 3.2.3)."""
    return _first(candidates, candidates.prompts, num)


def at_least(candidates: Candidates, *, value: float = 1.0) -> NDArray[np.bool_]:
    """All of so high a reward; by default what a checker calls correct (ReST-EM, 2312.06585; RFT, 2308.01825)."""
    return candidates.rewards >= value


def top_share(candidates: Candidates, *, share: float = 0.1) -> NDArray[np.bool_]:
    """The best share of all answers together: prompts compete, and easy ones win. At least one is kept."""
    return _first(candidates, [""] * len(candidates.texts), math.ceil(share * len(candidates.texts)))


def exact(text: str) -> Hashable:
    """Character by character."""
    return text


def normalised(text: str) -> Hashable:
    """But for case, white space and the forms that Unicode has of one character (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def selected(candidates: Candidates, keep: Filter, same: Same | None = None, most: int | None = None) -> list[int]:
    """Places of what is kept: what the filter keeps, of each prompt's equal answers the best, at most so many a prompt.

    Raises ValueError for a filter that does not say yes or no of each.
    """
    said = np.asarray(keep(candidates))
    if said.shape != (len(candidates.texts),) or said.dtype != bool:
        raise ValueError(
            f"a filter says True or False of each candidate; of {len(candidates.texts)} this one said {said!r:.80}"
        )
    if same is not None:
        answers = zip(candidates.prompts, candidates.texts, said, strict=True)
        said = _first(
            candidates, [(prompt, same(text)) if is_kept else None for prompt, text, is_kept in answers], 1, said
        )
    if most is not None:
        said = _first(candidates, candidates.prompts, most, said)
    return np.flatnonzero(said).tolist()


def candidates_of(records: Sequence[Mapping[str, Any]]) -> Candidates:
    """Of journal records that all have a reward, and a tie-breaker."""
    return Candidates(
        [r["rollout"]["prompt_id"] for r in records],
        [r["rollout"]["text"] for r in records],
        np.array([r["score"]["value"] for r in records], dtype=float),
        np.array([r["tie"] for r in records], dtype=float),
    )


def tie_breakers(seed: int, step: int, prompts: Sequence[str], num: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each of `num` answers of every prompt, of its own whatever else was sampled: [P * num].

    Of the answer, not of its text: of equal rewards each answer is as likely to be the first, so that the best of n
    shares a tie as the policy does.
    """
    keys = np.array([stream_key(seed, step, p, i) for p in prompts for i in range(num)], dtype=np.uint64)
    return uniforms(keys, np.full(len(keys), TIE))


def _first(
    candidates: Candidates, groups: Sequence[Hashable], num: int, among: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """The `num` best of every group."""
    seen, kept = Counter[Hashable](), np.zeros(len(groups), dtype=bool)
    for place in candidates.best_first():
        if among is None or among[place]:
            kept[place] = seen[groups[place]] < num
            seen[groups[place]] += 1
    return kept


FILTERS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (best, at_least, top_share)}
KEYS: dict[str, Callable[..., Hashable]] = {f.__name__: f for f in (exact, normalised)}
