"""One row of a file, in any of the formats people have, as one kind of record.

TRL's (strings and message lists), HH transcripts, rankings of K, LLaMA-Factory's, and those of the public sets of
feedback. `FORMATS` at the foot is the table: the first whose columns are all there is the row's.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, takewhile
from typing import Any, cast, get_args

import numpy as np

from clew.types import Message, Role, Text, as_string

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One record, whatever its format: a prompt with no answer, one answer, or several in order of rank.

    Example: a pair is `Example("3f2a", "How was the soup?", (" Lovely.", " Awful."), (0, 1))`
    """

    id: str
    """Of the prompt: rows with equal prompts share it, and go to the same side of every split."""
    prompt: Text
    answers: tuple[Text, ...] = ()
    ranks: tuple[int, ...] = ()
    label: float | None = None
    """Thumb or rating of a single answer; None when it has none."""
    margin: float = 0.0
    """How much better the first answer is said to be."""
    agreement: float = 1.0
    """Probability that the stated order is right."""
    weight: float = 1.0
    cut: tuple[int, ...] = ()
    """Answers that were cut by length: they have no end, so no stop token."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """The other columns."""


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


class NotText(ValueError):
    """The row is of a known format that text methods cannot use."""


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
    weight = _number(row, "weight", where, 1.0, least=0.0)
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


def prompt_id(prompt: Text) -> str:
    return hashlib.sha256(as_string(prompt).encode()).hexdigest()[:16]


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
    order = sorted(range(len(answers)), key=lambda i: ranks[i])
    prompt = row["prompt"] if row.get("prompt") is not None else row["context"]
    return Example(
        "",
        _text(prompt, "prompt", where),
        tuple(_text(answers[i], "completions", where) for i in order),
        tuple(ranks[i] for i in order),
        cut=tuple(place for place, i in enumerate(order) if i in _cut(row, where)),
    )


def _pair(row: Row, where: str) -> Example:
    chosen, rejected = (_text(row[c], c, where) for c in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError(f"{where}: 'chosen' and 'rejected' must both be text or both messages")
    prompt = "" if row.get("prompt") is None else _text(row["prompt"], "prompt", where)
    if row.get("prompt") is None or _repeats(prompt, chosen, rejected):
        prompt, chosen, rejected = _common_prompt(chosen, rejected, where)
    elif isinstance(prompt, str) and not isinstance(chosen, str):
        prompt = (Message("user", prompt),)
    return Example(
        "",
        prompt,
        (chosen, rejected),
        (0, 1),
        cut=_cut(row, where),
        margin=_number(row, "margin", where, 0.0),
        agreement=_number(row, "agreement", where, 1.0, least=0.0, most=1.0),
    )


def _single(row: Row, where: str) -> Example:
    column = next((c for c in ("label", "rating") if row.get(c) is not None), None)
    return Example(
        "",
        _text(row["prompt"], "prompt", where),
        (_text(row["completion"], "completion", where),),
        label=None if column is None else _number(row, column, where, None),
        cut=_cut(row, where),
    )


def _prompt(row: Row, where: str) -> Example:
    return Example("", _text(row["prompt"], "prompt", where))


def _conversation(row: Row, where: str) -> Example:
    """Messages to learn from; with a label, the last turn is what is judged."""
    messages = _text(row["messages"], "messages", where)
    if isinstance(messages, str):
        raise ValueError(f"{where}: column 'messages' needs a list of messages; got text")
    if row.get("label") is None:
        return Example("", (), (messages,))
    return Example("", messages[:-1], (messages[-1:],), label=_number(row, "label", where, None))


def _text_alone(row: Row, where: str) -> Example:
    return Example("", "", (_string(row, "text", where),))


def _ranked_answers(row: Row, where: str) -> Example:
    """Nectar: `answers` of {answer, rank}."""
    entries = [_object(a, "answers", where) for a in _list(row, "answers", where)]
    answers = [
        {"completion": _string(a, "answer", where), "rank": int(_number(a, "rank", where, None))} for a in entries
    ]
    return _ranking({"prompt": row["prompt"], "completions": answers}, where)


def _alpaca(row: Row, where: str) -> Example:
    """LLaMA-Factory's instruction format, and its preference and KTO variants: a conversation."""
    asked = _string(row, "instruction", where)
    if row.get("input"):
        asked += "\n" + _string(row, "input", where)
    before = [Message("system", _string(row, "system", where))] if row.get("system") else []
    for turn in row.get("history") or []:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn)):
            raise ValueError(f"{where}: column 'history' needs pairs of question and answer; got {turn!r:.80}")
        before += [Message("user", turn[0]), Message("assistant", turn[1])]
    prompt = (*before, Message("user", asked))
    if row.get("output") is None:
        answers = tuple((Message("assistant", _string(row, c, where)),) for c in ("chosen", "rejected"))
        return Example("", prompt, answers, (0, 1))
    label = None if row.get("kto_tag") is None else _number(row, "kto_tag", where, None)
    return Example("", prompt, ((Message("assistant", _string(row, "output", where)),),), label=label)


