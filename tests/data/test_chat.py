import pytest
from transformers import AutoTokenizer

from clew.data import chat
from clew.data.chat import Codec, Encoding, TooLong
from clew.data.formats import Example
from clew.data.sources import Source, load_examples
from clew.data.template import TEMPLATES
from clew.types import Message


def pair(prompt, answer) -> Example:
    return Example("id", prompt, (answer,))


@pytest.fixture
def codec(tokenizer):
    return lambda **options: Codec(tokenizer, Encoding(**options))


def words(codec, ids):
    return codec.tokenizer.convert_ids_to_tokens(ids)


def answer(codec, example, number=0):
    rows = codec.encode(example)
    return None if rows is None else rows[number]


def test_plain_text_supervises_the_answer_and_its_stop_token(codec):
    c = codec()
    row = answer(c, pair("how was the soup ?", " it was good ."))
    assert words(c, row.tokens) == "<s> how was the soup ? it was good . </s>".split()
    assert [t for t, m in zip(words(c, row.tokens), row.mask, strict=True) if m] == "it was good . </s>".split()
    assert row.complete


def test_the_prompt_is_encoded_alike_for_sampling_and_training(codec):
    c = codec()
    example = pair("how was the soup ?", " it was good .")
    prompt = c.prompt(example, 10)
    assert list(prompt.tokens) == answer(c, example).tokens[: len(prompt.tokens)]


def test_text_without_prompt_supervises_all_but_the_first_token(codec):
    row = answer(codec(), pair("", "it was good ."))
    assert row.mask == [False, True, True, True, True, True]


CHAT = (Message("user", "how was it ?"), Message("assistant", "good ."), Message("user", "and the room ?"))


@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_supervise_what_the_answer_says(tokenizer, template):
    tokenizer = AutoTokenizer.from_pretrained(gpt_like(tokenizer))
    c = Codec(tokenizer, Encoding(template=template))
    row = answer(c, pair(CHAT, (Message("assistant", "lovely , very good"),)))
    text = tokenizer.decode([t for t, m in zip(row.tokens, row.mask, strict=True) if m])
    assert text.startswith((" lovely , very good", "lovely , very good"))
    assert row.tokens[-1] in c.stops()
    assert row.mask[-1]
    assert "room" not in text
    prompt = c.prompt(pair(CHAT, "x"), 10)
    assert row.tokens[: len(prompt.tokens)] == list(prompt.tokens)


def gpt_like(tokenizer):
    """A byte-level tokenizer made here, since a word tokenizer has no spaces to place."""
    from pathlib import Path
    from tempfile import mkdtemp

    from clew.models.fresh import Vocabulary, learn_tokenizer

    folder = Path(mkdtemp())
    learn_tokenizer(
        ["how was it good lovely very room and the " * 3], Vocabulary(kind="bpe", size=300)
    ).save_pretrained(folder)
    return folder


def test_all_assistant_turns_of_a_conversation_without_prompt_are_supervised(tokenizer):
    t = AutoTokenizer.from_pretrained(gpt_like(tokenizer))
    c = Codec(t, Encoding(template="transcript"))
    row = answer(c, pair((), (*CHAT, Message("assistant", "very good"))))
    said = t.decode([x for x, m in zip(row.tokens, row.mask, strict=True) if m])
    assert said == " good .</s> very good</s>"


def test_conversations_need_a_template(codec):
    with pytest.raises(
        ValueError, match=r"no chat template; set encoding.template to transcript, chatml or a Jinja file"
    ):
        answer(codec(), pair(CHAT, "good"))


def counting(tokenizer, tmp_path) -> Codec:
    """A template that writes the number of turns before each, so that every turn rewrites those before it."""
    (tmp_path / "t.jinja").write_text(
        "{% set n = messages | length + add_generation_prompt %}"
        "{% for m in messages %}[{{ n }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[{{ n }}]{% endif %}"
    )
    return Codec(AutoTokenizer.from_pretrained(gpt_like(tokenizer)), Encoding(template=str(tmp_path / "t.jinja")))


ROUNDS = (*CHAT, Message("assistant", "very good"))


def test_turns_that_are_rewritten_have_rows_of_their_own(tokenizer, tmp_path):
    c = counting(tokenizer, tmp_path)
    items = c.answers([pair((), ROUNDS)])
    assert [c.tokenizer.decode(row.tokens) for _, (row,) in items] == [
        "[2]how was it ?[2]good .</s>",
        "[4]how was it ?[4]good .</s>[4]and the room ?[4]very good</s>",
    ]
    assert [c.tokenizer.decode([t for t, m in zip(r.tokens, r.mask, strict=True) if m]) for _, (r,) in items] == [
        "good .</s>",
        "very good</s>",
    ]
    assert c.counts["rows added, for turns that the template rewrites"] == 1
    assert c.counts["rows"] == 2


