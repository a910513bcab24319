"""What a method would see of examples: their tokens, which of them are learnt, and what happens to them on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from clew.data.chat import Codec, Encoded, TooLong
from clew.data.example import Example


@dataclass
class Look:
    rows: list[Encoded] = field(default_factory=list[Encoded])
    odd: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """What went wrong or was cut -> the places of the examples."""


def look(examples: Sequence[Example], codec: Codec, *, prompts_only: bool) -> Look:
    """Every example as training encodes it; `prompts_only` as sampling does."""
    found = Look()
    for place, example in enumerate(examples):
        try:
            rows = _prompt(example, codec) if prompts_only or not example.answers else codec.encode(example)
        except ValueError as error:
            found.odd.setdefault(_reason(error, codec), []).append(place)
            continue
        if not rows:
            found.odd.setdefault("rows dropped (too long)", []).append(place)
        for row in rows or []:
            found.rows.append(row)
            if any(row.mask) and not stops_are_learnt(row, codec.stops()):
                found.odd.setdefault(UNSUPERVISED, []).append(place)
    return found


UNSUPERVISED = "answers with a stop token that is not learnt, or with none"


def stops_are_learnt(row: Encoded, stops: set[int]) -> bool:
    """Whether every stretch of learnt tokens ends with a stop token that is learnt."""
    ends = [i for i, (here, after) in enumerate(pairwise([*row.mask, False])) if here and not after]
    return all(row.tokens[end] in stops for end in ends)


def _prompt(example: Example, codec: Codec) -> list[Encoded]:
    prompt = codec.prompt(example, 0)
    return [] if prompt is None else [Encoded(list(prompt.tokens), [False] * len(prompt.tokens), True)]


def _reason(error: ValueError, codec: Codec) -> str:
    """The error in words that are the same for every row."""
    if isinstance(error, TooLong):
        return "rows longer than max_length"
    says = str(error)
    if "twice in a row" in says:
        is_bos = f"token {codec.tokenizer.bos_token_id} stands" in says
        return f"rows with an adjacent repeated {'BOS' if is_bos else 'stop token'} (text and tokenizer both bring it)"
    return says.partition(": ")[2] if says.startswith("row ") else says
