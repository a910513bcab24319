"""Text to tokens and masks: the only file that tokenises.

`Codec.encode` serves SFT, preference data and reward models; `Codec.prompt` serves sampling. A turn is learnt after
exactly the tokens that it is sampled after; the earlier turns of its row are found by character offsets.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from clew.config import Config
from clew.data.example import Example
from clew.data.template import Reply, Template
from clew.track import in_chunks, unheard
from clew.types import Prompt

TOGETHER = 512
"""Examples whose texts are tokenised in one call, which takes all cores."""


class Encoding(Config):
    """How text becomes tokens."""

    template: str | None = None
    """transcript, chatml, or a Jinja file; the tokenizer's own when absent."""
    template_options: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """What the template reads besides messages and tools, such as enable_thinking or date_string."""
    max_length: int = Field(default=512, ge=1)
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


class Tokens(NamedTuple):
    """A text's tokens and the characters of each."""

    ids: list[int]
    places: list[tuple[int, int]]


Asked = tuple[Reply, Tokens]
"""A reply with the tokens of its prompt."""


class TooLong(ValueError):
    """A row does not fit and the truncation policy is "error"."""


class Codec:
    """A tokenizer with its template, its truncation policy, and a count of what happened to the rows.

    Where that takes long, `note` is told how far it is.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, encoding: Encoding, note: Callable[[str], None] = unheard
    ) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} gives no character offsets; use a fast tokenizer")
        self.tokenizer = tokenizer
        self.encoding = encoding
        self.template = Template(tokenizer, encoding.template, encoding.template_options)
        self.counts = self.template.counts
        self._seen_ends: set[int] = set()
        self._note = note
        self._known: dict[tuple[str, bool], Tokens] = {}
        """Texts tokenised ahead, with and without special tokens added."""

    def summary(self) -> str:
        """What happened to the rows, in words."""
        return ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)

    def prompt(self, example: Example, max_tokens: int) -> Prompt | None:
        """What an engine continues, with room for `max_tokens`; None when the policy is to drop it."""
        if isinstance(example.prompt, str) and all(isinstance(answer, str) for answer in example.answers):
            text = example.prompt
            tokens = self._without_stop(self._tokens(text, special=True).ids)
        else:
            text = self.template.prompt(example)
            tokens = self._tokens(text).ids
        self._check_doubles(tokens, example.id)
        kept = self._fit(tokens, [], self.encoding.max_length - max_tokens, example.id, len(tokens))
        self.counts["prompts"] += kept is not None
        return None if kept is None else Prompt(example.id, kept[0], text, example.info)

    def prompts(self, examples: Sequence[Example], max_tokens: int) -> list[Prompt]:
        """What an engine continues, without those that are dropped."""
        chunks = in_chunks(examples, TOGETHER, "encoding prompts", self._note)
        kept = [prompt for chunk in chunks for e in chunk if (prompt := self.prompt(e, max_tokens)) is not None]
        if not kept:
            raise ValueError(f"no prompt is left after encoding ({dict(self.counts)}); raise max_length")
        return kept

    def encode(self, example: Example) -> list[Encoded] | None:
        """All answers of an example, each after the prompt; None when one of them is dropped.

        A single answer with turns that the template rewrites later on (thinking removed) is several rows, each
        learning the turns that stand in it as they are sampled. The stop token of every turn is supervised, but for
        answers that were cut and have none.
        """
        return self._encoded(example, self._replies(example))

    def _encoded(self, example: Example, replies: Sequence[list[Reply]]) -> list[Encoded] | None:
        if not example.answers:
            raise ValueError(
                f"row {example.id} has a prompt and no answer to learn from; its other columns: "
                f"{sorted(example.info)}, expected prompt + completion, chosen + rejected, messages or text"
            )
        rows = [row for i, turns in enumerate(replies) for row in self._rows(example, i, turns)]
        compared = len(example.answers) > 1
        longest = max(len(row.tokens) for row in rows)
        fitted = [self._finish(row, longest if compared else len(row.tokens), example.id) for row in rows]
        kept = [row for row in fitted if row is not None]
        return None if not kept or (compared and len(kept) < len(rows)) else kept

    def answers(self, examples: Sequence[Example]) -> list[Item]:
        """Examples with all their answers encoded, without those of which one was dropped.

        An example with a single answer in several rows is there once for each.
        """
        kept: list[Item] = []
        for chunk in in_chunks(examples, TOGETHER, "encoding", self._note):
            replies = [self._replies(example) for example in chunk]
            self._tokenise(chunk, replies)
            for example, turns in zip(chunk, replies, strict=True):
                encoded = self._encoded(example, turns) or []
                groups = [encoded] if len(example.answers) > 1 else [[row] for row in encoded]
                kept += [(example, group) for group in groups if group]
        self._known = {}
        if not kept:
            raise ValueError(f"no row is left after encoding ({dict(self.counts)}); raise max_length or check the data")
        return kept

    def _replies(self, example: Example) -> list[list[Reply]]:
        """The assistant's turns in each answer; none where prompt and answer are plain text."""
        plain = isinstance(example.prompt, str)
        return [[] if plain and isinstance(a, str) else self.template.replies(example, a) for a in example.answers]

    def _tokenise(self, examples: Sequence[Example], replies: Sequence[Sequence[list[Reply]]]) -> None:
        """The texts of these examples ahead, together: on all cores, and a prompt once for all its answers."""
        wanted: dict[bool, list[str]] = {True: [], False: []}
        for example, answers in zip(examples, replies, strict=True):
            for answer, turns in zip(example.answers, answers, strict=True):
                if isinstance(answer, str) and isinstance(example.prompt, str):
                    wanted[True].append(example.prompt + answer)
                wanted[False] += [text for turn in turns for text in (turn.prompt, turn.prompt + turn.said)]
        self._known = {}
        for special, texts in wanted.items():
            if unique := list(dict.fromkeys(texts)):
                found = self.tokenizer(unique, add_special_tokens=special, return_offsets_mapping=True)
                tokens = map(Tokens, found["input_ids"], found["offset_mapping"])
                self._known |= {(text, special): each for text, each in zip(unique, tokens, strict=True)}

    def _rows(self, example: Example, number: int, turns: list[Reply]) -> list[Encoded]:
        """Prompt and answer: one row, or several for a conversation that is rewritten on its way."""
        answer = example.answers[number]
        if isinstance(answer, str) and isinstance(example.prompt, str):
            rows = [self._plain(example.prompt, answer)]
        else:
            rows = self._conversation(example, turns)
        return [*rows[:-1], self._without_end(rows[-1])] if number in example.cut else rows

    def _plain(self, prompt: str, answer: str) -> Encoded:
        """Tokenised together, since tokenizers join across the border; a token that crosses it is the answer's."""
        whole = self._tokens(prompt + answer, special=True)
        tokens = self._without_stop(whole.ids)
        offsets = whole.places[: len(tokens)]
        first = next((i for i, (start, end) in enumerate(offsets) if end > max(len(prompt), start)), len(tokens))
        self.counts["tokens across the border"] += sum(start < len(prompt) < end for start, end in offsets)
        return Encoded([*tokens, self._stop()], [i >= first for i in range(len(tokens) + 1)], True)

    def _conversation(self, example: Example, turns: list[Reply]) -> list[Encoded]:
        """What the assistant says in the answer, in as few rows as show every turn after its own prompt."""
        left = [(reply, self._tokens(reply.prompt)) for reply in turns]
        rows: list[Encoded] = []
        while left:
            row, left = self._row(left)
            rows.insert(0, row)
        if len(rows) > 1 and (len(example.answers) > 1 or example.label is not None):
            raise ValueError(
                f"row {example.id}: an answer that is judged as a whole has several assistant turns, and the chat "
                "template rewrites earlier turns or ends them without a stop token, so that no one row shows them all "
                "as they are sampled; move all but the last turn to the prompt, or set encoding.template"
            )
        if len(rows) > 1:
            self.counts["rows added, for turns that the template rewrites"] += len(rows) - 1
        return rows

    def _row(self, asked: list[Asked]) -> tuple[Encoded, list[Asked]]:
        """The last reply, with those before it that stand in its prompt as they are sampled; and the other ones."""
        last, prompt = asked[-1]
        row = self._joined(last, prompt)
        if len(row.ids) == len(prompt.ids) or row.ids[-1] not in self.template.ends:
            row.ids.append(self._stop())
        mask = [i >= len(prompt.ids) for i in range(len(row.ids))]
        ends, others = {row.ids[-1]}, list[Asked]()
        for reply, before in asked[:-1]:
            first, stop = len(before.ids), bisect_left(row.places, len(reply.prompt + reply.said), key=itemgetter(0))
            same = last.prompt.startswith(reply.prompt + reply.said) and row.ids[:first] == before.ids
            if same and first < stop and row.ids[stop - 1] in self.template.ends:
                mask[first:stop] = [True] * (stop - first)
                ends.add(row.ids[stop - 1])
            else:
                others.append((reply, before))
        self._seen_ends |= ends
        return Encoded(row.ids, mask, True), others

    def _joined(self, reply: Reply, prompt: Tokens) -> Tokens:
        """A reply after its prompt, whose tokens are as for sampling even where one would join both."""
        whole = self._tokens(reply.prompt + reply.said)
        if whole.ids[: len(prompt.ids)] == prompt.ids:
            return whole
        self.counts["tokens across the border"] += 1
        said, shift = self._tokens(reply.said), len(reply.prompt)
        return Tokens(prompt.ids + said.ids, prompt.places + [(a + shift, b + shift) for a, b in said.places])

    def _tokens(self, text: str, *, special: bool = False) -> Tokens:
        """Of a text; a rendered one brings its special tokens along. The lists are the caller's own."""
        known = self._known.get((text, special))
        if known is None:
            encoded = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
            known = Tokens(encoded["input_ids"], encoded["offset_mapping"])
        return Tokens(list(known.ids), list(known.places))

    def _finish(self, row: Encoded, longest: int, name: str) -> Encoded | None:
        """Within max_length; answers that are compared, the longest of `longest` tokens, keep the same prompt."""
        tokens, mask = row.tokens, [False, *row.mask[1:]]  # nothing predicts a first token
        self._check_doubles(tokens, name)
        if not any(mask):
            raise ValueError(
                f"row {name}: no token is left to learn from; its text: {self.tokenizer.decode(tokens)!r:.120}"
            )
        first = mask.index(True)
        kept = self._fit(tokens[:first], tokens[first:], self.encoding.max_length, name, longest)
        if kept is None:
            return None
        prompt, answer = kept
        start = first - len(prompt)
        supervised = mask[start : start + len(prompt) + len(answer)]
        self.counts["rows"] += 1
        return Encoded(prompt + answer, supervised, row.complete and len(answer) == len(tokens) - first)

    def _check_doubles(self, tokens: Sequence[int], name: str) -> None:
        for special in (self.tokenizer.bos_token_id, self._stop()):
            if tokens.count(special) > 1 and any(a == b == special for a, b in pairwise(tokens)):
                raise ValueError(
                    f"row {name}: token {special} stands twice in a row; the template adds it as well, or a text has it"
                )

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
        """EOS and the special tokens that end the assistant's turns in the chat template."""
        ends = {self._stop(), *self._seen_ends}
        if self.tokenizer.chat_template is not None and self.template.turn_end:
            ends |= set(self._tokens(self.template.turn_end).ids)
        return ends

    def _without_end(self, row: Encoded) -> Encoded:
        """An answer that was cut by length."""
        num = len(row.tokens)
        while num and row.tokens[num - 1] in self.stops():
            num -= 1
        return replace(row, tokens=row.tokens[:num], mask=row.mask[:num], complete=False)

    def _without_stop(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens and tokens[-1] == self.tokenizer.eos_token_id else tokens