def _sharegpt(row: Row, where: str) -> Example:
    """LLaMA-Factory's conversations of {from, value}; with chosen and rejected, a pair; with kto_tag, a judged one."""
    turns = _list(row, "conversations", where)
    messages = tuple(_turn(turn, "conversations", where) for turn in turns)
    if row.get("system"):
        messages = (Message("system", _string(row, "system", where)), *messages)
    if row.get("chosen") is not None:
        answers = tuple((_turn(row[c], c, where),) for c in ("chosen", "rejected"))
        return Example("", messages, answers, (0, 1))
    if row.get("kto_tag") is not None:
        return Example("", messages[:-1], (messages[-1:],), label=_number(row, "kto_tag", where, None))
    return Example("", (), (messages,))


def _turn(turn: Any, column: str, where: str) -> Message:
    turn = _object(turn, column, where)
    role = SPEAKERS.get(str(turn.get("from", turn.get("role"))))
    content = turn.get("value", turn.get("content"))
    if role is None or not isinstance(content, str):
        raise ValueError(
            f"{where}: column {column!r} has a turn {dict(turn)!r:.80}; expected from in {sorted(SPEAKERS)}"
        )
    return Message(role, content)


SPEAKERS: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "function_call": "assistant",
    "observation": "tool", "tool": "tool", "system": "system",
}  # fmt: skip


def _summaries(row: Row, where: str) -> Example:
    """OpenAI's TL;DR comparisons: a post, two summaries, which was chosen."""
    info = _object(row["info"], "info", where)
    texts = [_string(_object(s, "summaries", where), "text", where) for s in _list(row, "summaries", where)]
    choice = int(_number(row, "choice", where, None, least=0.0, most=len(texts) - 1.0))
    post = _string(info, "post" if info.get("post") is not None else "article", where)
    title = f"TITLE: {info['title']}\n" if isinstance(info.get("title"), str) else ""
    order = [choice, *(i for i in range(len(texts)) if i != choice)]
    prompt = f"{title}POST: {post}\nTL;DR:"
    return Example("", prompt, tuple(texts[i] for i in order), tuple(min(i, 1) for i in range(len(texts))))


def _stepwise(row: Row, where: str) -> Example:
    """TRL's steps with a label each."""
    steps, labels = _list(row, "completions", where), _list(row, "labels", where)
    if len(steps) != len(labels) or not all(isinstance(s, str) for s in steps):
        raise ValueError(f"{where}: 'completions' needs texts, and 'labels' one label for each of {len(steps)}")
    if not all(isinstance(x, (int, float)) for x in labels):
        raise ValueError(f"{where}: column 'labels' needs numbers, or true and false; got {labels!r:.80}")
    return _steps(_text(row["prompt"], "prompt", where), steps, [float(x) for x in labels])


def _prm800k(row: Row, where: str) -> Example:
    """OpenAI's PRM800K: for each step its completions with a rating of -1, 0 or 1; the chosen one, or the first."""
    question, label = _object(row["question"], "question", where), _object(row["label"], "label", where)
    steps: list[str] = []
    ratings: list[float] = []
    for entry in _list(label, "steps", where):
        step = _object(entry, "steps", where)
        completions = [_object(c, "completions", where) for c in step.get("completions") or []]
        if completions:
            most = len(completions) - 1
            picked = completions[int(_number(step, "chosen_completion", where, 0.0, least=0, most=most))]
            steps.append(_string(picked, "text", where))
            ratings.append(_number(picked, "rating", where, None))
    return _steps(_string(question, "problem", where), steps, ratings)


def _first_mistake(row: Row, where: str) -> Example:
    """BIG-Bench Mistake: steps and the place of the first wrong one, none where all are right."""
    steps = [str(s) for s in _list(row, "steps", where)]
    wrong = len(steps)
    if row.get("mistake_index") is not None:
        wrong = int(_number(row, "mistake_index", where, None, least=0))
    return _steps(_string(row, "input", where), steps, [float(i < wrong) for i in range(min(wrong + 1, len(steps)))])


