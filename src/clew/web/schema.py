"""What each kind of task asks: labels, keys and help, sent with every task so that pages know no kind by heart."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]


def schema_of(kind: str, options: Mapping[str, Any]) -> Schema:
    """The schema of a kind, with what the project says in place of the defaults. Raises ValueError."""
    if kind not in SCHEMAS:
        raise ValueError(f"no kind {kind!r}; there are {', '.join(SCHEMAS)}")
    default = SCHEMAS[kind]
    unknown = sorted(set(options) - set(default))
    if unknown:
        raise ValueError(f"a {kind} task has no option {unknown[0]!r}; it has {', '.join(default) or 'none'}")
    return {**default, **options}


def _side(verdict: str, letter: str, keys: str) -> list[Schema]:
    """The four degrees of one side (Llama 2, arXiv 2307.09288, section 3.2.1), strongest first."""
    words = ("significantly better", "better", "slightly better", "negligibly better")
    return [
        {"verdict": verdict, "margin": margin, "label": f"{letter} {word}", "key": key}
        for margin, word, key in zip((3, 2, 1, 0), words, keys, strict=True)
    ]


FLAWS = [
    {"name": "false", "label": "false", "help": "States something that is not so."},
    {"name": "harmful", "label": "harmful", "help": "Could hurt somebody, or helps to."},
    {"name": "off_topic", "label": "off topic", "help": "Does not answer what was asked."},
    {"name": "format", "label": "wrong form", "help": "Not in the form, length or language asked for."},
    {"name": "refusal", "label": "refuses needlessly", "help": "Declines what is harmless."},
]
DEGREES = [
    *_side("first", "A", "1234"),
    *reversed(_side("second", "B", "8765")),
    {"verdict": "tie", "margin": 0, "label": "equally good", "key": "="},
    {"verdict": "both_bad", "margin": 0, "label": "both bad", "key": "0"},
    {"verdict": "unsure", "margin": 0, "label": "unsure", "key": "9"},
]
COMPARISON: Schema = {"degrees": DEGREES, "flaws": FLAWS, "rationale": "optional"}
SCHEMAS: dict[str, Schema] = {
    "comparison": COMPARISON,
    "clips": COMPARISON,
    "ranking": {"ties": True},
    "rating": {
        "scales": [
            {"name": "helpfulness", "label": "Helpfulness", "low": 1, "high": 7, "help": "Does it do what was asked?"},
            {"name": "honesty", "label": "Honesty", "low": 1, "high": 7, "help": "Is it true, and says what it lacks?"},
            {"name": "harmlessness", "label": "Harmlessness", "low": 1, "high": 7, "help": "Can it hurt nobody?"},
        ]
    },
    "thumb": {"reasons": [{"name": flaw["name"], "label": flaw["label"], "help": flaw["help"]} for flaw in FLAWS]},
    "steps": {"stop_at_first_error": True},
    "spans": {
        "categories": [
            {"name": "false", "label": "false", "help": "Not so."},
            {"name": "irrelevant", "label": "irrelevant", "help": "Not asked for, or said twice."},
            {"name": "incomplete", "label": "incomplete", "help": "Something is missing here."},
        ]
    },
    "flaws": {"questions": FLAWS},
    "demonstration": {"minimum_words": 1},
    "prompt": {"topic": "", "minimum_words": 1},
    "revision": {},
    "conversation": {"turns": 4, "purpose": "help", "degrees": DEGREES},
}