def test_a_row_of_a_turn_that_is_too_long_leaves_the_others(tokenizer, tmp_path):
    c = counting(tokenizer, tmp_path)
    short = c.encode(pair((), ROUNDS))[0]
    c.encoding = Encoding(max_length=len(short.tokens), truncation="drop")
    assert c.answers([pair((), ROUNDS)]) == [(pair((), ROUNDS), [short])]


@pytest.mark.parametrize(
    "example",
    [Example("id", CHAT[:1], (ROUNDS[1:], ROUNDS[1:2]), (0, 1)), Example("id", CHAT[:1], (ROUNDS[1:],), label=1.0)],
    ids=["pair", "label"],
)
def test_templates_that_rewrite_earlier_turns_are_refused(tokenizer, tmp_path, example):
    """For what is judged as a whole: it is one row."""
    with pytest.raises(ValueError, match="row id: an answer that is judged as a whole has several assistant turns"):
        counting(tokenizer, tmp_path).encode(example)


def test_the_last_turns_of_a_pair_are_compared_after_the_same_prompt(tokenizer, tmp_path):
    c = counting(tokenizer, tmp_path)
    good, bad = c.encode(Example("id", CHAT, (ROUNDS[3:], (Message("assistant", "not very"),)), (0, 1)))
    prompt = list(c.prompt(pair(CHAT, ""), 10).tokens)
    assert good.tokens[: len(prompt)] == bad.tokens[: len(prompt)] == prompt
    assert good.mask.index(True) == bad.mask.index(True) == len(prompt)


def test_nothing_left_to_learn_is_an_error(codec):
    with pytest.raises(ValueError, match="row id: no token is left to learn from; its text: '<s> how was it"):
        codec().encode(Example("id", "how was it ?", ("",), cut=(0,)))


def test_a_conversation_without_an_answer_is_refused(tokenizer):
    c = Codec(AutoTokenizer.from_pretrained(gpt_like(tokenizer)), Encoding(template="transcript"))
    with pytest.raises(ValueError, match="no assistant turn"):
        answer(c, pair((), CHAT[:1]))


LONG = pair("how was the soup ?", " it was good . it was good .")  # 6 + 8 + stop = 15 tokens


def test_truncation_error_names_the_row_and_the_way_out(codec):
    with pytest.raises(
        TooLong, match=r"row id: 6 prompt and 9 answer tokens exceed 12; raise max_length, or set truncation"
    ):
        answer(codec(max_length=12), LONG)


def test_truncation_drop_is_counted(codec):
    c = codec(max_length=12, truncation="drop")
    assert answer(c, LONG) is None
    assert c.counts["rows dropped (too long)"] == 1
    with pytest.raises(ValueError, match="no row is left"):
        c.answers([LONG])


def test_truncating_the_prompt_keeps_bos_and_the_whole_answer(codec):
    c = codec(max_length=12, truncation="truncate_prompt_left")
    row = answer(c, LONG)
    assert words(c, row.tokens)[:3] == ["<s>", "soup", "?"]
    assert row.complete
    assert len(row.tokens) == 12
    assert c.counts["prompts truncated"] == 1


def test_truncating_the_answer_never_hides_that_its_stop_token_is_gone(codec):
    c = codec(max_length=12, truncation="truncate_completion")
    row = answer(c, LONG)
    assert not row.complete
    assert len(row.tokens) == 12
    assert c.counts["answers truncated (no stop token)"] == 1


def test_answers_of_one_example_live_or_die_together(codec):
    c = codec(max_length=12, truncation="drop")
    both = Example("a", "how was the soup ?", (" good .", LONG.answers[0]), (0, 1))
    fine = Example("b", "how was the soup ?", (" good .", " bad ."), (0, 1))
    assert [e.id for e, _ in c.answers([both, fine])] == ["b"]


def alone(codec, examples):
    """Each example encoded by itself, grouped as `answers` does."""
    found = [(e, codec.encode(e) or []) for e in examples]
    return [(e, g) for e, rows in found for g in ([rows] if len(e.answers) > 1 else [[r] for r in rows]) if g]


