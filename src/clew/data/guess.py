"""What columns of unknown names may be: a guess for people to confirm, never for reading."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

NAMES = {
    "chosen": "chosen good better best preferred accepted winner winning positive",
    "rejected": "rejected bad worse worst dispreferred loser losing negative",
    "prompt": "prompt question query instruction input request ask asked context q",
    "completion": "completion answer response reply output target solution a",
    "text": "text content body story document",
}
ENOUGH = (("chosen", "rejected"), ("prompt", "completion"), ("prompt",), ("text",))
"""What makes a format; the first that is found is guessed."""


def guessed(columns: Iterable[str]) -> dict[str, str]:
    """Name that clew knows -> column that may be it; empty where they make no format."""
    left, found = sorted(columns), dict[str, str]()
    for ours, words in NAMES.items():
        same = [c for c in left if c.lower() in words.split()] or [c for c in left if _means(c, words.split())]
        if len(same) == 1:
            found[ours] = same[0]
            left.remove(same[0])
    needed = next((names for names in ENOUGH if all(name in found for name in names)), ())
    return {ours: found[ours] for ours in dict.fromkeys(("prompt", *needed)) if needed and ours in found}


def advice(columns: Iterable[str], known: Sequence[tuple[str, ...]]) -> str:
    """What to do about columns of no known format: a ready-made option, or the formats that have most of them."""
    columns = set(columns)
    found = {ours: theirs for ours, theirs in guessed(columns).items() if ours != theirs}
    if found:
        options = " ".join(f"--column {ours}={theirs}" for ours, theirs in found.items())
        return f"try {options} (in YAML columns: {{{', '.join(f'{o}: {t}' for o, t in found.items())}}})"
    shares = {form: sum(c in columns for c in form) / len(form) for form in known}
    near = sorted((form for form in shares if shares[form]), key=lambda form: -shares[form])[:3]
    own = (("prompt", "completion"), ("prompt", "chosen", "rejected"), ("messages",), ("text",))
    expected = "; ".join(" + ".join(form) for form in near or own)
    return f"expected such as: {expected}; --column prompt=NAME says what a column is"


def _means(column: str, words: Sequence[str]) -> bool:
    parts = re.findall(r"[a-z]+", column.lower())
    return any(
        part in words or get_close_matches(part, [w for w in words if len(w) > 3], cutoff=0.88) for part in parts
    )
