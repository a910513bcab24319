"""The templates of model families, written here from their published formats: what is learnt, token by token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from clew.data.chat import Codec, Encoded, Encoding
from clew.data.example import Example
from clew.data.messages import as_message
from clew.models.fresh import Vocabulary, learn_tokenizer
from clew.types import Message

HERE = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """A template with the special tokens of its tokenizers, of which the first is BOS and the last EOS."""

    special: str
    bos: bool = True

    def tokens(self) -> tuple[str | None, str]:
        first, *_ = words = self.special.split(" ")
        return first if self.bos else None, words[-1]


FAMILIES = {
    "llama2": Family("<s> </s>"),
    "llama3": Family("<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eom_id|> <|end_of_text|> <|eot_id|>"),
    "mistral": Family("<s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] </s>"),
    "gemma2": Family("<bos> <start_of_turn> <end_of_turn> <eos>"),
    "gemma3": Family("<bos> <start_of_turn> <end_of_turn> <eos>"),
    "qwen2": Family("<|endoftext|> <|im_start|> <|im_end|>", bos=False),
    "qwen3": Family("<|endoftext|> <|im_start|> <|im_end|>", bos=False),
    "deepseek_r1": Family(
        "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> <｜tool▁call▁begin｜> <｜tool▁call▁end｜> "
        "<｜tool▁sep｜> <｜tool▁outputs▁begin｜> <｜tool▁outputs▁end｜> <｜tool▁output▁begin｜> <｜tool▁output▁end｜> <｜end▁of▁sentence｜>"
    ),
    "deepseek_v3": Family("<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜>"),
    "phi3": Family("<s> <|system|> <|user|> <|assistant|> <|end|> <|endoftext|>"),
    "phi4": Family("<|im_start|> <|im_sep|> <|im_end|> <|endoftext|>", bos=False),
    "zephyr": Family("<s> </s>"),
    "command_r": Family(
        "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|SYSTEM_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|END_OF_TURN_TOKEN|>"
    ),
    "vicuna": Family("<s> </s>"),
    "falcon": Family("<|endoftext|>", bos=False),
    "glm4": Family("[gMASK] <sop> <|system|> <|user|> <|assistant|> <|endoftext|>", bos=False),
    "olmo2": Family("<|endoftext|>"),
    "smollm3": Family("<|im_start|> <|end_of_text|> <|im_end|>", bos=False),
    "granite": Family("<|start_of_role|> <|end_of_role|> <|tool_call|> <|end_of_text|>", bos=False),
    "gpt_oss": Family("<|start|> <|end|> <|message|> <|channel|> <|call|> <|return|>", bos=False),
    "transcript": Family("<s> </s>"),
    "chatml": Family("<|endoftext|> <|im_start|> <|im_end|>", bos=False),
}  # fmt: skip
OPEN_THINKING = {"deepseek_r1"}
"""Every turn begins with a thought."""
NO_SYSTEM = {"gemma2"}


@pytest.fixture(scope="module")
def bytes_only() -> Tokenizer:
    """A token a byte, so that tokens are counted by hand."""
    return learn_tokenizer([""], Vocabulary(kind="bpe", size=260)).backend_tokenizer


@pytest.fixture(scope="module")
def merging() -> Tokenizer:
    """Merges runs of blanks and of line ends, and says no place for blanks, as Llama 3's does."""
    text = "the soup was lovely\n\n\n\n  and : \n\n the   room\n <think>\n\n</think>\n\n " * 4
    tokenizer = learn_tokenizer([text], Vocabulary(kind="bpe", size=330)).backend_tokenizer
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


@pytest.fixture(scope="module")
def of_llama(shared_data) -> Tokenizer:
    """A real one, which puts a blank before every text and after every special token."""
    return AutoTokenizer.from_pretrained(shared_data / "stories260k" / "hf").backend_tokenizer


def codec_of(name: str, base: Tokenizer, **options) -> Codec:
    family = FAMILIES[name]
    bos, eos = family.tokens()
    raw = Tokenizer.from_str(base.to_str())
    raw.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in family.special.split(" ")])
    if bos:  # what text without template begins with, and a rendered one must not begin with twice
        start = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))])
        raw.post_processor = processors.Sequence([raw.post_processor, start]) if raw.post_processor else start
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos, pad_token="<|pad|>")
    file = HERE / f"{name}.jinja"
    return Codec(
        tokenizer, Encoding(template=str(file) if file.exists() else name, max_length=10_000, template_options=options)
    )


