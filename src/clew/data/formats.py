"""The formats of rows that clew reads: its own, which are TRL's, and those of other tools and public sets.

`FORMATS` at the foot is the table: the first whose columns are all there is the row's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import cast

from clew.data import foreign
from clew.data.columns import as_text, cut_places, entries, number, string
from clew.data.example import Example, Row, in_steps, prompt_id, ranked
from clew.types import Message, Role, Text


@dataclass(frozen=True, slots=True)
class Format:
    """How rows with certain columns become examples.

    Example: `Format("demonstration", ("prompt", "completion"), single)`
    """

    name: str
    columns: tuple[str, ...]
    parse: Callable[[Row, str], Example | list[Example]]
    optional: tuple[str, ...] = ()
    """Other columns that `parse` reads; the rest go to `Example.info`."""


def format_of(row: Row) -> Format | None:
    """The format of a row by its columns; None when it is of no known one."""
    return next((f for f in FORMATS if all(row.get(column) is not None for column in f.columns)), None)


def parse_row(row: Row, where: str) -> list[Example]:
    """The examples of a row, which is one, but for trees. `where` names the row in errors.

    Raises ValueError naming the column that is wrong, or the columns when they are of no known format.
    """
    form = format_of(row)
    if form is None:
        known = "; ".join(" + ".join(f.columns) for f in FORMATS)
        raise ValueError(f"{where}: columns {sorted(row)} are of no known format; expected one of: {known}")
    found = form.parse(row, where)
    used = {*form.columns, *form.optional, "weight", "cut"}
    info = {k: v for k, v in row.items() if k not in used}
    weight = number(row, "weight", where, 1.0, least=0.0)
    return [
        replace(e, id=_prompt_id(e), weight=weight, info={**info, **e.info})
        for e in (found if isinstance(found, list) else [found])
    ]


def _prompt_id(example: Example) -> str:
    """Where there is no prompt apart, it is what the text or the conversation begins with."""
    if example.prompt or not example.answers:
        return prompt_id(example.prompt)
    whole = example.answers[0]
    return prompt_id(whole if isinstance(whole, str) else tuple(takewhile(lambda m: m.role != "assistant", whole)))


def _ranking(row: Row, where: str) -> Example:
    answers = row["completions"]
    if not isinstance(answers, list) or len(answers) < 2:
        raise ValueError(f"{where}: column 'completions' needs a list of at least two answers; got {answers!r:.80}")
    if all(isinstance(a, dict) and "completion" in a for a in answers):  # NeMo: {rank, completion}
        ranks = [a.get("rank") for a in answers]
        answers = [a["completion"] for a in answers]
    else:
        ranks = row["ranks"] if row.get("ranks") is not None else list(range(len(answers)))
    if not isinstance(ranks, list) or len(ranks) != len(answers) or not all(isinstance(r, int) for r in ranks):
        raise ValueError(
            f"{where}: column 'ranks' needs one integer for each of {len(answers)} completions; got {ranks}"
        )
    prompt = row["prompt"] if row.get("prompt") is not None else row["context"]
    return ranked(
        as_text(prompt, "prompt", where),
        [as_text(a, "completions", where) for a in answers],
        ranks,
        cut_places(row, where),
    )


def _pair(row: Row, where: str) -> Example:
    chosen, rejected = (as_text(row[c], c, where) for c in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError(f"{where}: 'chosen' and 'rejected' must both be text or both messages")
    prompt = "" if row.get("prompt") is None else as_text(row["prompt"], "prompt", where)
    if row.get("prompt") is None or _repeats(prompt, chosen, rejected):
        prompt, chosen, rejected = _common_prompt(chosen, rejected, where)
    elif isinstance(prompt, str) and not isinstance(chosen, str):
        prompt = (Message("user", prompt),)
    return Example(
        "",
        prompt,
        (chosen, rejected),
        (0, 1),
        cut=cut_places(row, where),
        margin=number(row, "margin", where, 0.0),
        agreement=number(row, "agreement", where, 1.0, least=0.0, most=1.0),
    )


def _single(row: Row, where: str) -> Example:
    column = next((c for c in ("label", "rating") if row.get(c) is not None), None)
    return Example(
        "",
        as_text(row["prompt"], "prompt", where),
        (as_text(row["completion"], "completion", where),),
        label=None if column is None else number(row, column, where, None),
        cut=cut_places(row, where),
    )


def _prompt(row: Row, where: str) -> Example:
    return Example("", as_text(row["prompt"], "prompt", where))


def _conversation(row: Row, where: str) -> Example:
    """Messages to learn from; with a label, the last turn is what is judged."""
    messages = as_text(row["messages"], "messages", where)
    if isinstance(messages, str):
        raise ValueError(f"{where}: column 'messages' needs a list of messages; got text")
    if row.get("label") is None:
        return Example("", (), (messages,))
    return Example("", messages[:-1], (messages[-1:],), label=number(row, "label", where, None))


def _text_alone(row: Row, where: str) -> Example:
    return Example("", "", (string(row, "text", where),))


def _stepwise(row: Row, where: str) -> Example:
    """TRL's steps with a label each."""
    steps, labels = entries(row, "completions", where), entries(row, "labels", where)
    if len(steps) != len(labels) or not all(isinstance(s, str) for s in steps):
        raise ValueError(f"{where}: 'completions' needs texts, and 'labels' one label for each of {len(steps)}")
    if not all(isinstance(x, (int, float)) for x in labels):
        raise ValueError(f"{where}: column 'labels' needs numbers, or true and false; got {labels!r:.80}")
    return in_steps(as_text(row["prompt"], "prompt", where), steps, [float(x) for x in labels])


