"""Pretraining from scratch: a tokenizer learnt from the text, a small Llama, next-token prediction."""

from collections.abc import Iterator
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from clew.batch import Batch, Metric, Outputs, Term, token_weights
from clew.config import Config, Training
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, step_indices
from clew.learn.checkpoint import TrainState
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.token import nll
from clew.models.load import make_policy, pick_device
from clew.models.policy import Policy
from clew.runs import Run
from clew.track import Console


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


class Pretrain(Training):
    data: Source
    model: Architecture = Architecture()
    tokenizer: Vocabulary = Vocabulary()
    steps: int = 1000
    batch: int = 32
    """Windows of text a step, each at most `window` tokens."""
    window: int = 256
    learner: Optimiser = Optimiser(lr=1e-3, warmup=0.05)


def run(config: Pretrain) -> None:
    with Run(config, config.out, "pretrain", [Console()]) as run:
        if run.is_finished:
            return
        texts = [str(example.answers[0]) for example in load_examples(config.data)]
        tokenizer = learn_tokenizer(texts, config.tokenizer)
        policy = new_policy(config, tokenizer)
        train(policy, list(windows(tokenizer, texts, config.window)), config, run)
        policy.save(run.model_folder)
        run.finish()


def train(policy: Policy, rows: list[Encoded], config: Pretrain, run: Run) -> None:
    learner = Learner(policy, config.learner, total_steps=config.steps)
    state = TrainState({"policy": learner})
    for step in run.steps(config.steps, state, save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(rows), config.batch, seed=config.seed, step=step.number)
        batch = collate([[rows[i]] for i in picked])
        batch = batch.with_weights(token=token_weights(batch.mask, "token"))
        step.track(learner.step(Part(batch, objective)))
        run.account(learner.spent())


def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
    assert outputs.logps is not None
    return [Term("nll", nll(outputs.logps), "token")], []


def windows(tokenizer: PreTrainedTokenizerBase, texts: list[str], window: int) -> Iterator[Encoded]:
    """Each text with its stop token, cut into rows of at most `window` tokens; all but a row's first are learnt."""
    for ids in tokenizer(texts).input_ids:
        whole = [*ids, tokenizer.eos_token_id]
        for start in range(0, len(whole) - 1, window):
            piece = whole[start : start + window + 1]
            yield Encoded(piece, [False] + [True] * (len(piece) - 1), piece[-1] == whole[-1])


def learn_tokenizer(texts: list[str], vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """A tokenizer that begins texts with <s>; </s> ends answers, and a pad token of its own fills nothing we read."""
    special = ["<unk>", "<s>", "</s>", "<|pad|>"]
    if vocabulary.kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(vocab_size=vocabulary.size, special_tokens=special)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocabulary.size, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<|pad|>"
    )


def new_policy(config: Pretrain, tokenizer: PreTrainedTokenizerBase) -> Policy:
    shape = config.model
    architecture = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.width * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        module = LlamaForCausalLM(architecture)
    return make_policy(module.to(pick_device(config.device)), tokenizer, precision=config.precision)