def test_at_least_twelve_families_are_here():
    assert {f.stem for f in HERE.glob("*.jinja")} | {"transcript", "chatml"} == set(FAMILIES)
    assert len(FAMILIES) > 12


def pieces(codec: Codec, row: Encoded) -> list[str]:
    """What a row learns, stretch by stretch."""
    groups = groupby(zip(row.tokens, row.mask, strict=True), key=lambda pair: pair[1])
    return [codec.tokenizer.decode([t for t, _ in pairs]) for learnt, pairs in groups if learnt]


def stretches(row: Encoded) -> Iterator[tuple[int, int]]:
    """Where a row learns."""
    start = 0
    for learnt, group in groupby(row.mask):
        end = start + len(list(group))
        if learnt:
            yield start, end
        start = end


def assert_laws(codec: Codec, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> list[Encoded]:
    """Every turn is learnt once, after what it is sampled after, to a stop token; and nothing else is."""
    info = {"tools": tools} if tools else {}
    rows = codec.encode(Example("id", (), (tuple(messages),), info=info))
    asked = {
        tuple(codec.prompt(Example("id", tuple(messages[:i]), info=info), 0).tokens): message.content.strip()
        for i, message in enumerate(messages)
        if message.role == "assistant"
    }
    learnt = [(row, start, end) for row in rows for start, end in stretches(row)]
    assert sorted(tuple(row.tokens[:start]) for row, start, _ in learnt) == sorted(asked)
    for row, start, end in learnt:
        assert row.tokens[end - 1] in codec.stops()
        assert asked[tuple(row.tokens[:start])] in codec.tokenizer.decode(row.tokens[start:end])
    for row in rows:
        assert row.mask[-1] and row.complete
        bos = codec.tokenizer.bos_token_id
        assert bos is None or [bos, bos] != row.tokens[:2]
    return rows


def turns(*texts: str, system: str = "") -> tuple[Message, ...]:
    first = (Message("system", system),) if system else ()
    return (*first, *(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)))


