"""Rows of other trainers and of the public sets of feedback, each as the one kind of record."""

import re
from collections.abc import Mapping
from itertools import combinations
from typing import Any

from clew.data.columns import as_object, as_text, entries, number, string
from clew.data.example import Example, NotText, Row, in_steps, ranked
from clew.types import Message, Role


def ranked_answers(row: Row, where: str) -> Example:
    """Nectar: `answers` of {answer, rank}."""
    answers = [as_object(a, "answers", where) for a in entries(row, "answers", where)]
    return ranked(
        as_text(row["prompt"], "prompt", where),
        [string(a, "answer", where) for a in answers],
        [int(number(a, "rank", where, None)) for a in answers],
    )


def alpaca(row: Row, where: str) -> Example:
    """LLaMA-Factory's instruction format, and its preference and KTO variants: a conversation."""
    asked = string(row, "instruction", where)
    if row.get("input"):
        asked += "\n" + string(row, "input", where)
    before = [Message("system", string(row, "system", where))] if row.get("system") else []
    for turn in row.get("history") or []:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn)):
            raise ValueError(f"{where}: column 'history' needs pairs of question and answer; got {turn!r:.80}")
        before += [Message("user", turn[0]), Message("assistant", turn[1])]
    prompt = (*before, Message("user", asked))
    if row.get("chosen") is not None and row.get("rejected") is not None:
        answers = tuple((Message("assistant", string(row, c, where)),) for c in ("chosen", "rejected"))
        return Example("", prompt, answers, (0, 1))
    label = None if row.get("kto_tag") is None else number(row, "kto_tag", where, None)
    return Example("", prompt, ((Message("assistant", string(row, "output", where)),),), label=label)


def sharegpt(row: Row, where: str) -> Example:
    """LLaMA-Factory's conversations of {from, value}; with chosen and rejected, a pair; with kto_tag, a judged one."""
    turns = entries(row, "conversations", where)
    messages = tuple(_turn(turn, "conversations", where) for turn in turns)
    if row.get("system"):
        messages = (Message("system", string(row, "system", where)), *messages)
    if row.get("chosen") is not None:
        answers = tuple((_turn(row[c], c, where),) for c in ("chosen", "rejected"))
        return Example("", messages, answers, (0, 1))
    if row.get("kto_tag") is not None:
        return Example("", messages[:-1], (messages[-1:],), label=number(row, "kto_tag", where, None))
    return Example("", (), (messages,))


def _turn(turn: Any, column: str, where: str) -> Message:
    turn = as_object(turn, column, where)
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


def summaries(row: Row, where: str) -> Example:
    """OpenAI's TL;DR comparisons: a post, two summaries, which was chosen."""
    info = as_object(row["info"], "info", where)
    texts = [string(as_object(s, "summaries", where), "text", where) for s in entries(row, "summaries", where)]
    choice = int(number(row, "choice", where, None, least=0.0, most=len(texts) - 1.0))
    post = string(info, "post" if info.get("post") is not None else "article", where)
    title = f"TITLE: {info['title']}\n" if isinstance(info.get("title"), str) else ""
    order = [choice, *(i for i in range(len(texts)) if i != choice)]
    prompt = f"{title}POST: {post}\nTL;DR:"
    return Example("", prompt, tuple(texts[i] for i in order), tuple(min(i, 1) for i in range(len(texts))))


def prm800k(row: Row, where: str) -> Example:
    """OpenAI's PRM800K: for each step its completions with a rating of -1, 0 or 1; the chosen one, or the first."""
    question, label = as_object(row["question"], "question", where), as_object(row["label"], "label", where)
    steps: list[str] = []
    ratings: list[float] = []
    for entry in entries(label, "steps", where):
        step = as_object(entry, "steps", where)
        completions = [as_object(c, "completions", where) for c in step.get("completions") or []]
        if completions:
            most = len(completions) - 1
            picked = completions[int(number(step, "chosen_completion", where, 0.0, least=0, most=most))]
            steps.append(string(picked, "text", where))
            ratings.append(number(picked, "rating", where, None))
    return in_steps(string(question, "problem", where), steps, ratings)


def first_mistake(row: Row, where: str) -> Example:
    """BIG-Bench Mistake: steps and the place of the first wrong one, none where all are right."""
    steps = [str(s) for s in entries(row, "steps", where)]
    wrong = len(steps)
    if row.get("mistake_index") is not None:
        wrong = int(number(row, "mistake_index", where, None, least=0))
    return in_steps(string(row, "input", where), steps, [float(i < wrong) for i in range(min(wrong + 1, len(steps)))])


