"""A reward that costs nothing, the same for every side."""

from typing import Any


def vowels(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Share of the characters that are a, e, i, o or u."""
    return [sum(character in "aeiou" for character in text) / max(len(text), 1) for text in completions]
