"""Which answers are compared: pairs of a ranking, and the mismatched ones that KTO compares with."""

from collections.abc import Sequence
from itertools import combinations

from clew.data.chat import Encoded, Item


def pairs_of(items: list[Item]) -> list[Item]:
    """Every two different answers of which one ranks better."""
    return [
        (example, [rows[i], rows[j]])
        for example, rows in items
        for i, j in combinations(range(len(example.ranks)), 2)
        if example.ranks[i] < example.ranks[j] and rows[i].tokens != rows[j].tokens
    ]


def mismatched(rows: Sequence[Encoded], *, max_length: int) -> list[Encoded]:
    """Each row's prompt with the answer of the row before, cut to `max_length` tokens: what KTO compares with."""
    found: list[Encoded] = []
    for row, other in zip(rows, [rows[-1], *rows[:-1]], strict=True):
        prompt, answer = row.mask.index(True), other.mask.index(True)
        tokens, mask = row.tokens[:prompt] + other.tokens[answer:], [False] * prompt + other.mask[answer:]
        found.append(Encoded(tokens[:max_length], mask[:max_length], len(tokens) <= max_length))
    return found
