"""Context distillation: a student learns to speak without a context as its teacher speaks with it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

from pydantic import Field

from clew.batch import Averaging, Batch, Metric, Model, Outputs, Term, evaluate, token_weights
from clew.config import ModelName
from clew.data.chat import Codec, Encoded, Encoding
from clew.data.collate import collate
from clew.data.example import best_alone
from clew.data.sources import Source, load_examples, step_indices
from clew.data.template import in_context
from clew.engines.local import LocalEngine, Slots
from clew.experience import from_record, sample_of, to_record
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import HeldOut, start_policy, take_result
from clew.learn.invariants import check_rows
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.distill import forward_kl, top_k_kl
from clew.models.divergence import BesideTeacher, beside
from clew.models.load import merged
from clew.models.policy import Policy
from clew.models.reference import frozen, load_reference
from clew.runs import Loop, Run
from clew.track import trackers
from clew.types import Engine, Prompt, Sampling, Score


class Distill(HeldOut, Slots):
    teacher: ModelName | None = None
    """The model this run starts from when absent, else a folder or hub name of one with the same tokens."""
    context: str = Field(min_length=1)
    """What the teacher reads before every prompt: of a conversation as its system turn, of plain text as its beginning,
    white space included."""
    data: Source
    """Prompts with answers; prompts alone for texts: teacher."""
    encoding: Encoding = Encoding()
    """`max_length` is with the context."""
    texts: Literal["data", "teacher"] = "data"
    """Whose answers both read: the data's, or the teacher's, sampled anew at every step."""
    max_tokens: int = Field(default=64, ge=1)
    """Of an answer that is sampled."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling alone."""
    top_k: int | None = Field(default=None, ge=1)
    """Tokens a place whose probabilities are compared, all others together as one class; all when absent."""
    averaging: Averaging = "token"
    learner: Optimiser = Optimiser(lr=1e-5, warmup=0.03)


class Both(NamedTuple):
    """A text as the student reads it, and as the teacher does."""

    student: Encoded
    teacher: Encoded


class Asked(NamedTuple):
    """A prompt as the student reads it, and as the teacher does."""

    student: Prompt
    teacher: Prompt


def run(config: Distill) -> None:
    with Run(config, config.out, "distill", trackers(config)) as run:
        if run.is_finished:
            return
        policy = start_policy(config)
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        texts = asked(codec, config) if config.texts == "teacher" else both_of(codec, config.data, config)
        held = both_of(codec, config.heldout, config) if config.heldout else []
        run.note(f"distill: {len(texts)} to train on, {len(held)} held out; encoded: {codec.summary()}")
        policy.stop_at(codec.stops())
        rows = [row for both in (*texts, *held) for row in both if isinstance(row, Encoded)]
        check_rows(rows, policy.stop_ids, policy.trunk.context)
        is_sampled = config.texts == "teacher" and config.teacher is None
        teacher = frozen(policy) if is_sampled else load_reference(config.teacher, policy)
        engine = (
            LocalEngine(teacher, slots=config.slots, linears=config.linears) if isinstance(teacher, Policy) else None
        )
        train(policy, teacher, engine, texts, held, config, run)
        take_result(config, policy, run)
        if held:
            run.write("result.json", {"heldout": {"kl": mean_kl(pupil(policy, teacher, config), held, config)}})
        merged(policy, run.model_folder).save(run.model_folder)
        run.finish()