def _repeats(prompt: Text, chosen: Text, rejected: Text) -> bool:
    """Whether the answers are whole conversations, the prompt in front: transcripts, or messages from a user's on."""
    if isinstance(chosen, str):
        whole = isinstance(prompt, str) and "\n\nAssistant:" in prompt
        return whole and chosen.startswith(str(prompt)) and rejected[: len(prompt)] == prompt
    return chosen[0].role != "assistant"


def _common_prompt(chosen: Text, rejected: Text, where: str) -> tuple[Text, Text, Text]:
    """Split two transcripts into what they share and how each goes on (HH, TRL's implicit prompt)."""
    if isinstance(chosen, str) and isinstance(rejected, str) and "\n\nAssistant:" in chosen:
        chosen, rejected = parse_transcript(chosen, where), parse_transcript(rejected, where)
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if isinstance(chosen, str):
        shared = max(chosen.rfind(" ", 0, shared), 0)
    else:  # an answer begins with the assistant, and is not empty where both are the same
        shared = min(shared, len(chosen) - 1, len(rejected) - 1)
        while shared and chosen[shared].role != "assistant":  # type: ignore[union-attr]
            shared -= 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def parse_transcript(text: str, where: str) -> tuple[Message, ...]:
    """HH's "\\n\\nHuman: …\\n\\nAssistant: …" as messages."""
    marks = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}
    messages: list[Message] = []
    rest = text if text.startswith("\n\n") else "\n\n" + text
    while rest:
        role = next((r for mark, r in marks.items() if rest.startswith(mark)), None)
        if role is None:
            raise ValueError(f"{where}: transcript does not begin with Human: or Assistant:, got {rest[:60]!r}")
        body = rest.split(":", 1)[1]
        ends = [i for mark in marks if (i := body.find(mark)) >= 0]
        end = min(ends, default=len(body))
        messages.append(Message(cast(Role, role), body[:end].strip()))
        rest = body[end:]
    return tuple(messages)


ALPACA = ("input", "system", "history")
MISTAKE = ("mistake_index",)


FORMATS = (
    Format("steps with labels (TRL stepwise)", ("prompt", "completions", "labels"), _stepwise),
    Format("steps with ratings (PRM800K)", ("question", "label"), foreign.prm800k),
    Format("steps with the first mistake (BIG-Bench Mistake)", ("input", "steps"), foreign.first_mistake, MISTAKE),
    Format("ranking of K", ("prompt", "completions"), _ranking, ("ranks",)),
    Format("ranking of K (NeMo)", ("context", "completions"), _ranking),
    Format("ranking of K (Nectar)", ("prompt", "answers"), foreign.ranked_answers),
    Format("ranking of K (OASST tree)", ("message_tree_id", "prompt"), foreign.tree),
    Format("ranking of four (fine-grained RLHF)", ("question", "prediction 1", "preference"), foreign.fine_grained),
    Format("pair (LLaMA-Factory sharegpt)", ("conversations", "chosen", "rejected"), foreign.sharegpt, ("system",)),
    Format("pair (LLaMA-Factory alpaca)", ("instruction", "chosen", "rejected"), foreign.alpaca, ALPACA),
    Format("pair of summaries (TL;DR)", ("info", "summaries", "choice"), foreign.summaries),
    Format("pair with votes (PandaLM)", ("instruction", "response1", "response2"), foreign.votes, ("input",)),
    Format("pair (LLMBar)", ("input", "output_1", "output_2", "label"), foreign.two_outputs),
    Format("pair", ("prompt", "chosen", "rejected"), _pair, ("margin", "agreement")),
    Format("pair, prompt in common", ("chosen", "rejected"), _pair, ("margin", "agreement")),
    Format("pair of images (Pick-a-Pic)", ("caption", "label_0", "label_1"), foreign.images),
    Format("verdict without answers (arena)", ("model_a", "model_b", "winner"), foreign.verdict_alone),
    Format("label of a crowd worker, without texts", ("item", "worker", "label"), foreign.verdict_alone),
    Format("demonstration (LLaMA-Factory alpaca)", ("instruction", "output"), foreign.alpaca, (*ALPACA, "kto_tag")),
    Format("conversation (LLaMA-Factory sharegpt)", ("conversations",), foreign.sharegpt, ("system", "kto_tag")),
    Format("demonstration", ("prompt", "completion"), _single, ("label", "rating")),
    Format("question and answer", ("question", "answer"), foreign.question),
    Format("solutions judged right or wrong (GSM8K)", ("question", "ground_truth"), foreign.solutions),
    Format("prompt", ("prompt",), _prompt),
    Format("conversation", ("messages",), _conversation, ("label",)),
    Format("text", ("text",), _text_alone),
)  # fmt: skip