def _steps(prompt: Text, steps: Sequence[str], labels: Sequence[float]) -> Example:
    """Steps with labels, which may end at the first error; process reward models read them from `info`."""
    return Example("", prompt, ("\n".join(steps),), info={"steps": list(steps), "step_labels": list(labels)})


def _votes(row: Row, where: str) -> Example:
    """PandaLM: two responses and annotators' verdicts, 0 for a tie; agreement is their share."""
    asked = _string(row, "instruction", where) + (f"\n{row['input']}" if row.get("input") else "")
    votes = [v for k, v in sorted(row.items()) if re.fullmatch(r"annotator\d+", k) and v in (0, 1, 2)]
    texts = [str(row["response1"]), str(row["response2"])]
    first = sum({1: 1.0, 2: 0.0, 0: 0.5}[v] for v in votes) / len(votes) if votes else 0.5
    if first < 0.5:
        texts.reverse()
    ranks = (0, 0) if first == 0.5 else (0, 1)
    return Example("", asked, tuple(texts), ranks, agreement=max(first, 1 - first))


def _two_outputs(row: Row, where: str) -> Example:
    """LLMBar: two outputs and the number of the better one."""
    better = int(_number(row, "label", where, None, least=1.0, most=2.0))
    texts = [_string(row, f"output_{i}", where) for i in (better, 3 - better)]
    return Example("", _string(row, "input", where), tuple(texts), (0, 1))


def _fine_grained(row: Row, where: str) -> Example:
    """Fine-grained RLHF: four predictions with all pairwise preferences (1, 2, or 0 for equal), ranked by wins."""
    texts = [_string(row, f"prediction {i}", where) for i in range(1, 5)]
    verdicts = _list(row, "preference", where)
    wins = [0.0] * 4
    if len(verdicts) != 6 or not all(isinstance(v, int) for v in verdicts):
        raise ValueError(f"{where}: column 'preference' needs six verdicts of 0, 1 or 2; got {verdicts!r:.80}")
    for (a, b), verdict in zip(combinations(range(4), 2), verdicts, strict=True):
        wins[a] += {1: 1.0, 0: 0.5}.get(verdict, 0.0)
        wins[b] += {2: 1.0, 0: 0.5}.get(verdict, 0.0)
    order = sorted(range(4), key=lambda i: -wins[i])
    ranks = tuple(sum(w > wins[i] for w in wins) for i in order)
    return Example("", _string(row, "question", where), tuple(texts[i] for i in order), ranks)


def _tree(row: Row, where: str) -> list[Example]:
    """OASST: every message with ranked replies is a ranking under the conversation that leads to it."""
    found: list[Example] = []
    waiting: list[tuple[tuple[Message, ...], Mapping[str, Any]]] = [((), _object(row["prompt"], "prompt", where))]
    while waiting:
        before, node = waiting.pop()
        role: Role = "user" if node.get("role") == "prompter" else "assistant"
        here = (*before, Message(role, _string(node, "text", where)))
        replies = [_object(r, "replies", where) for r in node.get("replies") or []]
        waiting += [(here, reply) for reply in replies]
        ranked = [(int(_number(r, "rank", where, None)), r) for r in replies if r.get("rank") is not None]
        ranked.sort(key=lambda pair: pair[0])
        if len(ranked) > 1 and role == "user":
            answers = tuple((Message("assistant", _string(r, "text", where)),) for _, r in ranked)
            found.append(Example("", here, answers, tuple(rank for rank, _ in ranked)))
    return found


def _solutions(row: Row, where: str) -> list[Example]:
    """GSM8K's model solutions: every column with a solution and whether it is right is a judged answer."""
    judged = [v for v in row.values() if isinstance(v, dict) and isinstance(v.get("is_correct"), bool)]
    asked = _string(row, "question", where)
    return [Example("", asked, (_string(v, "solution", where),), label=float(v["is_correct"])) for v in judged]


def _question(row: Row, where: str) -> Example:
    return Example("", _string(row, "question", where), (_string(row, "answer", where),))


def _images(row: Row, where: str) -> Example:
    raise NotText(f"{where}: a pair of images for a caption (Pick-a-Pic); text methods cannot use it")


def _verdict_alone(row: Row, where: str) -> Example:
    raise NotText(f"{where}: a judgement without the texts that were judged; it is for statistics, not for training")


