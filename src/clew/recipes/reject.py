"""Sample, filter, imitate: RAFT, Llama 2's rejection sampling, ReST-EM, best-of-n distillation, by configuration."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator

from clew.batch import Batch, Model
from clew.config import Choice, bound_to
from clew.constrained import likelihood
from clew.data.chat import Codec, Encoded, Encoding
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, step_indices, without_repeats
from clew.engines.local import LocalEngine, Slots
from clew.experience import from_record, sample_of, sampled
from clew.judges.score import Sources, make_reward
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import FineTuning, start_policy
from clew.learn.invariants import check_sampled
from clew.learn.learner import Learner, Optimiser, Part
from clew.models.load import merged
from clew.models.reference import frozen, move
from clew.pairwise import described
from clew.runs import Loop, Run
from clew.selection import FILTERS, KEYS, Same, candidates_of, selected, tie_breakers
from clew.track import trackers
from clew.types import Engine, Prompt, Reward, Sampling

Temperatures = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...],
    Field(min_length=1),
    BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else [value]),
]


class Reject(FineTuning, Slots):
    data: Source
    """Prompts."""
    encoding: Encoding = Encoding()
    max_tokens: int = Field(default=64, ge=1)
    temperature: Temperatures = (1.0,)
    """Of sampling alone: one, or a list, a round each, the last of them from then on."""
    reward: Sources = Field(min_length=1)
    """A list of summands: [{function: "rewards.py:tidy"}], or [{model: "@reward/model"}]."""
    rounds: int = Field(default=1, ge=1)
    """Of sampling from the newest policy, filtering, and learning what is kept."""
    prompts: int | None = Field(default=None, ge=1)
    """Prompts a round; all of them when absent."""
    answers: int = Field(default=8, ge=1)
    """Sampled for each prompt."""
    filter: Annotated[Choice, bound_to(FILTERS)] = Choice(name="best")
    """best (num: 1 of each prompt), at_least (value: 1), top_share (share: 0.1 of all), or `module:function`."""
    distinct: Annotated[Choice, bound_to(KEYS)] | None = None
    """By what a prompt's answers count as the same, of which one is kept: exact, normalised, or `module:function`."""
    most: int | None = Field(default=None, ge=1)
    """Answers of a prompt at most, the best of those that are kept."""
    cut: Literal["keep", "drop"] = "keep"
    """Whether answers that were cut at max_tokens may be kept: from them nobody learns to end."""
    pool: bool = False
    """Choose among what earlier rounds kept as well, and learn from all of it (Llama 2)."""
    restart: bool = False
    """Learn from the model that the run started with, anew in every round (ReST-EM), not from the newest policy."""
    weigh: Literal["answers", "prompts"] = "answers"
    """What weighs the same: every answer that is kept, or every prompt, its answers sharing."""
    epochs: int = Field(default=1, ge=1)
    """Passes over what a round has kept."""
    minibatches: int = Field(default=8, ge=1)
    """Updates a pass."""
    learner: Optimiser = Optimiser(lr=2e-5, warmup=0.03)
    """Its schedule is that of the run; with `restart`, of every round."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        num = self.filter.options.get("num", 1)
        if self.filter.name == "best" and num >= self.answers and not self.pool:
            raise ValueError(f"filter: best keeps {num} of {self.answers} answers whatever their reward; sample more")
        if self.pool and self.filter.name == "top_share":
            raise ValueError("pool filters again what was kept, and the top share of a top share is another; take best")
        if self.pool and any(source.combine.name == "whiten" for source in self.reward):
            raise ValueError("pool compares rewards of several rounds, and whiten makes them comparable within one")
        return self


def run(config: Reject) -> None:
    with Run(config, config.out, "reject", trackers(config)) as run:
        if run.is_finished:
            return
        policy = start_policy(config)
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        prompts = codec.prompts(without_repeats(load_examples(config.data)), config.max_tokens)
        run.note(f"reject: {len(prompts)} different prompts; encoded: {codec.summary()}")
        policy.stop_at(codec.stops())
        start = frozen(policy) if config.restart else None
        engine = LocalEngine(policy, slots=config.slots, linears=config.linears)
        reward = make_reward(config.reward, policy)
        train(policy, policy.at(config.temperature[0]), start, engine, reward, prompts, config, run)
        merged(policy, run.model_folder).save(run.model_folder)
        run.finish()


def train(
    policy: Model,
    sampler: Model,
    start: Model | None,
    engine: Engine,
    reward: Reward,
    prompts: Sequence[Prompt],
    config: Reject,
    run: Loop,
) -> None:
    """`sampler` is the policy at the first round's temperature; `start` what every round begins with, if not there."""
    updates, num = config.epochs * config.minibatches, min(config.prompts or len(prompts), len(prompts))
    total = updates if start is not None else config.rounds * updates
    learners = {"policy": Learner(policy, config.learner, total_steps=total)}
    kept: list[dict[str, Any]] = []
    state = TrainState(learners, {"kept": 0.0}, records=kept)
    for step in run.steps(config.rounds * updates, state, save_every=config.save_every, keep=config.keep):
        number, update = divmod(step.number, updates)
        if update == 0:
            places = dict.fromkeys(step_indices(len(prompts), num, seed=config.seed, step=number))
            asked = [prompts[i] for i in places]  # each once, also where a pass ends within the round
            sampling = Sampling(config.max_tokens, config.temperature[min(number, len(config.temperature) - 1)])
            key = (config.seed, number)
            records = step.journal(partial(sampled, engine, reward, asked, sampling, config.answers, key))
            if number == 0:
                drawn = [from_record(record)[0] for record in records]
                check_sampled(sampler, drawn, max_tokens=config.learner.max_tokens, precision=config.precision)
            ties = tie_breakers(*key, [prompt.id for prompt in asked], config.answers)
            fresh = [record | {"tie": float(tie)} for record, tie in zip(records, ties, strict=True)]
            kept[:] = chosen([*kept, *fresh] if config.pool else fresh, config)
            if kept and start is not None:
                move(policy, start)
                learners["policy"] = begun_again(learners["policy"])
            state.values["kept"] += len(kept)
            step.track(measured(records, kept))
            step.samples([sample_of(record) for record in kept[:2]])
            run.ledger["tokens_generated"] += sum(sum(record["rollout"]["mask"]) for record in records)
        if rows := part_of(kept, number, update, config):
            step.track(learners["policy"].step(Part(batch_of(rows), likelihood)))
        run.account(learners["policy"].spent())
    if not state.values["kept"]:
        raise ValueError(
            f"nothing was kept in {config.rounds} rounds, so nothing was learnt (filter: {config.filter.name} "
            f"{config.filter.options or ''}); look at objective/scores, ask for less, or sample more answers"
        )


