"""Conversations to text: the only file that applies chat templates.

What the assistant says is found in any template by rendering the conversation twice, up to its turn and with it.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from clew.data.example import Example
from clew.data.messages import tool_names
from clew.types import Message, Role, Text

TEMPLATES = {
    "transcript": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '\n\nAssistant: ' + m['content'] + eos_token }}"
        "{% else %}{{ '\n\nHuman: ' + m['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
"""For tokenizers that bring none: HH's transcript, where every answer ends with EOS, and ChatML."""


SPELT = "tokens for a mark of the template, which this tokenizer does not have; transcript is cheaper"


class Reply(NamedTuple):
    """A turn of the assistant as text.

    Example: `Reply("<|user|>How was it?</s><|assistant|>", "Lovely.</s>")`
    """

    prompt: str
    """All that stands before it when it is sampled."""
    said: str
    """To the token that ends the turn; what follows that one, such as a newline, is nobody's."""


class Template:
    """The chat template of a tokenizer, or a named one, or a file's, which the tokenizer then keeps."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str | None, options: Mapping[str, Any]) -> None:
        if name is not None:
            tokenizer.chat_template = TEMPLATES.get(name) or Path(name).read_text(encoding="utf-8")
        self.options = dict(options)
        self.counts: Counter[str] = Counter()
        marks = set(re.findall(r"<\|\w+\|>", str(tokenizer.chat_template))) if name is not None else set[str]()
        spelt = max((len(tokenizer(mark, add_special_tokens=False).input_ids) for mark in marks), default=1)
        if spelt > 1:
            self.counts[SPELT] = spelt
        self._tokenizer = tokenizer
        others = [tokenizer.bos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id]
        added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special = {*tokenizer.all_special_ids, *added}
        self.ends = {i for i in special if i not in others or i == tokenizer.eos_token_id}
        """Tokens that may end a turn: the special ones but BOS, padding and unknown."""
        self._marks = re.compile("|".join(re.escape(self._word(i)) for i in sorted(self.ends)))

    def prompt(self, example: Example) -> str:
        """What the assistant goes on from."""
        return self._render(example, as_turns(example.prompt, "user"), generate=True)

    def replies(self, example: Example, answer: Text) -> list[Reply]:
        """Every turn of the assistant in an answer, each rendered as the last of its conversation.

        Raises ValueError, naming the row, where there is none, where the template refuses the conversation or leaves
        tool calls out, and where a turn does not go on from its prompt.
        """
        before = as_turns(example.prompt, "user")
        messages = (*before, *as_turns(answer, "assistant"))
        places = [i for i in range(len(before), len(messages)) if messages[i].role == "assistant"]
        if not places:
            raise ValueError(f"row {example.id}: a conversation has no assistant turn to learn from: {messages!r:.120}")
        found = [self._reply(example, messages, i) for i in places]
        if any(name not in found[-1].prompt for name in tool_names(example.info.get("tools") or [])):
            self.counts["rows with tools that the template does not show"] += 1
        return found

    @cached_property
    def turn_end(self) -> str:
        """The first special token after what the assistant says; empty where the template has none."""
        turn = self._render(Example("of a test", ()), (Message("user", "ask"), Message("assistant", "tell")))
        found = self._marks.search(turn, turn.rfind("tell"))
        return found.group() if found else ""

    def _reply(self, example: Example, messages: Sequence[Message], i: int) -> Reply:
        thought, spoken = _parts(messages[i])
        prompt = self._render(example, messages[:i], generate=True)
        whole = self._render(example, messages[: i + 1])
        if i == 0:  # nothing to sample after: what stands before the words is not learnt
            prompt = whole[: max(whole.find(spoken.strip()), 0)]
        said = self._until_end(_continuation(prompt, whole, thought, example.id))
        for name in tool_names(json.loads(messages[i].tool_calls or "[]")):
            if name not in said:
                raise ValueError(
                    f"row {example.id}: the chat template leaves out a call of the tool {name!r}; set "
                    "encoding.template to one that writes tool calls"
                )
        if any(words.strip() not in said for words in (thought, spoken)):
            self.counts["turns of which the template leaves words out"] += 1
        return Reply(prompt, said)

    def _render(self, example: Example, messages: Sequence[Message], *, generate: bool = False) -> str:
        if self._tokenizer.chat_template is None:
            raise ValueError(
                "the data are conversations and the tokenizer has no chat template; set encoding.template to "
                f"{', '.join(TEMPLATES)} or a Jinja file"
            )
        if not messages:
            return ""
        turns = [m.as_row() | ({"reasoning_content": m.thinking} if m.thinking else {}) for m in messages]
        options = {**self.options, "tools": example.info.get("tools") or None, "add_generation_prompt": generate}
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except TemplateError as error:
            raise ValueError(
                f"row {example.id}: the chat template refuses turns of {', '.join(m.role for m in messages)}: {error}; "
                "change the row, or set encoding.template"
            ) from error

    def _until_end(self, said: str) -> str:
        """Without what follows the end of the turn: a newline, and what ends a whole text (Phi-3)."""
        words, end, after = said.rpartition(self.turn_end) if self.turn_end else ("", "", said)
        return words + end if end and not self._marks.sub("", after).strip() else said.rstrip()

    def _word(self, token: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token))


def as_turns(text: Text, role: Role) -> tuple[Message, ...]:
    """A conversation; plain text is one turn of `role`, and an empty prompt none."""
    if isinstance(text, str):
        return (Message(role, text),) if text or role == "assistant" else ()
    return text


def in_context(example: Example, context: str) -> Example:
    """The example with a context before its prompt: the beginning of plain text, or the system's turn."""
    if isinstance(example.prompt, str) and all(isinstance(answer, str) for answer in example.answers):
        return replace(example, prompt=context + example.prompt)
    turns = as_turns(example.prompt, "user")
    answers = tuple(as_turns(answer, "assistant") for answer in example.answers)
    if not turns and answers:  # a conversation from its beginning
        turns = tuple(takewhile(lambda message: message.role != "assistant", answers[0]))
        answers = (answers[0][len(turns) :],)
    if turns and turns[0].role == "system":
        context, turns = f"{context}\n\n{turns[0].content}", turns[1:]
    return replace(example, prompt=(Message("system", context), *turns), answers=answers)


def _parts(message: Message) -> tuple[str, str]:
    """What was thought, and what was said; the content may hold both."""
    thought, end, said = message.content.partition("</think>")
    if message.thinking or not end:
        return message.thinking.strip("\n"), message.content
    return thought.strip().removeprefix("<think>").strip("\n"), said


def _continuation(prompt: str, whole: str, thought: str, name: str) -> str:
    """How the turn goes on from its prompt.

    The prompt may open a block of thinking, or skip it with an empty one, and the rendered turn be without either
    (DeepSeek-R1, QwQ): what was thought is put back.
    """
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    before, mark, block = prompt.rpartition("<think>")
    said = whole[len(before) :]
    if mark and whole.startswith(before) and not said.startswith("<think>"):
        if block.strip() == "</think>" and not thought:
            return said
        if not block.strip() and thought:
            return thought + (said if said.startswith("</think>") else "\n</think>\n\n" + said.lstrip("\n"))
    raise ValueError(
        f"row {name}: the chat template lets the assistant go on from {prompt[-40:]!r}, and writes its turn as "
        f"{whole[-60:]!r}; expected a turn that goes on from its prompt: where that opens a block of thinking, give "
        "`thinking`, else set encoding.template_options or encoding.template"
    )