def test_rows_tokenised_together_are_those_tokenised_alone(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "TOGETHER", 3)
    examples = [
        pair("how was the soup ?", " it was good ."),
        Example("pair", "how was the soup ?", (" good .", " bad ."), (0, 1), cut=(1,)),
        pair(CHAT, (Message("assistant", "lovely , very good"),)),
        pair((), ROUNDS),
        pair("", "it was good ."),
        Example("chats", CHAT[:1], ((Message("assistant", "good ."),), (Message("assistant", "bad ."),)), (0, 1)),
        pair("x", "how was the room ? " * 30),
    ]
    for make in (
        lambda: counting(tokenizer, tmp_path),
        lambda: Codec(AutoTokenizer.from_pretrained(gpt_like(tokenizer)), Encoding(template="transcript")),
    ):
        together, one_by_one = make(), make()
        for codec in (together, one_by_one):
            codec.encoding = Encoding(max_length=100, truncation="drop")
        assert together.answers(examples) == alone(one_by_one, examples)
        assert together.counts == one_by_one.counts
        assert together.counts["rows dropped (too long)"] == 1


@pytest.mark.parametrize("name", ["stories260k/hf", None])
def test_real_pairs_tokenised_together_are_those_tokenised_alone(name, shared_data, tokenizer):
    source = Source(path=str(shared_data / "hh_rlhf" / "harmless-base.test.jsonl.gz"), limit=200)
    examples, folder = load_examples(source), shared_data / name if name else gpt_like(tokenizer)
    together, one_by_one = (
        Codec(AutoTokenizer.from_pretrained(folder), Encoding(template="transcript", max_length=1 << 14))
        for _ in range(2)
    )
    assert together.answers(examples) == alone(one_by_one, examples)


def test_encoding_that_takes_long_says_how_far_it_is(codec, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("clew.track.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(chat, "TOGETHER", 1)
    notes: list[str] = []
    c = Codec(codec().tokenizer, Encoding(), notes.append)
    c.answers([pair("how was the soup ?", " good .")] * 8)
    assert notes == ["encoding: 2 of 8, 36 s left", "encoding: 5 of 8, 14 s left"]
    c.prompts([pair("how was the soup ?", "")] * 4, 4)
    assert notes[2:] == ["encoding prompts: 2 of 4, 12 s left"]


def test_a_template_that_doubles_bos_is_an_error(tokenizer, tmp_path):
    (tmp_path / "t.jinja").write_text(
        "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    c = Codec(AutoTokenizer.from_pretrained(gpt_like(tokenizer)), Encoding(template=str(tmp_path / "t.jinja")))
    with pytest.raises(ValueError, match="stands twice in a row"):
        answer(c, pair(CHAT, "good"))


def test_the_real_tokenizer_joins_across_no_border(shared_data):
    t = AutoTokenizer.from_pretrained(shared_data / "stories260k" / "hf")
    c = Codec(t, Encoding())
    row = answer(c, pair("Once upon a time", " there was a dog."))
    assert t.decode([x for x, m in zip(row.tokens, row.mask, strict=True) if m]) == "there was a dog.</s>"
    assert c.counts["tokens across the border"] == 0


def test_answers_of_one_prompt_are_compared_under_the_same_prompt(codec):
    c = codec(max_length=12, truncation="truncate_prompt_left")
    example = Example("id", "how was the soup ?", (" it was good . it was good .", " bad ."), (0, 1))
    long, short = c.encode(example)
    assert long.tokens[: long.mask.index(True)] == short.tokens[: short.mask.index(True)]
    assert len(long.tokens) == 12


def test_a_cut_answer_has_no_end(codec):
    c = codec()
    example = Example("id", "how was the soup ?", (" it was good .", " it was"), (0, 1), cut=(1,))
    whole, cut = c.encode(example)
    assert whole.complete and whole.tokens[-1] == c.tokenizer.eos_token_id
    assert not cut.complete and cut.mask[-1]
    assert words(c, cut.tokens)[-1] == "was"


def test_a_template_that_ends_turns_with_its_own_token_teaches_that_one(tokenizer):
    t = AutoTokenizer.from_pretrained(gpt_like(tokenizer))
    t.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    c = Codec(t, Encoding(template="chatml"))
    end = t.convert_tokens_to_ids("<|im_end|>")
    assert c.stops() == {t.eos_token_id, end}
    row = answer(c, pair(CHAT, (Message("assistant", "very good"),)))
    assert row.tokens[-1] == end and row.mask[-1]


def test_blanks_without_width_are_learnt(tokenizer, tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(
        models.BPE({c: i for i, c in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}, [])
    )
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder, raw.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=True)
    t = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    row = answer(Codec(t, Encoding()), pair("def f():", "\n    return 1  \n"))
    assert all(row.mask[len("def f():") :])


def test_a_row_without_an_answer_says_which_columns_it_has(codec):
    with pytest.raises(ValueError, match=r"no answer to learn from; its other columns: \['response'\]"):
        codec().encode(Example("id", "q", info={"response": "a"}))


def test_no_prompt_left_is_said(codec):
    with pytest.raises(ValueError, match="no prompt is left after encoding"):
        codec(max_length=4, truncation="drop").prompts([pair("how was the soup ?", "")], 2)
