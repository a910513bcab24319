"""Which answers are compared: pairs of a ranking, both in one row, and the mismatched ones that KTO compares with."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from clew.data.chat import Encoded, Item
from clew.data.collate import TokenRow


def pairs_of(items: list[Item]) -> list[Item]:
    """Every two different answers of which one ranks better."""
    return [
        (example, [rows[i], rows[j]])
        for example, rows in items
        for i, j in combinations(range(len(example.ranks)), 2)
        if example.ranks[i] < example.ranks[j] and rows[i].tokens != rows[j].tokens
    ]


def one_after_another(first: TokenRow, second: TokenRow, *, stop: int) -> Encoded:
    """Two answers to a prompt in one row, the second one scored; `stop` ends the first where it was cut.

    What a preference model says of it is how well the second answer does against the first.
    """
    own = list(second.mask).index(True)
    before = list(first.tokens) + ([] if first.tokens[-1] == stop else [stop])
    tokens = before + list(second.tokens[own:])
    mask = [False] * len(before) + list(second.mask[own:])
    return Encoded(tokens, mask, second.tokens[-1] == stop)


def against_each_other(items: list[Item], *, stop: int) -> list[Item]:
    """Pairs as a preference model learns from them: the better answer after the worse one, and the other way round.

    A loss of pairs on the scores of these two rows is one of a preference: the difference is log-odds that turn their
    sign with the order.
    """
    return [
        (
            replace(example, ranks=(0, 1)),
            [one_after_another(*pair, stop=stop) for pair in ((worse, better), (better, worse))],
        )
        for example, (better, worse) in pairs_of(items)
    ]


def mismatched(rows: Sequence[Encoded], *, max_length: int) -> list[Encoded]:
    """Each row's prompt with the answer of the row before, cut to `max_length` tokens: what KTO compares with."""
    found: list[Encoded] = []
    for row, other in zip(rows, [rows[-1], *rows[:-1]], strict=True):
        prompt, answer = row.mask.index(True), other.mask.index(True)
        tokens, mask = row.tokens[:prompt] + other.tokens[answer:], [False] * prompt + other.mask[answer:]
        found.append(Encoded(tokens[:max_length], mask[:max_length], len(tokens) <= max_length))
    return found
