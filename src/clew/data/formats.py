"""The formats of rows that clew reads: its own, which are TRL's, and those of other tools and public sets.

`FORMATS` at the foot is the table: the first whose columns are all there is the row's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import cast

from clew.data import exports, foreign
from clew.data.columns import as_text, cut_places, entries, number, string
from clew.data.example import Example, Row, in_steps, prompt_id, ranked
from clew.data.guess import advice
from clew.data.messages import as_tools
from clew.data.votes import voted
from clew.types import Message, Role, Text


@dataclass(frozen=True, slots=True)
class Format:
    """How rows with certain columns become examples.

    Example: `Format("demonstration", "a prompt with its answer", ("prompt", "completion"), single)`
    """

    name: str
    about: str
    """What a row holds and how it is read, for people."""
    columns: tuple[str, ...]
    """All must be there; `*.end` is any column with that end."""
    parse: Callable[[Row, str], Example | list[Example]]
    optional: tuple[str, ...] = ()
    """Other columns that `parse` reads; the rest go to `Example.info`."""


def format_of(row: Row) -> Format | None:
    """The format of a row by its columns; None when it is of no known one."""
    return next((f for f in FORMATS if all(_has(row, column) for column in f.columns)), None)


def _has(row: Row, column: str) -> bool:
    if column.startswith("*"):
        return any(name.endswith(column[1:]) for name in row)
    return row.get(column) is not None


def parse_row(row: Row, where: str) -> list[Example]:
    """The examples of a row: one, several of a tree, none of an export nobody has answered. `where` names it in errors.

    Raises ValueError naming the column that is wrong, or the columns when they are of no known format.
    """
    form = format_of(row)
    if form is None:
        known = advice([c for c in row if row[c] is not None], [f.columns for f in FORMATS])
        raise ValueError(f"{where}: columns {sorted(row)} are of no known format; {known}")
    found = form.parse(row, where)
    used = {*form.columns, *form.optional, "weight", "cut"}
    info = {k: v for k, v in row.items() if k not in used}
    weight = number(row, "weight", where, 1.0, least=0.0)
    examples = found if isinstance(found, list) else [found]
    if info.get("tools") and any(not isinstance(text, str) for e in examples for text in (e.prompt, *e.answers)):
        info["tools"] = as_tools(info["tools"], where)
    return [replace(e, id=_prompt_id(e), weight=weight, info={**info, **e.info}) for e in examples]


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
    return _compared(row, None if row.get("prompt") is None else as_text(row["prompt"], "prompt", where), where)


def _asked(row: Row, where: str) -> Example:
    """A pair whose prompt is called question or input; a column `system` makes that a conversation."""
    column = "question" if row.get("question") is not None else "input"
    prompt = as_text(row[column], column, where)
    if "system" in row:
        system = [Message("system", string(row, "system", where))] if row["system"] else []
        prompt = (*system, Message("user", prompt)) if isinstance(prompt, str) else (*system, *prompt)
    return _compared(row, prompt, where)


def _compared(row: Row, prompt: Text | None, where: str) -> Example:
    """A pair; without a prompt, that is what both answers begin with."""
    chosen, rejected = (as_text(row[c], c, where) for c in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError(f"{where}: 'chosen' and 'rejected' must both be text or both messages")
    if prompt is None or _repeats(prompt, chosen, rejected):
        before = _not_repeated(prompt, chosen)
        prompt, chosen, rejected = _common_prompt(chosen, rejected, where)
        prompt = (*before, *prompt) if before and not isinstance(prompt, str) else prompt
    elif isinstance(prompt, str) and not isinstance(chosen, str):
        prompt = (Message("user", prompt),) if prompt else ()
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
    messages = _messages(row, where)
    if row.get("label") is None:
        return Example("", (), (messages,))
    return Example("", messages[:-1], (messages[-1:],), label=number(row, "label", where, None))


def _begun(row: Row, where: str) -> Example:
    """A conversation with a column `prompt`: it begins with one, which is all before the assistant's first turn."""
    messages = _messages(row, where)
    begin = tuple(takewhile(lambda m: m.role != "assistant", messages))
    if row.get("label") is not None or len(begin) == len(messages):
        return _conversation(row, where)
    return Example("", begin, (messages[len(begin) :],))