def chosen(records: Sequence[dict[str, Any]], config: Reject) -> list[dict[str, Any]]:
    """Those that are kept, in the order in which they come, with their weights; none without a reward.

    Over a round the weights make the mean over tokens; where prompts weigh the same, an answer is one of several.
    """
    known = [r for r in records if r["score"]["value"] is not None]
    known = [r for r in known if config.cut == "keep" or r["rollout"]["stop"] == "end"]
    same: Same | None = config.distinct and config.distinct.bind(KEYS)
    kept = [known[i] for i in selected(candidates_of(known), config.filter.bind(FILTERS), same, config.most)]
    ids = [r["rollout"]["prompt_id"] for r in kept]
    answers = Counter(ids if config.weigh == "prompts" else set(ids))
    total = sum(sum(r["rollout"]["mask"]) / answers[name] for r, name in zip(kept, ids, strict=True))
    return [r | {"weight": config.minibatches / answers[name] / total} for r, name in zip(kept, ids, strict=True)]


def begun_again(learner: Learner) -> Learner:
    """Without what the optimiser remembers; the tokens it was trained on still count."""
    fresh = Learner(learner.model, learner.options, total_steps=learner.total_steps)
    fresh.tokens_trained = learner.tokens_trained
    return fresh


def part_of(kept: Sequence[dict[str, Any]], number: int, update: int, config: Reject) -> list[dict[str, Any]]:
    """What an update learns from: every answer once in each pass, shuffled."""
    epoch, part = divmod(update, config.minibatches)
    order = np.random.default_rng([config.seed, number, epoch]).permutation(len(kept))
    return [kept[i] for i in np.array_split(order, config.minibatches)[part]]


def batch_of(records: Sequence[dict[str, Any]]) -> Batch:
    rollouts = [record["rollout"] for record in records]
    batch = collate([[Encoded(r["tokens"], r["mask"], r["stop"] == "end")] for r in rollouts])
    return batch.with_weights(answer=torch.tensor([record["weight"] for record in records]))


def measured(records: Sequence[dict[str, Any]], kept: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Metrics of what a round has sampled, and of what there is to learn."""
    pairs = [from_record(record) for record in records]
    known = [score for _, score in pairs if score.value is not None]
    found = {"rewards/abstained": 1 - len(known) / len(pairs), "kept": len(kept)}
    found["kept/prompts"] = len({record["rollout"]["prompt_id"] for record in kept})
    if kept:
        found["kept/scores"] = float(np.mean([record["score"]["value"] for record in kept]))
    return found | described([rollout for rollout, _ in pairs], known, {})
