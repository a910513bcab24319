"""A small language of its own: a guest book in which guests are asked about a place and answer in a few sentences.

The text is generated here, so the whole loop runs offline, and the worth of an answer is known: `gold` reads it with
the same grammar. What makes an answer good is pleasant sentences about the place that was asked for; rambling,
repetition, changing the subject and broken sentences are not. It is not a sum over words: "not bad" is praise,
praise of another place is worth nothing, and what is said twice counts once against.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

PLACES = {
    "soup": ("broth", "bowl", "spice"),
    "room": ("bed", "window", "carpet"),
    "film": ("plot", "actor", "ending"),
    "museum": ("gallery", "guide", "ticket"),
    "garden": ("rose", "path", "fountain"),
    "concert": ("singer", "drum", "stage"),
    "bakery": ("bread", "cake", "oven"),
    "hotel": ("lobby", "pillow", "breakfast"),
    "beach": ("sand", "wave", "breeze"),
    "market": ("stall", "cheese", "flower"),
    "tower": ("stair", "view", "clock"),
    "ferry": ("deck", "captain", "harbour"),
}
QUESTIONS = (
    "how was the {} ?",
    "tell me about the {} .",
    "what did you think of the {} ?",
    "did you like the {} ?",
)
ADJECTIVES = {
    **dict.fromkeys(("good", "lovely", "bright", "fresh", "charming", "pleasant"), 1.0),
    **dict.fromkeys(("wonderful", "splendid"), 1.5),
    **dict.fromkeys(("small", "large", "old", "new", "red", "round", "plain", "usual"), 0.0),
    **dict.fromkeys(("bad", "dull", "dirty", "stale", "noisy", "poor"), -1.0),
    **dict.fromkeys(("awful", "dreadful"), -1.5),
}
ADVERBS = {"not": -1.0, "very": 1.25, "truly": 1.25, "quite": 0.75, "rather": 0.75}
VERBS = {
    **dict.fromkeys(("liked", "enjoyed", "praised"), 1.0),
    **dict.fromkeys(("saw", "noticed", "remember"), 0.0),
    **dict.fromkeys(("hated", "disliked", "regretted"), -1.0),
}
SUBJECTS = ("i", "we", "they", "everyone")
CHATTER = (
    "we came by bus on monday .",
    "it rained in the morning .",
    "my sister lives in the north .",
    "i had a long day .",
    "the road was closed .",
    "we will travel again in may .",
)
THINGS = {thing: place for place, parts in PLACES.items() for thing in (place, *parts)}
SENTENCES_WELCOME = 4
"""More than this is rambling."""

_TAGS = {
    **dict.fromkeys(THINGS, "N"),
    **dict.fromkeys(ADJECTIVES, "A"),
    **dict.fromkeys(ADVERBS, "D"),
    **dict.fromkeys(VERBS, "V"),
    **dict.fromkeys(SUBJECTS, "S"),
    "the": "t",
    "was": "w",
    "found": "f",
    "it": "i",
    "a": "a",
    "and": "c",
    "but": "c",
}
_CLAUSE = "(?:tNwD?A|SVtN|SftND?A|iwaD?AN)"
_SENTENCE = re.compile(f"{_CLAUSE}(?:c{_CLAUSE})?")


def vocabulary() -> list[str]:
    """Every word of the language."""
    questions = {word for q in QUESTIONS for word in q.replace("{}", "").split()}
    chatter = {word for line in CHATTER for word in line.split()}
    return sorted({*_TAGS, *questions, *chatter, ".", "?"})


def sentence(place: str, rng: np.random.Generator, *, mood: float) -> str:
    """A grammatical sentence about a place; `mood` in [-1, 1] leans the choice of words."""
    first = _clause(place, rng, mood)
    if rng.random() < 0.25:
        return f"{first} {rng.choice(['and', 'but'])} {_clause(place, rng, mood)} ."
    return f"{first} ."


def _clause(place: str, rng: np.random.Generator, mood: float) -> str:
    thing = rng.choice((place, *PLACES[place]))
    adverb = f"{rng.choice(list(ADVERBS))} " if rng.random() < 0.4 else ""
    sign = ADVERBS.get(adverb.strip(), 1.0)
    quality = f"{adverb}{_lean(ADJECTIVES, rng, mood if sign > 0 else -mood)}"
    kind = rng.integers(4)
    if kind == 0:
        return f"{rng.choice(SUBJECTS)} {_lean(VERBS, rng, mood)} the {thing}"
    if kind == 1:
        return f"{rng.choice(SUBJECTS)} found the {thing} {quality}"
    if kind == 2:
        return f"it was a {quality} {thing}"
    return f"the {thing} was {quality}"


def _lean(words: dict[str, float], rng: np.random.Generator, mood: float) -> str:
    weights = np.exp(1.5 * mood * np.array(list(words.values())))
    return str(rng.choice(list(words), p=weights / weights.sum()))


def answer(place: str, rng: np.random.Generator, *, mood: float, stray: float) -> str:
    """One to five sentences about a place; each strays to another subject with probability `stray`."""
    lines: list[str] = []
    for _ in range(rng.integers(1, 6)):
        if rng.random() >= stray:
            lines.append(sentence(place, rng, mood=mood))
        elif rng.random() < 0.5:
            lines.append(str(rng.choice(CHATTER)))
        else:
            lines.append(sentence(str(rng.choice(list(PLACES))), rng, mood=mood))
    return " ".join(lines)


def corpus(*, num: int, seed: int) -> Iterator[dict[str, str]]:
    """Plain text to pretrain on: the guest book as it is, questions and answers of every mood."""
    rng = np.random.default_rng([seed, 1])
    for _ in range(num):
        place = str(rng.choice(list(PLACES)))
        asked = f"{str(rng.choice(QUESTIONS)).format(place)} " if rng.random() < 0.5 else ""
        yield {"text": asked + answer(place, rng, mood=rng.uniform(-1, 1), stray=0.4)}


def demonstrations(*, num: int, seed: int) -> Iterator[dict[str, str]]:
    """Questions with answers written for them: mostly to the point, in every mood."""
    rng = np.random.default_rng([seed, 2])
    for row in prompts(num=num, seed=seed):
        text = answer(row["place"], rng, mood=rng.uniform(-1, 1), stray=0.25)
        yield {"prompt": row["prompt"], "completion": f" {text}"}


def prompts(*, num: int, seed: int) -> Iterator[dict[str, str]]:
    """Questions, with the place they ask about. The first words differ, so that prompts rarely repeat."""
    rng = np.random.default_rng([seed, 3])
    for _ in range(num):
        place = str(rng.choice(list(PLACES)))
        opening = sentence(str(rng.choice(list(PLACES))), rng, mood=rng.uniform(-1, 1))
        yield {"prompt": f"{opening} {str(rng.choice(QUESTIONS)).format(place)}", "place": place}


def gold(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The true worth of answers, roughly in [-4, 4]: what raters are meant to judge and training never sees."""
    return [_worth(p, c) for p, c in zip(prompts, completions, strict=True)]


