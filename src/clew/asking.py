"""Which of many answers to ask about: what a reward model knows of them, and the pairs that would teach it most."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from clew.data.chat import Codec
from clew.data.collate import collate
from clew.data.example import Example
from clew.feedback.active import MEMBERS, Ints, Posterior, around, thompson
from clew.feedback.aggregate import Outcome
from clew.feedback.records import Item, ItemId
from clew.models.reward import ScalarModel
from clew.types import Message

Floats = NDArray[np.float64]
Features = dict[ItemId, Floats]
Pair = tuple[Item, Item]
Select = Callable[[Floats, Posterior, int, np.random.Generator], Ints]


def all_pairs(groups: Sequence[Sequence[Item]]) -> list[Pair]:
    """Of the answers to each prompt, every two."""
    return [pair for group in groups for pair in combinations(group, 2)]


def drawn_pairs(
    groups: Sequence[Sequence[Item]], known: Posterior, features: Features, rng: np.random.Generator
) -> list[Pair]:
    """Of the answers to each prompt two that may be the best: double Thompson sampling."""
    found: list[Pair] = []
    for group in groups:
        if len(group) > 1:
            values_MK = known.drawn(MEMBERS, rng) @ np.array([features[item.id] for item in group]).T
            first, second = thompson(values_MK, rng)
            found.append((group[first], group[second]))
    return found


def most_telling(
    pairs: Sequence[Pair], known: Posterior, features: Features, select: Select, num: int, rng: np.random.Generator
) -> list[Pair]:
    """At most `num` of the pairs, those first that a selection takes first, the one shown first drawn at random."""
    gaps = np.array([features[a.id] - features[b.id] for a, b in pairs]).reshape(len(pairs), len(known.mean_D))
    chosen = select(gaps, known, min(num, len(pairs)), rng)
    return [pairs[i] if rng.random() < 0.5 else pairs[i][::-1] for i in chosen.tolist()]


@torch.no_grad()
def answer_features(model: ScalarModel, codec: Codec, items: Sequence[Item], *, max_tokens: int) -> Features:
    """What the model's head reads of each answer, [D]; answers that the encoding drops are left out."""
    encoded = [(item.id, codec.encode(_example(item))) for item in items]
    rows = [(key, found[-1]) for key, found in encoded if found]
    if not rows:
        return {}
    batch = collate([[row] for _, row in rows])
    hidden = torch.cat([model.features(micro).float().cpu() for micro in batch.split(max_tokens)])
    return dict(zip((key for key, _ in rows), hidden.double().numpy(), strict=True))


def _example(item: Item) -> Example:
    is_text = isinstance(item.prompt, str)
    said = item.completion if is_text else (Message("assistant", item.completion),)
    return Example("", item.prompt, (said,), cut=(0,) if item.cut else ())


def known_of(model: ScalarModel, answered: Sequence[Outcome], features: Mapping[ItemId, Floats]) -> Posterior:
    """The head's weights, as sure as the answers to these pairs make them: the last layer's Laplace approximation.

    Before any answer they are as large as the head's own weights, in every direction.
    """
    weights = model.head.weight[0].detach().cpu().double().numpy()
    there = [o for o in answered if o.first in features and o.second in features]
    gaps = np.array([features[o.first] - features[o.second] for o in there]).reshape(-1, len(weights))
    prior = len(weights) / max(float(weights @ weights), 1e-9)
    return around(weights, gaps, weight_N=np.array([o.weight for o in there]), prior=prior)