def train(
    policy: Model,
    teacher: Model,
    engine: Engine | None,
    texts: Sequence[Both] | Sequence[Asked],
    held: Sequence[Both],
    config: Distill,
    run: Loop,
) -> None:
    total = max(1, round(config.epochs * len(texts) / config.batch))
    model = pupil(policy, teacher, config)
    learner = Learner(model, config.learner, total_steps=total)
    state = TrainState({"policy": learner})
    for step in run.steps(total, state, save_every=config.save_every, keep=config.keep):
        picked = [texts[i] for i in step_indices(len(texts), config.batch, seed=config.seed, step=step.number)]
        rows = [both for both in picked if isinstance(both, Both)]
        if prompts := [both for both in picked if isinstance(both, Asked)]:
            assert engine is not None, "a teacher that answers is a whole model"
            records = step.journal(partial(spoken, engine, prompts, config, (config.seed, step.number)))
            rows = [answered(prompt, record) for prompt, record in zip(prompts, records, strict=True)]
            step.samples([sample_of(record) for record in records[:2]])
            run.ledger["tokens_generated"] += sum(sum(record["rollout"]["mask"]) for record in records)
        step.track(learner.step(Part(batch_of(rows, config), objective)))
        if held and step.is_saved:
            step.track({"heldout/kl": mean_kl(model, held, config)})
        run.account(learner.spent())


def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
    assert outputs.divergence is not None
    return [Term("distill", outputs.divergence, "token")], [Metric.mean("kl", outputs.divergence, batch.mask)]


def pupil(policy: Any, teacher: Any, config: Distill) -> BesideTeacher:
    divergence = forward_kl if config.top_k is None else partial(top_k_kl, k=config.top_k)
    return BesideTeacher(policy, teacher, divergence)


def batch_of(rows: Sequence[Both], config: Distill) -> Batch:
    batch = beside(collate([[both.student] for both in rows]), [both.teacher for both in rows])
    return batch.with_weights(token=token_weights(batch.mask, config.averaging, max_length=config.encoding.max_length))


def mean_kl(model: Model, rows: Sequence[Both], config: Distill) -> float:
    """Nats a token of the answers."""
    batch = batch_of(rows, config)
    divergence = evaluate(model, batch, max_tokens=config.learner.max_tokens).divergence
    assert divergence is not None
    return float(divergence.sum() / batch.mask.sum())


def both_of(codec: Codec, source: Source, config: Distill) -> list[Both]:
    """The data's answers without and after the context, where both have the same tokens to learn from."""
    found: list[Both] = []
    examples = [best_alone(e) for e in load_examples(source)]
    for example in examples:
        ours, theirs = codec.encode(example), codec.encode(in_context(example, config.context))
        pairs = [Both(*both) for both in zip(ours or [], theirs or [], strict=False)]
        same = [both for both in pairs if scored(both.student) == scored(both.teacher)]
        codec.counts["answers left out, of other tokens after the context"] += len(pairs) - len(same)
        found += same
    if not found:
        raise ValueError(
            f"{source.path}: none of {len(examples)} answers has the same tokens without and after the context "
            f"({dict(codec.counts)}); end the context as the prompts begin, with white space, or raise max_length"
        )
    return found


def asked(codec: Codec, config: Distill) -> list[Asked]:
    """Prompts without and after the context, where both fit."""
    examples = [replace(e, answers=(), ranks=()) for e in load_examples(config.data)]
    pairs = [[codec.prompt(e, config.max_tokens) for e in (e, in_context(e, config.context))] for e in examples]
    found = [Asked(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    if not found:
        raise ValueError(f"no prompt is left after encoding ({dict(codec.counts)}); raise max_length")
    return found


def scored(row: Encoded) -> list[int]:
    return [token for token, is_scored in zip(row.tokens, row.mask, strict=True) if is_scored]


def spoken(engine: Engine, prompts: Sequence[Asked], config: Distill, key: tuple[int, int]) -> list[dict[str, Any]]:
    """What the teacher answers, as journal records."""
    engine.version = key[1]
    sampling = Sampling(config.max_tokens, config.temperature)
    rollouts = engine.generate([prompt.teacher for prompt in prompts], n=1, sampling=sampling, key=key)
    return [to_record(rollout, Score(None)) for rollout in rollouts]


def answered(prompt: Asked, record: dict[str, Any]) -> Both:
    rollout, _ = from_record(record)
    first = len(prompt.teacher.tokens)
    answer, is_whole = list(rollout.tokens[first:]), rollout.stop == "end"
    ours, theirs = (
        Encoded([*p.tokens, *answer], [False] * len(p.tokens) + [True] * len(answer), is_whole) for p in prompt
    )
    return Both(ours, theirs)
