"""Text to tokens and masks: the only file that applies chat templates and the only one that tokenises.

One function, `Codec.answer`, serves SFT, preference data, reward models and evaluation; `Codec.prompt` serves
sampling. A text is rendered and tokenised once, and what is supervised is found by character offsets.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from clew.config import Config
from clew.data.formats import Example
from clew.types import Message, Prompt, Text

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


class Encoding(Config):
    """How text becomes tokens."""

    template: str | None = None
    """transcript, chatml, or a Jinja file; the tokenizer's own when absent."""
    max_length: int = 512
    """Tokens of prompt and answer together."""
    truncation: Literal["error", "drop", "truncate_prompt_left", "truncate_completion"] = "error"
    """What happens to a longer row. Every policy is counted and reported."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens with the mask of those that are supervised.

    Example: `Encoded([1, 403, 55, 2], [False, False, True, True], True)`
    """

    tokens: list[int]
    mask: list[bool]
    complete: bool
    """Ends with a supervised stop token; False where the answer was cut."""


Item = tuple[Example, list[Encoded]]
"""An example with its answers, encoded."""


class TooLong(ValueError):
    """A row does not fit and the truncation policy is "error"."""


class Codec:
    """A tokenizer with its template, its truncation policy, and a count of what happened to the rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoding: Encoding) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} gives no character offsets; use a fast tokenizer")
        self.tokenizer = tokenizer
        self.encoding = encoding
        self.counts: Counter[str] = Counter()
        self._turn_end: int | None = None
        if encoding.template is not None:
            name = encoding.template
            tokenizer.chat_template = TEMPLATES.get(name) or Path(name).read_text(encoding="utf-8")

    def prompt(self, example: Example, max_tokens: int) -> Prompt | None:
        """What an engine continues, with room for `max_tokens`; None when the policy is to drop it."""
        if isinstance(example.prompt, str):
            text, special = example.prompt, True
        else:
            text, special = self._render(example.prompt, generate=True), False
        tokens = list(self.tokenizer(text, add_special_tokens=special).input_ids)
        if special:
            tokens = self._without_stop(tokens)
        kept = self._fit(tokens, [], self.encoding.max_length - max_tokens, example.id, len(tokens))
        self.counts["prompts"] += kept is not None
        return None if kept is None else Prompt(example.id, kept[0], text, example.info)

    def prompts(self, examples: Sequence[Example], max_tokens: int) -> list[Prompt]:
        """What an engine continues, without those that are dropped."""
        kept = [prompt for e in examples if (prompt := self.prompt(e, max_tokens)) is not None]
        if not kept:
            raise ValueError(f"no prompt is left after encoding ({dict(self.counts)}); raise max_length")
        return kept

    def encode(self, example: Example) -> list[Encoded] | None:
        """All answers of an example, each after the prompt; None when one of them is dropped.

        The stop token of every answer is supervised, but for answers that were cut and have none.
        """
        if not example.answers:
            raise ValueError(
                f"row {example.id} has a prompt and no answer to learn from; its other columns: "
                f"{sorted(example.info)}, expected prompt + completion, chosen + rejected, messages or text"
            )
        rows = [self._tokens(example, i) for i in range(len(example.answers))]
        longest = max(len(tokens) for tokens, _, _ in rows)
        encoded = [self._finish(*row, longest, example.id) for row in rows]
        whole = [e for e in encoded if e is not None]
        return whole if len(whole) == len(encoded) else None

    def answers(self, examples: Sequence[Example]) -> list[Item]:
        """Examples with all their answers encoded, without those of which one was dropped."""
        kept: list[Item] = []
        for example in examples:
            encoded = self.encode(example)
            if encoded is not None:
                kept.append((example, encoded))
        if not kept:
            raise ValueError(f"no row is left after encoding ({dict(self.counts)}); raise max_length or check the data")
        return kept

    def _tokens(self, example: Example, number: int) -> tuple[list[int], list[bool], bool]:
        """Tokens of prompt and answer, what is supervised, and whether the answer has its end."""
        answer, whole = example.answers[number], number not in example.cut
        if isinstance(answer, str) and isinstance(example.prompt, str):
            tokens, mask = self._plain(example.prompt, answer)
        else:
            tokens, mask = self._conversation(example.prompt, answer)
        while not whole and tokens[-1] in self.stops():
            tokens, mask = tokens[:-1], mask[:-1]
        return tokens, mask, whole

    def _plain(self, prompt: str, answer: str) -> tuple[list[int], list[bool]]:
        """Tokenised together, since tokenizers join across the border; a token that crosses it is the answer's."""
        encoded = self.tokenizer(prompt + answer, return_offsets_mapping=True)
        tokens = self._without_stop(list(encoded.input_ids))
        offsets = encoded["offset_mapping"][: len(tokens)]
        first = next((i for i, (start, end) in enumerate(offsets) if end > max(len(prompt), start)), len(tokens))
        self.counts["tokens across the border"] += sum(start < len(prompt) < end for start, end in offsets)
        return [*tokens, self._stop()], [i >= first for i in range(len(tokens) + 1)]

    def _conversation(self, prompt: Text, answer: Text) -> tuple[list[int], list[bool]]:
        """Rendered whole; supervised is what the assistant says in the answer, with the template's end of turn."""
        before = (Message("user", prompt),) if isinstance(prompt, str) and prompt else tuple(prompt)
        after = (Message("assistant", answer),) if isinstance(answer, str) else tuple(answer)
        messages = [*before, *after]  # type: ignore[list-item]
        whole = self._render(messages)
        spans = [
            self._span(messages, i, whole) for i in range(len(before), len(messages)) if messages[i].role == "assistant"
        ]
        if not spans:
            raise ValueError(f"a conversation has no assistant turn to learn from: {messages!r:.120}")
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        tokens = list(encoded.input_ids)
        mask = [
            # Some tokenizers give blanks no width: inside a span they are the answer's.
            any(a <= start and end <= b and (end > start or a < start < b) for a, b in spans)
            for start, end in encoded["offset_mapping"]
        ]
        end = max(i for i, supervised in enumerate(mask) if supervised) + 1
        tokens, mask = tokens[:end], mask[:end]
        if tokens[-1] not in self.stops():
            tokens, mask = [*tokens, self._stop()], [*mask, True]
        return tokens, mask

    def _span(self, messages: list[Message], i: int, whole: str) -> tuple[int, int]:
        """Characters of turn i in the rendered whole, found by rendering what comes before and with it."""
        start = self._render(messages[:i], generate=True)
        end = self._render(messages[: i + 1])
        if not (whole.startswith(start) and whole.startswith(end)):
            raise ValueError(
                "the chat template rewrites earlier turns, so that what the assistant said there cannot be found; "
                "give one row per answer, each with its answer as the last turn"
            )
        return len(start), len(start) + len(end[len(start) :].rstrip())

    def _render(self, messages: Sequence[Message], *, generate: bool = False) -> str:
        if self.tokenizer.chat_template is None:
            raise ValueError(
                "the data are conversations and the tokenizer has no chat template; set encoding.template to "
                f"{', '.join(TEMPLATES)} or a Jinja file"
            )
        turns = [{"role": m.role, "content": m.content} for m in messages]
        if not turns:
            return ""
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate))

    def _finish(self, tokens: list[int], mask: list[bool], whole: bool, longest: int, name: str) -> Encoded | None:
        """Within max_length; answers of one example, the longest of `longest` tokens, keep the same prompt."""
        for special in (self.tokenizer.bos_token_id, self._stop()):
            if special is not None and any(a == b == special for a, b in pairwise(tokens)):
                raise ValueError(f"row {name}: token {special} stands twice in a row; the template adds it as well")
        if mask[0]:  # nothing predicts a first token
            mask = [False, *mask[1:]]
        first = mask.index(True) if any(mask) else len(mask)
        kept = self._fit(tokens[:first], tokens[first:], self.encoding.max_length, name, longest)
        if kept is None:
            return None
        prompt, answer = kept
        start = first - len(prompt)
        supervised = mask[start : start + len(prompt) + len(answer)]
        self.counts["rows"] += 1
        return Encoded(prompt + answer, supervised, whole and len(answer) == len(tokens) - first)

    def _fit(
        self, prompt: list[int], answer: list[int], room: int, name: str, longest: int
    ) -> tuple[list[int], list[int]] | None:
        """The one truncation policy. A prompt keeps its first token, which is BOS where there is one."""
        policy = self.encoding.truncation
        if policy == "truncate_prompt_left" and 0 < longest - room < len(prompt) - 1:
            self.counts["prompts truncated"] += 1
            return prompt[:1] + prompt[1 + longest - room :], answer
        excess = len(prompt) + len(answer) - room
        if excess <= 0:
            return prompt, answer
        if policy == "truncate_completion" and len(answer) > excess:
            self.counts["answers truncated (no stop token)"] += 1
            return prompt, answer[:-excess]
        if policy == "error":
            raise TooLong(
                f"row {name}: {len(prompt)} prompt and {len(answer)} answer tokens exceed {room}; raise max_length, or "
                "set truncation to drop, truncate_prompt_left or truncate_completion"
            )
        self.counts["rows dropped (too long)"] += 1
        return None

    def _stop(self) -> int:
        stop = self.tokenizer.eos_token_id
        assert isinstance(stop, int), "a model without EOS is refused at load"
        return stop

    def stops(self) -> set[int]:
        """EOS and, where the chat template ends a turn with another special token, that one."""
        if self._turn_end is None and self.tokenizer.chat_template is not None:
            turn = self._render([Message("user", "x"), Message("assistant", "x")])
            last = self.tokenizer(turn.rstrip(), add_special_tokens=False).input_ids[-1]
            others = (self.tokenizer.bos_token_id, self.tokenizer.unk_token_id, self.tokenizer.pad_token_id)
            is_end = last in self.tokenizer.all_special_ids and last not in others
            self._turn_end = last if is_end else self._stop()
        return {self._stop()} if self._turn_end is None else {self._stop(), self._turn_end}

    def _without_stop(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens and tokens[-1] == self.tokenizer.eos_token_id else tokens
