"""Models with random weights and real texts (HH, arXiv 2204.05862), made once in a folder that all sides read."""

import gzip
import json
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerBase

from clew.models.fresh import SPECIAL, Vocabulary, learn_tokenizer

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"width": 128, "layers": 4, "heads": 4, "vocabulary": 2048, "length": 512},
    "small": {"width": 384, "layers": 8, "heads": 6, "vocabulary": 16384, "length": 512},
    "wide": {"width": 256, "layers": 4, "heads": 4, "vocabulary": 131072, "length": 512},
    "wide-32k": {"width": 256, "layers": 4, "heads": 4, "vocabulary": 32768, "length": 512},
    "wide-8k": {"width": 256, "layers": 4, "heads": 4, "vocabulary": 8192, "length": 512},
    "half": {"width": 1024, "layers": 32, "heads": 16, "vocabulary": 32768, "length": 1024},
}
"""half: 0.47 billion parameters, for GPUs. The three wide ones differ in nothing but the rows of their embeddings."""
TOKENS = {"tiny": 2048, "small": 16384}
"""Size of the tokenizer; 8192 for the others, so that the wide ones read the same tokens."""
NUM_PAIRS = 400
STOP = 48
"""Mean length of an answer that `talking` samples, about; `endless` never stops."""


def make(folder: Path, shape: str) -> Path:
    """Models and rows of a shape, in a folder of its name; what is there stays.

    model/, scalar/ with a reward head, endless/ and talking/ that differ in when they stop; pairs.jsonl,
    rankings.jsonl with four answers, rollouts.jsonl with the tokens of eight, thumbs.jsonl with the pairs' answers.
    """
    out = folder / shape
    if (out / "thumbs.jsonl").exists():
        return out
    rows, size = _dialogues(), SHAPES[shape]
    texts = (row["prompt"] + row["chosen"] for row in rows)
    tokenizer = learn_tokenizer(texts, Vocabulary(size=TOKENS.get(shape, 8192)))
    torch.manual_seed(0)
    config = _config(size)
    model = LlamaForCausalLM(config)
    _save(model, tokenizer, out / "model")
    config.num_labels = 1
    _save(LlamaForSequenceClassification(config), tokenizer, out / "scalar")
    for name, mean_length in (("endless", None), ("talking", STOP)):
        _save(_stopping(model, mean_length), tokenizer, out / name)
    fits = _Fits(tokenizer, size["length"])
    if shape == "half":
        rows = _long(rows, fits)
    pairs = list(islice((r for r in rows if fits(r["prompt"], [r["chosen"], r["rejected"]])), NUM_PAIRS))
    _write(out / "pairs.jsonl", pairs)
    _write(out / "rankings.jsonl", _rankings(pairs, fits))
    _write(out / "rollouts.jsonl", _rollouts(pairs, tokenizer, size["length"]))
    _write(out / "thumbs.jsonl", _thumbs(pairs))
    return out


class _Fits:
    """Whether a prompt with each of its answers, BOS and EOS stays within so many tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def __call__(self, prompt: str, answers: Sequence[str]) -> bool:
        return all(len(self._tokenizer(prompt + a).input_ids) + 1 <= self._length for a in answers)


def _dialogues() -> list[dict[str, str]]:
    """HH pairs as prompt, chosen, rejected."""
    if "CLEW_DATA" not in os.environ:
        raise SystemExit("CLEW_DATA must name the folder of real data: its hh_rlhf/*.jsonl.gz make the pairs")
    rows, end = [], "\n\nAssistant:"
    for file in sorted((Path(os.environ["CLEW_DATA"]) / "hh_rlhf").glob("*.jsonl.gz")):
        with gzip.open(file, "rt") as lines:
            for line in lines:
                (prompt, chosen), (other, rejected) = (
                    (text[: text.rfind(end) + len(end)], text[text.rfind(end) + len(end) :])
                    for text in (json.loads(line)[side] for side in ("chosen", "rejected"))
                )
                if prompt == other and chosen.strip() and rejected.strip() and chosen != rejected:
                    rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def _long(rows: list[dict[str, str]], fits: _Fits) -> list[dict[str, str]]:
    """Pairs whose prompts go on after earlier dialogues, as many as fit."""
    found, before = [], list[dict[str, str]]()
    for row in rows:
        prompt = "".join(r["prompt"] + r["chosen"] for r in before) + row["prompt"]
        if fits(prompt, [row["chosen"], row["rejected"]]):
            before.append(row)
        elif before:
            last = before.pop()
            found.append({**last, "prompt": "".join(r["prompt"] + r["chosen"] for r in before) + last["prompt"]})
            before = []
        if len(found) == NUM_PAIRS:
            break
    return found


def _rankings(pairs: list[dict[str, str]], fits: _Fits) -> list[dict[str, Any]]:
    """Four answers a prompt: its own two, then those of the next row."""
    following = zip(pairs, [*pairs[1:], pairs[0]], strict=True)
    ranked = ((r["prompt"], [r["chosen"], r["rejected"], n["chosen"], n["rejected"]]) for r, n in following)
    return [{"prompt": p, "completions": a} for p, a in ranked if len(set(a)) == 4 and fits(p, a)]


def _rollouts(pairs: list[dict[str, str]], tokenizer: Any, length: int) -> list[dict[str, Any]]:
    """Prompts with room for 128 tokens; as completions the beginnings of eight rows' answers, 8 to 64 tokens."""
    answers = [tokenizer(r["chosen"], add_special_tokens=False).input_ids[:64] for r in pairs]
    answers = [a for a in answers if len(a) >= 8]
    found = {}
    for i, row in enumerate(pairs):
        prompt = tokenizer(row["prompt"]).input_ids
        if len(prompt) + 128 <= length:
            completions = [answers[(i + j) % len(answers)] for j in range(8)]
            found[row["prompt"]] = {"prompt": row["prompt"], "prompt_ids": prompt, "answers_ids": completions}
    return list(found.values())


def _thumbs(pairs: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]


def _config(size: dict[str, int]) -> LlamaConfig:
    bos, eos, pad = (SPECIAL.index(token) for token in ("<s>", "</s>", "<|pad|>"))
    return LlamaConfig(
        vocab_size=size["vocabulary"],
        hidden_size=size["width"],
        intermediate_size=size["width"] * 8 // 3,
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["heads"],
        max_position_embeddings=2 * size["length"],
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        tie_word_embeddings=False,
    )


@torch.no_grad()
def _stopping(model: LlamaForCausalLM, mean_length: int | None) -> LlamaForCausalLM:
    """The model with an EOS as likely as answers of that mean length need; None: with one that is never drawn.

    Random weights know no end. Here the first dimension carries the same number through all layers, which makes
    that column of the head a bias; after the last norm it varies a little, and so do the lengths.
    """
    twin = LlamaForCausalLM(model.config)
    twin.load_state_dict(model.state_dict())
    twin.model.embed_tokens.weight[:, 0] = 0.1
    for layer in cast(Any, twin.model.layers):
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    head, eos = twin.lm_head.weight, model.config.eos_token_id
    head[:, 0], head[eos] = 0, 0
    states = twin.model(torch.arange(256)[None]).last_hidden_state[0]
    first = states[:, 0].mean()
    others = twin.lm_head(states).logsumexp(1).mean()
    head[eos, 0] = -1e4 if mean_length is None else (others - torch.tensor(mean_length - 1.0).log()) / first
    return twin


def _save(model: LlamaForCausalLM | LlamaForSequenceClassification, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