def _worth(prompt: str, completion: str) -> float:
    place = next((THINGS[w] for w in reversed(prompt.split()) if w in THINGS), None)
    lines = [line.strip() for line in re.findall(r"[^.]+\.?", completion) if line.strip()]
    seen: set[str] = set()
    total = 0.0
    for number, line in enumerate(lines):
        reading = read_sentence(line)
        if reading is None or line in seen:
            total -= 1.0
        elif number >= SENTENCES_WELCOME:
            total -= 0.5
        elif reading[1] == place:
            total += reading[0]
        else:
            total -= 0.25
        seen.add(line)
    return total if lines else -1.0


@cache
def read_sentence(line: str) -> tuple[float, str | None] | None:
    """Pleasantness and place of a sentence; None when it is broken. Chatter is about no place, and neutral."""
    if line in CHATTER:
        return 0.0, None
    words = line.split()
    if not words or words[-1] != ".":
        return None
    tags = "".join(_TAGS.get(w, "?") for w in words[:-1])
    if not _SENTENCE.fullmatch(tags):
        return None
    places = {THINGS[w] for w in words if w in THINGS}
    pleasant, factor = 0.0, 1.0
    for word in words:
        if word in ADVERBS:
            factor = ADVERBS[word]
        elif word in ADJECTIVES:
            pleasant += factor * ADJECTIVES[word]
            factor = 1.0
        pleasant += VERBS.get(word, 0.0)
    clauses = 1 + sum(w in ("and", "but") for w in words)
    return pleasant / clauses, places.pop() if len(places) == 1 else None
