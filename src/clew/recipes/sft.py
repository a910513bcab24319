"""Supervised fine-tuning: imitate demonstrations, learning only from what the answer says."""

from pydantic import Field

from clew.batch import Averaging, Batch, Metric, Model, Outputs, Term, evaluate, token_weights
from clew.data.chat import Codec, Encoded, Encoding
from clew.data.collate import collate
from clew.data.example import best_alone
from clew.data.sources import Source, load_examples, step_indices
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import HeldOut, start_policy, take_result
from clew.learn.invariants import check_rows
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.token import nll
from clew.models.load import merged
from clew.runs import Loop, Run
from clew.track import trackers


class SFT(HeldOut):
    data: Source
    """Prompts with completions, conversations, or plain text."""
    encoding: Encoding = Encoding()
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; when absent, `epochs` times the data."""
    averaging: Averaging = "token"
    learner: Optimiser = Optimiser(lr=1e-4, warmup=0.03)


def run(config: SFT) -> None:
    with Run(config, config.out, "sft", trackers(config)) as run:
        if run.is_finished:
            return
        policy = start_policy(config)
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        rows = demonstrations(config.data, codec)
        held = demonstrations(config.heldout, codec) if config.heldout else []
        run.note(f"sft: {len(rows)} to train on, {len(held)} held out; encoded: {codec.summary()}")
        policy.stop_at(codec.stops())
        check_rows([*rows, *held], policy.stop_ids, policy.trunk.context)
        train(policy, rows, held, config, run)
        take_result(config, policy, run)
        policy = merged(policy, run.model_folder)
        policy.save(run.model_folder)
        if held:
            run.write("result.json", {"heldout": {"nll": mean_nll(policy, held, config)}})
        run.finish()


def demonstrations(source: Source, codec: Codec) -> list[Encoded]:
    """Answers to imitate, of pairs and rankings the best."""
    return [rows[0] for _, rows in codec.answers([best_alone(e) for e in load_examples(source)])]


def train(policy: Model, rows: list[Encoded], held: list[Encoded], config: SFT, run: Loop) -> None:
    total = config.steps or max(1, round(config.epochs * len(rows) / config.batch))
    learner = Learner(policy, config.learner, total_steps=total)
    state = TrainState({"policy": learner})
    for step in run.steps(total, state, save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(rows), config.batch, seed=config.seed, step=step.number)
        batch = collate([[rows[i]] for i in picked])
        batch = batch.with_weights(
            token=token_weights(batch.mask, config.averaging, max_length=config.encoding.max_length)
        )
        step.track(learner.step(Part(batch, objective)))
        if held and step.is_saved:
            step.track({"heldout/nll": mean_nll(policy, held, config)})
        run.account(learner.spent())


def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
    assert outputs.logps is not None and outputs.entropy is not None
    metrics = [
        Metric.mean("entropy", outputs.entropy, batch.mask),
        Metric.mean("supervised_token_fraction", batch.mask, batch.real),
    ]
    return [Term("nll", nll(outputs.logps), "token")], metrics


def mean_nll(policy: Model, rows: list[Encoded], config: SFT) -> float:
    """Nats a supervised token."""
    batch = collate([[row] for row in rows])
    logps = evaluate(policy, batch, max_tokens=config.learner.max_tokens).logps
    assert logps is not None
    return float(-logps.sum() / batch.mask.sum())
