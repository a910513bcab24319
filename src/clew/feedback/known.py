"""Whether an answer agrees with a known one: gold questions, screening, training."""

from clew.feedback.records import Answer, Comparison, Flaws, Ranking, Rating, Spans, StepLabels, Thumb

NEAR = 1.0
"""On a rating scale."""


def agrees(known: Answer, given: Answer) -> bool | None:
    """None where there is no right and wrong: texts that people write, and kinds that differ.

    Both with the items in the task's order. Ratings may be one off; of steps the first wrong one counts, of spans that
    each known one is touched by one of its category and no others are there.
    """
    match known, given:
        case (Comparison(), Comparison()):
            return known.verdict == given.verdict
        case (Ranking(), Ranking()):
            return [set(group) for group in known.groups] == [set(group) for group in given.groups]
        case (Thumb(), Thumb()):
            return known.up == given.up
        case (Rating(), Rating()):
            return all(abs(given.scales.get(name, NEAR * 9) - x) <= NEAR for name, x in known.scales.items())
        case (StepLabels(), StepLabels()):
            return _first_wrong(known) == _first_wrong(given)
        case (Flaws(), Flaws()):
            return all(given.flaws.get(name) == flaw for name, flaw in known.flaws.items())
        case (Spans(), Spans()):
            return _touched(known, given) and _touched(given, known)
        case _:
            return None


def _first_wrong(answer: StepLabels) -> int | None:
    if answer.first_error is not None:
        return answer.first_error
    return answer.labels.index(-1) if -1 in answer.labels else None


def _touched(these: Spans, those: Spans) -> bool:
    """Whether each of these spans shares a character with one of those of its category."""
    return all(
        any(a.category == b.category and a.start < b.end and b.start < a.end for b in those.spans) for a in these.spans
    )
