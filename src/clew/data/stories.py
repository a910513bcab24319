"""Stories and their endings: a task on real text, and a reader with a taste as its gold reward.

A row asks for the ending of a story: the prompt is what happened, the completion its last sentences. The reader
likes endings that are happy, in which somebody speaks, that are finished and do not repeat themselves; it reads
sentence by sentence, so that "she was not sad" is no grief, and the last sentence counts twice.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

JOY = frozenset(
    "happy happily smiled smile smiling laughed laugh hugged hug glad proud joy fun safe love loved friend friends "
    "thanked kind excited together played delicious better surprise cheered danced share shared grateful".split()
)
GRIEF = frozenset(
    "sad cried cry crying scared angry mad hurt lost alone afraid died broke broken bad mean upset worried sick lonely "
    "dark tired sorry".split()
)
NOT = frozenset("not no never didn't don't wasn't couldn't isn't".split())
SPEECH = re.compile(r'"[^"]{2,}[.!?,]"')
SENTENCE = re.compile(r'[^.!?]+[.!?]+"?')


def read_stories(path: str) -> list[str]:
    """Stories of a TinyStories text file: one a line, blank lines between paragraphs of one story."""
    text = Path(path).read_text(encoding="utf-8")
    found = (re.sub(r"\s+", " ", story).strip() for story in re.split(r"(?<!\n)\n(?!\n)", text))
    return [story for story in found if len(story) > 200]


def endings(
    *, path: str, start: int, num: int, sentences: int = 3, before: int = 240, after: int = 170
) -> Iterator[dict[str, str]]:
    """Rows from story `start` on: up to `before` characters of what happened, then the last `sentences`.

    Stories whose ending is longer than `after` characters are skipped.
    """
    made = 0
    for story in read_stories(path)[start:]:
        parts = [part.strip() for part in SENTENCE.findall(story)]
        prompt, ending = parts[:-sentences], " ".join(parts[-sentences:])
        while prompt and len(" ".join(prompt)) > before:
            prompt = prompt[1:]
        if prompt and 40 < len(ending) <= after:
            yield {"prompt": " ".join(prompt), "completion": f" {ending}"}
            made += 1
            if made == num:
                return
    raise ValueError(f"{path} has only {made} usable stories from number {start} on; asked for {num}")


def happy_ending(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """What the reader thinks of endings, in [-2, 2]."""
    return [_taste(completion) for completion in completions]


def gentle(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """What a careful reader thinks, who wants no word of grief, denied or not, and nobody to shout: in [-2, 1]."""
    found: list[float] = []
    for completion in completions:
        words = re.findall(r"[a-z']+", completion.lower())
        found.append(max(-2.0, 1.0 - sum(word in GRIEF for word in words) - 0.5 * completion.count("!")))
    return found


def happier(
    prompts: Sequence[str], completions: Sequence[str], opponents: Sequence[str], *, sharpness: float = 3.0
) -> list[float]:
    """P(the reader prefers an ending to its opponent): a logistic of the difference."""
    gaps = [_taste(a) - _taste(b) for a, b in zip(completions, opponents, strict=True)]
    return [1 / (1 + math.exp(-sharpness * gap)) for gap in gaps]


def _taste(ending: str) -> float:
    lines = [line.strip() for line in SENTENCE.findall(ending)]
    if not lines:
        return -2.0
    tones = [_tone(line) for line in lines]
    mood = float(np.average(tones, weights=[1.0] * (len(tones) - 1) + [2.0]))
    finished = ending.strip().endswith((".", "!", "?", '"')) and len(lines) >= 2
    speaks = bool(SPEECH.search(ending))
    return mood + 0.5 * speaks + 0.5 * finished - 2.0 * _echo(ending)


def _tone(line: str) -> float:
    """Joy against grief in one sentence, in [-1, 1]; a negation within three words before turns a word round."""
    words = re.findall(r"[a-z']+", line.lower())
    total = 0
    for i, word in enumerate(words):
        sign = (word in JOY) - (word in GRIEF)
        total += -sign if NOT.intersection(words[max(0, i - 3) : i]) else sign
    return float(np.clip(total, -1, 1))


def _echo(ending: str) -> float:
    """Share of word triples that stood earlier in the ending."""
    words = re.findall(r"[a-z']+", ending.lower())
    triples = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(triples)) / len(triples) if triples else 0.0
