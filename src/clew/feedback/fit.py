"""Whether an answer fits its task: what pydantic cannot know without the items that were shown."""

from collections.abc import Callable, Sequence

from clew.feedback.records import Answer, Item, Ranking, Revision, Spans, StepLabels, Task, answer_kind


def check_fits(answer: Answer, task: Task, shown: Callable[[], Sequence[Item]]) -> None:
    """Raises ValueError saying what does not fit; `shown` gives the items in their slots, where they are needed."""
    expected = answer_kind(task.kind)
    if answer.kind != expected:
        raise ValueError(f"a {task.kind} task is answered by a {expected}; got a {answer.kind}")
    if isinstance(answer, Ranking):
        _check_ranking(answer, len(task.items))
    elif isinstance(answer, StepLabels):
        _check_steps(answer, shown()[0])
    elif isinstance(answer, Spans):
        _check_spans(answer, shown()[0].completion)
    elif isinstance(answer, Revision) and answer.text == shown()[0].completion:
        raise ValueError("the revision is the text as it was; change it, or skip the task")


def _check_ranking(answer: Ranking, num: int) -> None:
    places = [place for group in answer.groups for place in group] + list(answer.not_rankable)
    if sorted(places) != list(range(num)):
        raise ValueError(f"a ranking must place each of {num} slots once; got {answer.groups}")


def _check_steps(answer: StepLabels, item: Item) -> None:
    num = len(item.steps)
    if len(answer.labels) > num:
        raise ValueError(f"there are {num} steps to label; got {len(answer.labels)} labels")
    if answer.first_error is not None and not (
        answer.first_error < len(answer.labels) and answer.labels[answer.first_error] == -1
    ):
        raise ValueError(f"first_error must be a step labelled -1; got {answer.first_error} of {answer.labels}")
    if len(answer.labels) < num and answer.first_error is None and answer.finish_reason in (None, "solution"):
        raise ValueError(f"{num - len(answer.labels)} of {num} steps have no label, and no finish_reason says why")


def _check_spans(answer: Spans, text: str) -> None:
    for span in answer.spans:
        if text[span.start : span.end] != span.text:
            found = text[span.start : span.end]
            raise ValueError(
                f"span {span.start}:{span.end} is {found!r:.60} in the text; got {span.text!r:.60}. Offsets count "
                "Unicode code points"
            )