def _text(value: Any, column: str, where: str) -> Text:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        return tuple(_message(m, column, where) for m in value)
    raise ValueError(f"{where}: column {column!r} needs text or a list of messages; got {value!r:.80}")


def _message(message: Mapping[str, Any], column: str, where: str) -> Message:
    role, content = message.get("role"), message.get("content")
    if role not in get_args(Role) or not isinstance(content, str):
        raise ValueError(
            f"{where}: column {column!r} has a message {dict(message)!r:.80}; expected role in {get_args(Role)} and "
            "content as text"
        )
    return Message(cast(Role, role), content)


def _number(
    row: Row, column: str, where: str, default: float | None, *, least: float = -np.inf, most: float = np.inf
) -> float:
    """A number of a column, or the default, which a column that must be there has not."""
    value = row[column] if row.get(column) is not None else default
    if isinstance(value, (int, float)) and np.isfinite(value) and least <= value <= most:
        return float(value)
    bounds = "" if least == -np.inf else f" of at least {least:g}" if most == np.inf else f" in [{least:g}, {most:g}]"
    raise ValueError(f"{where}: column {column!r} needs a finite number{bounds}; got {value!r:.80}")


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


def _cut(row: Row, where: str) -> tuple[int, ...]:
    """Places of the answers that were cut by length."""
    places = row["cut"] if row.get("cut") is not None else []
    if not isinstance(places, list) or not all(isinstance(p, int) for p in places):
        raise ValueError(f"{where}: column 'cut' needs a list of places, from 0; got {places!r:.80}")
    return tuple(places)


def _string(row: Row, column: str, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise ValueError(f"{where}: column {column!r} needs text; got {value!r:.80}")
    return value


def _list(row: Row, column: str, where: str) -> list[Any]:
    value = row.get(column)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: column {column!r} needs a list with something in it; got {value!r:.80}")
    return value


def _object(value: Any, column: str, where: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: column {column!r} needs an object with named fields; got {value!r:.80}")
    return value


ALPACA = ("input", "system", "history")
FORMATS = (
    Format("steps with labels (TRL stepwise)", ("prompt", "completions", "labels"), _stepwise),
    Format("steps with ratings (PRM800K)", ("question", "label"), _prm800k),
    Format("steps with the first mistake (BIG-Bench Mistake)", ("input", "steps"), _first_mistake, ("mistake_index",)),
    Format("ranking of K", ("prompt", "completions"), _ranking, ("ranks",)),
    Format("ranking of K (NeMo)", ("context", "completions"), _ranking),
    Format("ranking of K (Nectar)", ("prompt", "answers"), _ranked_answers),
    Format("ranking of K (OASST tree)", ("message_tree_id", "prompt"), _tree),
    Format("ranking of four (fine-grained RLHF)", ("question", "prediction 1", "preference"), _fine_grained),
    Format("pair (LLaMA-Factory sharegpt)", ("conversations", "chosen", "rejected"), _sharegpt, ("system",)),
    Format("pair (LLaMA-Factory alpaca)", ("instruction", "chosen", "rejected"), _alpaca, ALPACA),
    Format("pair of summaries (TL;DR)", ("info", "summaries", "choice"), _summaries),
    Format("pair with votes (PandaLM)", ("instruction", "response1", "response2"), _votes, ("input",)),
    Format("pair (LLMBar)", ("input", "output_1", "output_2", "label"), _two_outputs),
    Format("pair", ("prompt", "chosen", "rejected"), _pair, ("margin", "agreement")),
    Format("pair, prompt in common", ("chosen", "rejected"), _pair, ("margin", "agreement")),
    Format("pair of images (Pick-a-Pic)", ("caption", "label_0", "label_1"), _images),
    Format("verdict without answers (arena)", ("model_a", "model_b", "winner"), _verdict_alone),
    Format("label of a crowd worker, without texts", ("item", "worker", "label"), _verdict_alone),
    Format("demonstration (LLaMA-Factory alpaca)", ("instruction", "output"), _alpaca, (*ALPACA, "kto_tag")),
    Format("conversation (LLaMA-Factory sharegpt)", ("conversations",), _sharegpt, ("system", "kto_tag")),
    Format("demonstration", ("prompt", "completion"), _single, ("label", "rating")),
    Format("question and answer", ("question", "answer"), _question),
    Format("solutions judged right or wrong (GSM8K)", ("question", "ground_truth"), _solutions),
    Format("prompt", ("prompt",), _prompt),
    Format("conversation", ("messages",), _conversation, ("label",)),
    Format("text", ("text",), _text_alone),
)  # fmt: skip
