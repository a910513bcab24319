"""What each kind of task asks: labels, keys and help, sent with every task so that pages know no kind by heart."""

from collections.abc import Mapping, Sequence
from typing import Any

from clew.feedback.answers import Submission
from clew.feedback.projects import ProjectConfig
from clew.feedback.records import Comparison, Demonstration, Flaws, Ranking, Rating, Spans, Thumb

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


def check_fits_form(config: ProjectConfig, said: Submission) -> None:
    """Raises ValueError for names, degrees and numbers that the project's schema does not offer."""
    answer, schema = said.answer, schema_of(config.kind, config.form)
    match answer:
        case Comparison():
            _check_comparison(answer, said.note, schema)
        case Rating():
            _check_scales(answer, schema["scales"])
        case Thumb():
            _check_names("reason", answer.reasons, schema["reasons"])
        case Spans():
            _check_names("category", [span.category for span in answer.spans], schema["categories"])
        case Flaws():
            _check_names("question", list(answer.flaws), schema["questions"])
        case Demonstration() if len(answer.text.split()) < schema["minimum_words"]:
            raise ValueError(f"write at least {schema['minimum_words']} words")
        case Ranking() if not schema["ties"] and any(len(group) > 1 for group in answer.groups):
            raise ValueError("ties are not offered here; put one before the other")
        case _:
            pass


def _check_comparison(answer: Comparison, note: str, schema: Schema) -> None:
    if (answer.verdict, answer.margin) not in {(d["verdict"], d["margin"]) for d in schema["degrees"]}:
        raise ValueError(f"{answer.verdict} by {answer.margin} is not offered")
    _check_names("flaw", [*answer.flaws[0], *answer.flaws[1]], schema["flaws"])
    if schema["rationale"] == "required" and not note.strip():
        raise ValueError("a rationale is required: send it as note")


def _check_names(what: str, given: Sequence[str], offered: Sequence[Schema]) -> None:
    names = [each["name"] for each in offered]
    for name in given:
        if name not in names:
            raise ValueError(f"no {what} {name!r:.60}; there are {', '.join(names)}")


def _check_scales(answer: Rating, scales: Sequence[Schema]) -> None:
    _check_names("scale", list(answer.scales), scales)
    for scale in scales:
        given = answer.scales.get(scale["name"])
        if given is None or not scale["low"] <= given <= scale["high"]:
            raise ValueError(f"{scale['name']} goes from {scale['low']} to {scale['high']}; got {given}")


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