def _messages(row: Row, where: str) -> tuple[Message, ...]:
    messages = as_text(row["messages"], "messages", where)
    if isinstance(messages, str):
        raise ValueError(f"{where}: column 'messages' needs a list of messages; got text")
    return messages


def _text_alone(row: Row, where: str) -> Example:
    """Text to learn from; a label in numbers is what is judged of it, one in words goes along."""
    text, label = (string(row, "text", where),), row.get("label")
    if isinstance(label, str) or label is None:
        return Example("", "", text, info={} if label is None else {"label": label})
    return Example("", "", text, label=number(row, "label", where, None))


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


def _not_repeated(prompt: Text | None, conversation: Text) -> tuple[Message, ...]:
    """Turns of the prompt that a conversation leaves out, such as the system's."""
    if not prompt or isinstance(prompt, str) or isinstance(conversation, str):
        return ()
    for num in range(min(len(prompt), len(conversation)), 0, -1):
        if prompt[-num:] == conversation[:num]:
            return prompt[:-num]
    if prompt[-1].role != conversation[0].role:
        return prompt
    return tuple(takewhile(lambda m: m.role == "system" and m not in conversation, prompt))


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
PAIR = ("margin", "agreement")
MIN = ("annotator", "annotation_id", "lead_time")
FORMATS = (
    Format("labels (Argilla)", "fields are texts; responses order, rate or write them",
           ("fields", "responses"), exports.argilla, ("suggestions", "vectors", "_server_id")),
    Format("labels (Argilla, flat)", "columns are texts, question.responses what people said of them",
           ("*.responses",), exports.argilla_flat),
    Format("labels (Argilla, flat)", "columns are texts, question.suggestion what a model said of them",
           ("*.suggestion",), exports.argilla_flat),
    Format("labels (Label Studio)", "data holds texts; annotations order, rate or write them",
           ("data", "annotations"), exports.label_studio, ("predictions", "drafts")),
    Format("labels (Label Studio, JSON-MIN)", "data and one person's answers side by side",
           MIN, exports.label_studio_min),
    Format("steps with labels (TRL stepwise)", "a solution in steps, each right or wrong",
           ("prompt", "completions", "labels"), _stepwise),
    Format("steps with ratings (PRM800K)", "a solution in steps, each rated; the chosen completion of each is kept",
           ("question", "label"), foreign.prm800k),
    Format("steps with the first mistake (BIG-Bench Mistake)", "a solution in steps, right up to mistake_index",
           ("input", "steps"), foreign.first_mistake, ("mistake_index",)),
    Format("ranking of K", "a prompt and K answers, best first, or in the order of ranks",
           ("prompt", "completions"), _ranking, ("ranks",)),
    Format("ranking of K (NeMo)", "a context and K completions, each with its rank, 0 the best",
           ("context", "completions"), _ranking),
    Format("ranking of K (Nectar)", "a prompt and K answers, each with its rank, 1 the best",
           ("prompt", "answers"), foreign.ranked_answers),
    Format("ranking of K by votes (Stack Exchange)", "a question and answers with votes or pm_score; two or more rank",
           ("question", "answers"), voted),
    Format("ranking of K (OASST tree)", "a tree of turns; every turn with ranked replies is a ranking",
           ("message_tree_id", "prompt"), foreign.tree),
    Format("ranking of four (fine-grained RLHF)", "four answers with all pairwise preferences, ranked by wins",
           ("question", "prediction 1", "preference"), foreign.fine_grained),
    Format("pair (LLaMA-Factory sharegpt)", "a conversation and two replies: chosen is better",
           ("conversations", "chosen", "rejected"), foreign.sharegpt, ("system",)),
    Format("pair (LLaMA-Factory alpaca)", "an instruction and two answers: chosen is better",
           ("instruction", "chosen", "rejected"), foreign.alpaca, ALPACA),
    Format("pair of summaries (TL;DR)", "a post and two summaries: the number in choice is the better one",
           ("info", "summaries", "choice"), foreign.summaries),
    Format("pair with votes (PandaLM)", "two responses; the annotators' majority is better, its share the agreement",
           ("instruction", "response1", "response2"), foreign.votes, ("input",)),
    Format("pair (LLMBar)", "two outputs; the number in label is the better one",
           ("input", "output_1", "output_2", "label"), foreign.two_outputs),
    Format("pair", "a prompt and two answers: chosen is better than rejected",
           ("prompt", "chosen", "rejected"), _pair, PAIR),
    Format("pair with its question", "a question and two answers, perhaps with a system turn: chosen is better",
           ("question", "chosen", "rejected"), _asked, (*PAIR, "system")),
    Format("pair with its input", "an input and two answers, perhaps with a system turn: chosen is better",
           ("input", "chosen", "rejected"), _asked, (*PAIR, "system")),
    Format("pair, prompt in common", "two conversations or transcripts; the prompt is what both begin with",
           ("chosen", "rejected"), _pair, PAIR),
    Format("pair of images (Pick-a-Pic)", "two images for a caption: a preference, and not of texts",
           ("caption", "label_0", "label_1"), foreign.images),
    Format("verdict without answers (arena)", "which of two models won; the texts are elsewhere",
           ("model_a", "model_b", "winner"), foreign.verdict_alone),
    Format("verdict without answers (PandaLM)", "which of two responses a model preferred; the texts are elsewhere",
           ("idx", "*_result"), foreign.verdict_alone),
    Format("label of a crowd worker, without texts", "what one worker said of one item; the items are elsewhere",
           ("item", "worker", "label"), foreign.verdict_alone),
    Format("true label of an item, without texts", "what an item is; the items are elsewhere",
           ("item", "truth"), foreign.verdict_alone),
    Format("demonstration (LLaMA-Factory alpaca)", "an instruction with its answer, perhaps with a thumb",
           ("instruction", "output"), foreign.alpaca, (*ALPACA, "kto_tag")),
    Format("conversation (LLaMA-Factory sharegpt)", "turns of human and gpt; the assistant's are learnt",
           ("conversations",), foreign.sharegpt, ("system", "kto_tag")),
    Format("demonstration", "a prompt with its answer, perhaps with a label or rating",
           ("prompt", "completion"), _single, ("label", "rating")),
    Format("question and answer", "a question with its answer",
           ("question", "answer"), foreign.question),
    Format("solutions judged right or wrong (GSM8K)", "each column with a solution is an answer, right or wrong",
           ("question", "ground_truth"), foreign.solutions),
    Format("prompt with its ground truth (verl)", "a prompt; rewards see ground_truth and what is in extra_info",
           ("prompt", "reward_model"), foreign.verl, ("extra_info",)),
    Format("conversation with its prompt", "a prompt, and turns that begin with it; the assistant's are learnt",
           ("prompt", "messages"), _begun, ("label",)),
    Format("prompt", "a prompt, for a policy to answer",
           ("prompt",), _prompt),
    Format("prompt (MT-bench)", "questions in turns; the first is the prompt",
           ("question_id", "turns"), foreign.first_turn),
    Format("prompt (OpenRLHF)", "a conversation for a policy to answer",
           ("context_messages",), foreign.context_messages),
    Format("demonstration (OpenRLHF)", "an input with its output, perhaps with a label",
           ("input", "output"), foreign.input_and_output, ("label",)),
    Format("conversation", "turns; the assistant's are learnt, with a label the last one is judged",
           ("messages",), _conversation, ("label",)),
    Format("text", "plain text, perhaps with a label",
           ("text",), _text_alone, ("label",)),
)  # fmt: skip
