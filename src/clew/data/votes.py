"""Answers that the public voted on, as rankings: what preference models are pretrained on (arXiv 2112.00861)."""

from math import log2

from clew.data.columns import as_object, as_text, entries, number
from clew.data.example import Example, Row, ranked

TEXTS = ("text", "answer", "body", "completion")
"""Names that an answer's text may have,"""
VOTES = ("upvotes", "votes", "score")
"""its upvotes less its downvotes,"""
ACCEPTED = ("accepted", "selected", "is_accepted")
"""and whether the asker took it."""


def votes_score(votes: float, *, accepted: bool = False) -> int:
    """Anthropic's score of an answer on Stack Exchange: round(log2(1 + votes)), one more where it was accepted; -1 for
    votes below 0. From secondary sources; halves are rounded as Python does.
    """
    return -1 if votes < 0 else round(log2(1 + votes)) + accepted


def voted(row: Row, where: str) -> list[Example]:
    """A question whose answers have votes, or the score of them as `pm_score`: a ranking, where there are two or more.

    What the asker accepted counts with votes alone, since a score has it in it.
    """
    answers = [as_object(a, "answers", where) for a in entries(row, "answers", where)]
    if len(answers) < 2:
        return []
    texts = [as_text(a[_name(a, TEXTS, where)], "answers", where) for a in answers]
    scores = [_score(a, where) for a in answers]
    return [ranked(as_text(row["question"], "question", where), texts, [sum(x > s for x in scores) for s in scores])]


def _score(answer: Row, where: str) -> float:
    if answer.get("pm_score") is not None:
        return number(answer, "pm_score", where, None)
    accepted = any(answer.get(name) for name in ACCEPTED)
    return votes_score(number(answer, _name(answer, VOTES, where), where, None), accepted=accepted)


def _name(answer: Row, names: tuple[str, ...], where: str) -> str:
    found = next((name for name in names if answer.get(name) is not None), None)
    if found is None:
        raise ValueError(
            f"{where}: column 'answers' has one with {sorted(answer)}; expected one of {', '.join(names)} in it"
        )
    return found