def votes(row: Row, where: str) -> Example:
    """PandaLM: two responses and annotators' verdicts, 0 for a tie; agreement is their share."""
    asked = string(row, "instruction", where) + (f"\n{row['input']}" if row.get("input") else "")
    votes = [v for k, v in sorted(row.items()) if re.fullmatch(r"annotator\d+", k) and v in (0, 1, 2)]
    texts = [str(row["response1"]), str(row["response2"])]
    first = sum({1: 1.0, 2: 0.0, 0: 0.5}[v] for v in votes) / len(votes) if votes else 0.5
    if first < 0.5:
        texts.reverse()
    ranks = (0, 0) if first == 0.5 else (0, 1)
    return Example("", asked, tuple(texts), ranks, agreement=max(first, 1 - first))


def two_outputs(row: Row, where: str) -> Example:
    """LLMBar: two outputs and the number of the better one."""
    better = int(number(row, "label", where, None, least=1.0, most=2.0))
    texts = [string(row, f"output_{i}", where) for i in (better, 3 - better)]
    return Example("", string(row, "input", where), tuple(texts), (0, 1))


def fine_grained(row: Row, where: str) -> Example:
    """Fine-grained RLHF: four predictions with all pairwise preferences (1, 2, or 0 for equal), ranked by wins."""
    texts = [string(row, f"prediction {i}", where) for i in range(1, 5)]
    verdicts = entries(row, "preference", where)
    wins = [0.0] * 4
    if len(verdicts) != 6 or not all(isinstance(v, int) for v in verdicts):
        raise ValueError(f"{where}: column 'preference' needs six verdicts of 0, 1 or 2; got {verdicts!r:.80}")
    for (a, b), verdict in zip(combinations(range(4), 2), verdicts, strict=True):
        wins[a] += {1: 1.0, 0: 0.5}.get(verdict, 0.0)
        wins[b] += {2: 1.0, 0: 0.5}.get(verdict, 0.0)
    order = sorted(range(4), key=lambda i: -wins[i])
    ranks = tuple(sum(w > wins[i] for w in wins) for i in order)
    return Example("", string(row, "question", where), tuple(texts[i] for i in order), ranks)


def tree(row: Row, where: str) -> list[Example]:
    """OASST: every message with ranked replies is a ranking under the conversation that leads to it."""
    found: list[Example] = []
    waiting: list[tuple[tuple[Message, ...], Mapping[str, Any]]] = [((), as_object(row["prompt"], "prompt", where))]
    while waiting:
        before, node = waiting.pop()
        role: Role = "user" if node.get("role") == "prompter" else "assistant"
        here = (*before, Message(role, string(node, "text", where)))
        replies = [as_object(r, "replies", where) for r in node.get("replies") or []]
        waiting += [(here, reply) for reply in replies]
        ranked = [(int(number(r, "rank", where, None)), r) for r in replies if r.get("rank") is not None]
        ranked.sort(key=lambda pair: pair[0])
        if len(ranked) > 1 and role == "user":
            answers = tuple((Message("assistant", string(r, "text", where)),) for _, r in ranked)
            found.append(Example("", here, answers, tuple(rank for rank, _ in ranked)))
    return found


def solutions(row: Row, where: str) -> list[Example]:
    """GSM8K's model solutions: every column with a solution and whether it is right is a judged answer."""
    judged = [v for v in row.values() if isinstance(v, dict) and isinstance(v.get("is_correct"), bool)]
    asked = string(row, "question", where)
    return [Example("", asked, (string(v, "solution", where),), label=float(v["is_correct"])) for v in judged]


def question(row: Row, where: str) -> Example:
    return Example("", string(row, "question", where), (string(row, "answer", where),))


def images(row: Row, where: str) -> Example:
    raise NotText(f"{where}: a pair of images for a caption (Pick-a-Pic); text methods cannot use it")


def verdict_alone(row: Row, where: str) -> Example:
    raise NotText(f"{where}: a judgement without the texts that were judged; it is for statistics, not for training")


def verl(row: Row, where: str) -> Example:
    """verl's prompts: what its reward functions see are columns, those inside `extra_info` as well."""
    reward, extra = (row.get(c) if isinstance(row.get(c), dict) else {} for c in ("reward_model", "extra_info"))
    assert isinstance(reward, dict) and isinstance(extra, dict)
    info = {**extra, "ground_truth": reward.get("ground_truth"), "extra_info": dict(extra)}
    return Example("", as_text(row["prompt"], "prompt", where), info=info)


def input_and_output(row: Row, where: str) -> Example:
    """OpenRLHF's instruction rows; with a label, answers judged good or bad."""
    label = None if row.get("label") is None else number(row, "label", where, None)
    return Example("", as_text(row["input"], "input", where), (as_text(row["output"], "output", where),), label=label)


def context_messages(row: Row, where: str) -> Example:
    return Example("", as_text(row["context_messages"], "context_messages", where))


def first_turn(row: Row, where: str) -> Example:
    first, *later = entries(row, "turns", where)
    return Example("", as_text(first, "turns", where), info={"later_turns": later})
