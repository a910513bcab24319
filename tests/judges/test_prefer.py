from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from clew.config import Choice, ConfigError
from clew.judges.prefer import PreferenceSource, as_source, make_preference, preferred_by_model, preferred_by_score
from clew.models.load import load_judge
from clew.types import Rollout

STOP = 2


def answer(*tokens, prompt=(1, 4, 5), text="", info=None):
    whole = [*prompt, *tokens]
    mask = [False] * len(prompt) + [True] * len(tokens)
    return Rollout("p", whole, mask, [0.0] * len(whole), "end", 0, "a prompt", text, info or {})


@pytest.fixture(scope="module")
def stored(tokenizer, tmp_path_factory):
    """Folders: a language model, and a reward model of it with a head that says something."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from clew.models.load import load_scalar

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    for name in ("alone", "pairs"):
        model = load_scalar(str(folder / "lm"), device="cpu")
        model.head.weight.data *= 10
        model.reads_pairs = name == "pairs"
        model.save(folder / name)
    return folder


@pytest.fixture(scope="module")
def policy(stored):
    from clew.models.load import load_policy

    return load_policy(str(stored / "lm"), device="cpu")


def made(stored, policy, name):
    return make_preference(PreferenceSource(model=str(stored / name)), policy)


def test_a_preference_model_contradicts_itself_when_asked_the_other_way_round(stored, policy):
    preference = made(stored, policy, "pairs")
    assert preference.func is preferred_by_model
    a, b = [answer(6, 7, STOP), answer(8), answer(9, STOP)], [answer(8, STOP), answer(6, 7, 9), answer(9, STOP)]
    there, back = torch.tensor(preference(a, b)), torch.tensor(preference(b, a))
    assert_close(there + back, torch.ones(3), atol=1e-5, rtol=0)
    assert float(there[2]) == pytest.approx(0.5, abs=1e-6)
    assert float((there[:2] - 0.5).abs().min()) > 1e-3
    tokens = [[1, 4, 5, 8, STOP, 6, 7, STOP], [1, 4, 5, 6, 7, STOP, 8, STOP]]
    with torch.no_grad():
        scores = [float(preference.args[0].module(input_ids=torch.tensor([row])).logits[0, -1]) for row in tokens]
    assert float(there[0]) == pytest.approx(1 / (1 + 2.718281828459045 ** (scores[1] - scores[0])), abs=1e-5)


def test_its_preferences_need_no_score_behind_them(stored, policy):
    """Log-odds of a reward model add up round any circle of three; a preference model's do not."""
    a, b, c = answer(6, 7, STOP), answer(8, STOP), answer(10, 9, 9, STOP)

    def round_trip(name):
        return float(torch.logit(torch.tensor(made(stored, policy, name)([a, b, c], [b, c, a]))).sum())

    assert round_trip("alone") == pytest.approx(0, abs=1e-5)
    assert abs(round_trip("pairs")) > 1e-2


def test_a_reward_model_prefers_by_the_difference_of_its_raw_scores(stored, policy):
    preference = made(stored, policy, "alone")
    assert preference.func is preferred_by_score
    a, b = answer(6, 7, STOP), answer(8, STOP)
    with torch.no_grad():
        x, y = (preference.args[0].module(input_ids=torch.tensor([r.tokens])).logits[0, -1] for r in (a, b))
    assert preference([a], [b])[0] == pytest.approx(float(torch.sigmoid(x - y)), abs=1e-5)


def test_a_preference_model_is_no_reward(stored, policy):
    with pytest.raises(ValueError, match=r"is a preference model, which compares two answers .*`clew nash`"):
        load_judge(str(stored / "pairs"), policy)
    with pytest.raises(ValueError, match=r"is no reward model: .*train one with `clew reward`"):
        made(stored, policy, "lm")


def longer(prompts, completions, opponents, topic=None, *, sure=1.0):
    """Longer by characters; what has no topic is not judged. Seen first, an answer looks better by 0.2."""
    if topic is None:
        topic = ["dogs"] * len(prompts)
    return [
        None if t == "" else 0.5 if a == b else min(1.0, sure * (len(a) > len(b)) + 0.2 * (sure < 1))
        for a, b, t in zip(completions, opponents, topic, strict=True)
    ]


def asked(policy, a, b, **options):
    name = options.pop("name", f"{__name__}:longer")
    source = PreferenceSource(function=Choice(name=name, **options.pop("with_", {})), **options)
    return make_preference(source, policy)([answer(6, text=x) for x in a], [answer(6, text=x) for x in b])


def test_a_function_reads_both_answers_and_columns(policy):
    assert asked(policy, ["aa", "b", "c"], ["a", "bb", "c"]) == [1.0, 0.0, 0.5]
    source = PreferenceSource(function=Choice(name=f"{__name__}:longer"))
    silent = [replace(answer(6, text="aa"), info={"topic": topic}) for topic in ("dogs", "")]
    assert make_preference(source, policy)(silent, [answer(6, text="a")] * 2) == [1.0, None]


def test_both_orders_take_the_favour_of_a_place_away(policy):
    once = asked(policy, ["aa"], ["a"], with_={"sure": 0.6}), asked(policy, ["a"], ["aa"], with_={"sure": 0.6})
    assert [p for (p,) in once] == pytest.approx([0.8, 0.2])
    twice = asked(policy, ["aa", "a"], ["a", "aa"], with_={"sure": 0.6}, both_orders=True)
    assert twice == pytest.approx([0.8, 0.2])
    favours = f"{__name__}:the_first"
    assert asked(policy, ["a"], ["b"], name=favours) == [0.7]
    assert asked(policy, ["a"], ["b"], name=favours, both_orders=True) == pytest.approx([0.5])


def the_first(prompts, completions, opponents):
    return [0.7 for _ in completions]


def surely(prompts, completions, opponents):
    return [2.0 for _ in completions]


def alone(prompts, completions):
    return [0.5 for _ in completions]


def test_what_is_no_preference_is_told(policy):
    with pytest.raises(ValueError, match=r"surely returned 2.0 for prompt p, completion 'a', opponent 'b'; expected a"):
        asked(policy, ["a"], ["b"], name=f"{__name__}:surely")
    with pytest.raises(
        ConfigError, match=r"alone has no argument 'opponents'; expected f\(prompts, completions, opponents"
    ):
        asked(policy, ["a"], ["b"], name=f"{__name__}:alone")
    for values in ({}, {"model": "m", "function": "a:b"}):
        with pytest.raises(ValueError, match="a preference is either a model or a function"):
            PreferenceSource(**values)
    with pytest.raises(ValueError, match="both_orders: true is for functions"):
        PreferenceSource(model="m", both_orders=True)
    assert as_source("a.py:f") == {"function": "a.py:f"}
    assert as_source("runs/pm") == {"model": "runs/pm"}
