"""Models from scratch: a tokenizer learnt from text, and a Llama of any shape with seeded weights."""

from collections.abc import Iterable
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as hub_logging

from clew.config import Config
from clew.models.load import make_policy
from clew.models.policy import Policy
from clew.models.trunk import Precision

SPECIAL = ["<unk>", "<s>", "</s>", "<|pad|>"]
"""The first token ids of every tokenizer learnt here."""


class Architecture(Config):
    """A Llama of this shape."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 512


class Vocabulary(Config):
    """word: one token a word, for small closed languages; bpe: byte-level pairs."""

    kind: Literal["word", "bpe"] = "bpe"
    size: int = 4096


def learn_tokenizer(texts: Iterable[str], vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """A tokenizer that begins texts with <s>; </s> ends answers, and a pad token of its own fills nothing we read."""
    if vocabulary.kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(vocab_size=vocabulary.size, special_tokens=SPECIAL)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary.size, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    start = [("<s>", SPECIAL.index("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=start)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<|pad|>"
    )


def new_policy(
    shape: Architecture, tokenizer: PreTrainedTokenizerBase, *, seed: int, device: torch.device, precision: Precision
) -> Policy:
    """A Llama of this shape, its weights drawn from the seed alone."""
    hub_logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = LlamaForCausalLM(llama(shape, len(tokenizer)))
    torch.nn.Module.to(module, device)
    return make_policy(module, tokenizer, precision=precision)


def llama(shape: Architecture, num_tokens: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=shape.width,
        intermediate_size=shape.width * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
        pad_token_id=SPECIAL.index("<|pad|>"),
        tie_word_embeddings=True,
    )