TALK = turns("How was the soup?", "Lovely.", "And the room?", "Small, but quiet.", system="Be brief.")
WEATHER = [
    {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": {"type": "object"}}}
]
CALL = [{"id": "abcdefgh1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]
TOOLS = (
    Message("user", "Rain in Oslo?"),
    as_message({"role": "assistant", "content": None, "tool_calls": CALL}, "messages", "row 1"),
    Message("tool", "wet", name="weather", tool_call_id="abcdefgh1"),
    Message("assistant", "Yes."),
)
THOUGHT = (
    Message("user", "How was the soup?"),
    Message("assistant", "Lovely.", thinking="It was hot."),
    Message("user", "And the room?"),
    Message("assistant", "Small.", thinking="Two beds."),
)


@dataclass(frozen=True)
class Case:
    family: str
    rows: list[list[str]]
    """What is learnt: pieces of every row."""
    counts: list[int]
    """Supervised tokens of every row: bytes, and one for each special token."""
    messages: tuple[Message, ...] = TALK
    tools: list[dict[str, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        kind = {TALK: "talk", TOOLS: "tools", THOUGHT: "thought"}.get(self.messages, "other")
        return "-".join([self.family, kind, *self.options])


def spoken(family: str, end: str, before: str = "", after: str = "", **case) -> Case:
    """Both answers in one row: 7 and 17 letters, their ends, and the blanks around each."""
    row = [f"{before}{text}{after}{end}" for text in ("Lovely.", "Small, but quiet.")]
    return Case(family, [row], [26 + 2 * len(before + after)], **case)


CASES = [
    spoken("llama2", "</s>", " ", " "),
    spoken("llama3", "<|eot_id|>"),
    spoken("gemma2", "<end_of_turn>", messages=TALK[1:]),
    spoken("gemma3", "<end_of_turn>"),
    spoken("qwen2", "<|im_end|>"),
    spoken("phi3", "<|end|>"),
    spoken("phi4", "<|im_end|>"),
    spoken("zephyr", "</s>"),
    spoken("command_r", "<|END_OF_TURN_TOKEN|>"),
    spoken("vicuna", "</s>", " "),
    spoken("olmo2", "<|endoftext|>"),
    spoken("smollm3", "<|im_end|>"),
    spoken("smollm3", "<|im_end|>", options={"enable_thinking": False}),
    spoken("granite", "<|end_of_text|>"),
    spoken("deepseek_v3", "<｜end▁of▁sentence｜>"),
    spoken("transcript", "</s>", " "),
    spoken("chatml", "<|im_end|>"),
    # The system prompt stands before the last question only.
    Case("mistral", [[" Lovely.</s>"], [" Small, but quiet.</s>"]], [9, 19]),
    # Nothing ends a turn: EOS is put where an answer ends, so that each has a row.
    Case("falcon", [[" Lovely.<|endoftext|>"], [" Small, but quiet.<|endoftext|>"]], [9, 19]),
    Case("glm4", [["\nLovely.<|endoftext|>"], ["\nSmall, but quiet.<|endoftext|>"]], [9, 19]),
    # The last turn has an empty block of thinking (19 bytes), which earlier ones lose.
    Case("qwen3", [["<think>\n\n</think>\n\nLovely.<|im_end|>"], ["<think>\n\n</think>\n\nSmall, but quiet.<|im_end|>"]], [27, 37]),
    Case("qwen3", [["Lovely.<|im_end|>"], ["Small, but quiet.<|im_end|>"]], [8, 18], options={"enable_thinking": False}),
    Case(
        "gpt_oss",
        [["<|channel|>final<|message|>Lovely.<|return|>"], ["<|channel|>final<|message|>Small, but quiet.<|return|>"]],
        [15, 25],
    ),
    Case(
        "llama3",
        [['{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>', "Yes.<|eot_id|>"]],
        [52 + 5],
        TOOLS, WEATHER,
    ),
    Case(
        "mistral",
        [['[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "abcdefgh1"}]</s>', " Yes.</s>"]],
        [1 + 72 + 1 + 6],
        TOOLS, WEATHER,
    ),
    Case(
        "qwen2",
        # The generation prompt ends with the newline before the call.
        [['<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>', "Yes.<|im_end|>"]],
        [75 + 1 + 5],
        TOOLS, WEATHER,
    ),
    Case(
        "qwen3",
        [
            ['<think>\n\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'],
            ["<think>\n\n</think>\n\nYes.<|im_end|>"],
        ],
        [19 + 75 + 1, 19 + 5],
        TOOLS, WEATHER,
    ),
    Case(
        "granite",
        [['<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]<|end_of_text|>', "Yes.<|end_of_text|>"]],
        [1 + 52 + 1 + 5],
        TOOLS, WEATHER,
    ),
    Case(
        "gpt_oss",
        [[
            ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>',
            "<|channel|>final<|message|>Yes.<|return|>",
        ]],
        [21 + 1 + 15 + 1 + 16 + 1 + 12],
        TOOLS, WEATHER,
    ),
    Case(
        "qwen3",
        [["<think>\nIt was hot.\n</think>\n\nLovely.<|im_end|>"], ["<think>\nTwo beds.\n</think>\n\nSmall.<|im_end|>"]],
        [30 + 8, 28 + 7],
        THOUGHT,
    ),
    Case(
        "deepseek_r1",
        [["It was hot.\n</think>\n\nLovely.<｜end▁of▁sentence｜>"], ["Two beds.\n</think>\n\nSmall.<｜end▁of▁sentence｜>"]],
        [22 + 8, 20 + 7],
        THOUGHT,
    ),
    Case(
        "deepseek_v3",
        [["It was hot.</think>Lovely.<｜end▁of▁sentence｜>"], ["Two beds.</think>Small.<｜end▁of▁sentence｜>"]],
        [19 + 8, 17 + 7],
        THOUGHT, None, {"thinking": True},
    ),
    Case(
        "gpt_oss",
        [
            ["<|channel|>analysis<|message|>It was hot.<|end|><|start|>assistant<|channel|>final<|message|>Lovely.<|return|>"],
            ["<|channel|>analysis<|message|>Two beds.<|end|><|start|>assistant<|channel|>final<|message|>Small.<|return|>"],
        ],
        [1 + 8 + 1 + 11 + 2 + 9 + 15, 1 + 8 + 1 + 9 + 2 + 9 + 14],
        THOUGHT,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_the_assistant_says_is_learnt_and_nothing_else(case, bytes_only):
    codec = codec_of(case.family, bytes_only, **case.options)
    rows = assert_laws(codec, case.messages, case.tools)
    assert [pieces(codec, row) for row in rows] == case.rows
    assert [sum(row.mask) for row in rows] == case.counts
    assert not codec.counts["turns of which the template leaves words out"]
    assert not codec.counts["rows with tools that the template does not show"]


def test_every_family_has_a_case():
    assert {case.family for case in CASES} == set(FAMILIES)


ODD = st.sampled_from(
    [
        "",
        " ",
        "\n",
        "\n\n",
        "  ",
        "a",
        "the soup",
        ".",
        ":",
        "é",
        "e\u0301",
        "🍲",
        "中",
        "\u00a0",
        "\t",
        "[INST]",
        "{{ x }}",
        "{% if %}",
        "#",
    ]
)
SPECIAL = st.sampled_from(
    [
        "<|im_end|>",
        "<|im_start|>assistant\n",
        "<|eot_id|>",
        "</s>",
        "<end_of_turn>",
        "<think>",
        "</think>",
        "<|end|>",
        "\n\nAssistant:",
    ]
).map("{},".format)  # two stop tokens in a row are an error
SAID = st.lists(ODD, max_size=5).map("".join)
ASKED = st.lists(ODD | SPECIAL, max_size=5).map("".join)


@st.composite
def talks(draw, *, system: bool, thinking: bool):
    messages = [Message("system", draw(ASKED) + "SECRET")] if system and draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(ASKED) + "SECRET"))
        thought = "hm" + draw(SAID) if thinking or draw(st.booleans()) else ""
        messages.append(Message("assistant", draw(SAID), thinking=thought))
    return messages


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_conversation_keeps_the_laws(name, merging, data):
    codec = codec_of(name, merging)
    messages = data.draw(talks(system=name not in NO_SYSTEM, thinking=name in OPEN_THINKING))
    rows = assert_laws(codec, messages)
    assert "SECRET" not in "".join(piece for row in rows for piece in pieces(codec, row))


ASK = (Message("user", "How was the soup?"),)
SAY = (Message("assistant", "Lovely."),)
HMM = (Message("assistant", "Lovely.", thinking="It was hot."),)
REFUSED = [
    ("gemma2", (Message("system", "Be brief."), *ASK, *SAY), {}, "row id: the chat template refuses turns of system, user: System role not supported"),
    ("llama2", (*ASK, *ASK, *SAY), {}, "refuses turns of user, user: user and assistant must take turns; change the row"),
    ("mistral", (TOOLS[0], as_message({"role": "assistant", "tool_calls": [{"name": "weather"}]}, "messages", "row 1")), {}, "ids are nine letters"),
    ("zephyr", TOOLS, {}, "row id: the chat template leaves out a call of the tool 'weather'; set encoding.template"),
    ("deepseek_r1", (*ASK, *SAY), {}, "row id: the chat template lets the assistant go on from .*<think>.*give `thinking`"),
    ("qwen3", (*ASK, *HMM), {"enable_thinking": False}, "set encoding.template_options"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "messages", "options", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_a_template_cannot_write_is_refused_with_the_row(bytes_only, name, messages, options, says):
    with pytest.raises(ValueError, match=says):
        codec_of(name, bytes_only, **options).encode(Example("id", (), (messages,)))


def test_a_turn_that_opens_thinking_otherwise_than_its_prompt_is_refused(bytes_only):
    codec = codec_of("chatml", bytes_only)
    codec.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
    )
    with pytest.raises(ValueError, match="expected a turn that goes on from its prompt"):
        codec.encode(Example("id", ASK, (HMM,)))


def test_a_prompt_that_a_template_refuses_is_named_as_well(bytes_only):
    with pytest.raises(ValueError, match="row id: the chat template refuses turns of user, user"):
        codec_of("gemma2", bytes_only).prompt(Example("id", (*ASK, *ASK)), 0)


def test_thinking_may_stand_in_the_content(bytes_only):
    inside = (*ASK, Message("assistant", "<think>\nIt was hot.\n</think>\n\nLovely."))
    for name in ("qwen3", "deepseek_r1"):
        codec = codec_of(name, bytes_only)
        apart = codec.encode(Example("id", (), ((*ASK, *HMM),)))
        assert codec.encode(Example("id", (), (inside,))) == apart


def test_thinking_between_tool_calls_is_learnt_in_one_row(bytes_only):
    codec = codec_of("qwen3", bytes_only)
    call = as_message({"role": "assistant", "thinking": "Look.", "tool_calls": CALL}, "messages", "row 1")
    (row,) = assert_laws(codec, (TOOLS[0], call, TOOLS[2], Message("assistant", "Yes.", thinking="Wet.")), WEATHER)
    assert [piece.partition("\n</think>")[0] for piece in pieces(codec, row)] == ["<think>\nLook.", "<think>\nWet."]


def test_a_pair_of_answers_with_tool_calls_is_compared_whole(bytes_only):
    codec = codec_of("qwen2", bytes_only)
    pair = Example("id", TOOLS[:1], (TOOLS[1:], (Message("assistant", "No idea."),)), (0, 1), info={"tools": WEATHER})
    prompt = list(codec.prompt(pair, 0).tokens)
    good, bad = codec.encode(pair)
    assert good.tokens[: len(prompt)] == bad.tokens[: len(prompt)] == prompt
    assert len(pieces(codec, good)) == 2
    assert pieces(codec, bad) == ["No idea.<|im_end|>"]


def test_results_of_several_tools_make_one_turn_that_is_not_learnt(bytes_only):
    codec = codec_of("qwen2", bytes_only)
    twice = as_message({"role": "assistant", "content": None, "tool_calls": [*CALL, *CALL]}, "messages", "row 1")
    (row,) = assert_laws(codec, (TOOLS[0], twice, TOOLS[2], Message("tool", "cold"), TOOLS[3]), WEATHER)
    assert "<|im_start|>user\n<tool_response>\nwet" in codec.tokenizer.decode(row.tokens)
    assert codec.tokenizer.decode(row.tokens).count("<|im_start|>user") == 2
    assert not any("wet" in piece or "cold" in piece for piece in pieces(codec, row))


def test_what_a_template_leaves_out_is_counted(bytes_only):
    codec = codec_of("zephyr", bytes_only)
    codec.encode(Example("id", ASK, (HMM,), info={"tools": WEATHER}))
    assert codec.counts["turns of which the template leaves words out"] == 1
    assert codec.counts["rows with tools that the template does not show"] == 1


def test_a_token_that_would_join_prompt_and_answer_is_split(merging):
    codec = codec_of("chatml", merging)
    (row,) = assert_laws(codec, (*ASK, Message("assistant", "\n\nLovely.")))
    assert pieces(codec, row) == ["\n\nLovely.<|im_end|>"]
    assert codec.counts["tokens across the border"] == 1
    # The prompt of the second turn joins what the first one's border parts, so each has a row.
    assert len(assert_laws(codec, (*ASK, Message("assistant", "\n\nLovely."), *ASK, *SAY))) == 2


def test_special_tokens_that_swallow_blanks_keep_turns_together(bytes_only):
    raw = Tokenizer.from_str(bytes_only.to_str())
    raw.add_special_tokens(
        [AddedToken(word, special=True, rstrip=True) for word in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<|pad|>")
    codec = Codec(tokenizer, Encoding(template=str(HERE / "phi3.jinja")))
    (row,) = assert_laws(codec, TALK)
    assert pieces(codec, row) == ["Lovely.<|end|>", "Small, but quiet.<|end|>"]
    assert codec.stops() == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")}


def test_an_answer_that_was_cut_has_no_end_of_turn(bytes_only):
    codec = codec_of("llama3", bytes_only)
    (row,) = codec.encode(Example("id", ASK, (SAY,), cut=(0,)))
    assert pieces(codec, row) == ["Lovely."]
    assert not row.complete


def test_where_the_assistant_begins_its_words_are_learnt_and_no_header(bytes_only):
    codec = codec_of("qwen2", bytes_only)
    (row,) = codec.encode(Example("id", (), ((*SAY, *ASK, *SAY),)))
    assert pieces(codec, row) == ["Lovely.<|im_end|>", "Lovely.<|im_end|>"]


def test_every_end_of_turn_that_was_learnt_stops_sampling(bytes_only):
    codec = codec_of("gpt_oss", bytes_only)
    assert_laws(codec, TOOLS, WEATHER)
    assert {codec.tokenizer.decode([stop]) for stop in codec.stops()} == {"<|return|>", "<|call|>"}


def test_text_beside_messages_is_a_turn_of_the_user(bytes_only):
    codec = codec_of("chatml", bytes_only)
    example = Example("id", "How was the soup?", (SAY,))
    (row,) = codec.encode(example)
    prompt = codec.prompt(example, 0)
    assert prompt.text == "<|im_start|>user\nHow was the soup?<|im_end|>\n<|im_start|>assistant\n"
    assert list(prompt.tokens) == row.tokens[: row.mask.index(True)]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_real_tokenizer_of_llama_keeps_the_laws(name, of_llama):
    codec = codec_of(name, of_llama)
    talk = turns("How was it?", " Good.\n", "And\n the room?", "", system="" if name in NO_SYSTEM else "Be brief.")
    messages = [
        Message(m.role, m.content, "hm" if m.role == "assistant" and name in OPEN_THINKING else "") for m in talk
    ]
    assert_laws(codec, messages)
