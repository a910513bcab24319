"""CGPO: several tasks for one policy, each with its own prompts, reward, constraint judges, optimiser and weight."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from clew.batch import Model, mean_of
from clew.config import Choice, Config, ModelName, bound_to
from clew.constrained import judged_of, measured, of_task, part_of
from clew.data.chat import Codec, Encoding
from clew.data.example import best_alone
from clew.data.sources import Source, load_examples, step_indices
from clew.engines.baseline import WithBaseline, from_data, one_sample
from clew.engines.local import LocalEngine, Slots
from clew.experience import sample_of, sampled, scored_groups
from clew.judges.constraints import Judges, judged_reward
from clew.judges.score import Sources, make_reward
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import FineTuning, start_policy
from clew.learn.invariants import check_reference, check_sampled
from clew.learn.learner import Learner, Optimiser
from clew.losses.cgpo import OPTIMISERS
from clew.models.load import merged
from clew.models.policy import Policy
from clew.models.reference import frozen, load_reference
from clew.pairwise import logps_by_id
from clew.runs import Loop, Run
from clew.track import trackers
from clew.types import Engine, Prompt, Reward, Rollout, Sampling


class Task(Config):
    """Prompts, and what is wanted of answers to them."""

    data: Source
    """Prompts; for baseline: data, with the answers."""
    reward: Sources = Field(min_length=1)
    """What is to be high: a list of summands, as in `clew rl`."""
    judges: Judges = ()
    """What every answer must satisfy, whatever its reward: [{name: length, most: 40}, "judges.py:polite"]."""
    optimiser: Annotated[Choice, bound_to(OPTIMISERS)]
    """crpg and crraft (both with kl_max, the nats an answer may be off the reference; .inf: any), codpo (beta, lam)."""
    baseline: Literal["reference", "data"] = "reference"
    """What rewards are measured against: one answer of the reference to each prompt, or the answer of the data."""
    prompts: int = Field(default=16, ge=1)
    """Prompts a step."""
    answers: int = Field(default=4, ge=1)
    """Sampled for each prompt."""
    weight: float = Field(default=1.0, gt=0)
    """Of the task's gradient among the others'."""

    @model_validator(mode="after")
    def _can_learn(self) -> Self:
        name = self.optimiser.name
        if name in ("crpg", "crraft") and "kl_max" not in self.optimiser.options:
            raise ValueError(
                f"{name} needs kl_max, as in {{name: {name}, kl_max: 20}}: nats that an answer may be off the "
                "reference (.inf: any)"
            )
        if name != "crraft" and self.answers < 2:
            raise ValueError(f"{name} compares a prompt's answers, and answers is {self.answers}; set 2 or more")
        return self


class CGPO(FineTuning, Slots):
    reference: ModelName | None = None
    """The frozen reference: the model this run starts from when absent, else a folder or hub name."""
    encoding: Encoding = Encoding()
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling and of every log-probability."""
    tasks: dict[str, Task] = Field(min_length=1)
    """By name."""
    steps: int = Field(default=100, ge=1)
    learner: Optimiser = Optimiser(lr=1e-6, schedule="constant")


class World(NamedTuple):
    """A task with what it needs. The engine's groups end with the baseline; the reward has judges in its parts."""

    task: Task
    prompts: Sequence[Prompt]
    engine: Engine
    reward: Reward


def run(config: CGPO) -> None:
    with Run(config, config.out, "cgpo", trackers(config)) as run:
        if run.is_finished:
            return
        policy = start_policy(config)
        policy.temperature = config.temperature
        reference = load_reference(config.reference, policy)
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        engine = LocalEngine(policy, slots=config.slots, linears=config.linears)
        asked = reference if isinstance(reference, Policy) else frozen(policy)
        theirs = LocalEngine(asked, slots=config.slots, linears=config.linears)
        worlds = {name: prepared(task, policy, engine, theirs, codec, config) for name, task in config.tasks.items()}
        for model in (policy, asked):
            model.stop_at(codec.stops())
        for name, world in worlds.items():
            run.note(f"cgpo: {len(world.prompts)} prompts of task {name}; encoded: {codec.summary()}")
        train(policy, reference, worlds, config, run)
        merged(policy, run.model_folder).save(run.model_folder)
        run.finish()


def prepared(task: Task, policy: Policy, engine: Engine, theirs: Engine, codec: Codec, config: CGPO) -> World:
    examples = load_examples(task.data)
    prompts = codec.prompts(examples, config.max_tokens)
    baseline = one_sample(theirs, config.seed)
    if task.baseline == "data":
        answers = codec.answers([best_alone(e) for e in examples])
        rows = {example.id: rows[-1] for example, rows in reversed(answers)}
        prompts = [prompt for prompt in prompts if prompt.id in rows]
        baseline = from_data(rows, policy.tokenizer)
    reward = judged_reward(make_reward(task.reward, policy), task.judges)
    return World(task, prompts, WithBaseline(engine, baseline), reward)


def train(policy: Model, reference: Model, worlds: Mapping[str, World], config: CGPO, run: Loop) -> None:
    learner, budget = Learner(policy, config.learner, total_steps=config.steps), config.learner.max_tokens
    state = TrainState({"policy": learner})
    for step in run.steps(config.steps, state, save_every=config.save_every, keep=config.keep):
        records = step.journal(partial(answered, worlds, config, step.number))
        parts = []
        for name, (task, *_) in worlds.items():
            ours = [record for record in records if record["task"] == name]
            rollouts, scores, abstained = scored_groups(ours, task.answers + 1)
            refs = logps_by_id(reference, rollouts, max_tokens=budget)
            if step.number == 0:
                check_step_0(policy, rollouts, refs, task, config)
            judged = judged_of(rollouts, scores, refs, task.answers + 1)
            part = part_of(task.optimiser.bind(OPTIMISERS), rollouts, judged, refs)
            if part is not None:
                parts.append(of_task(name, task.weight, part))
            found = measured(rollouts, scores, judged, refs) | {"rewards/abstained": abstained}
            step.track({f"{name}/{key}": value for key, value in found.items()})
        step.track(across(step.metrics, worlds))
        if parts:
            step.track(learner.step(*parts))
        step.samples([sample_of(record) for record in records[:2]])
        run.ledger["tokens_generated"] += sum(
            sum(r["rollout"]["mask"]) for r in records if r["rollout"]["version"] >= 0
        )
        run.account(learner.spent())


def answered(worlds: Mapping[str, World], config: CGPO, step: int) -> list[dict[str, Any]]:
    """All tasks' answers with their baselines, scored and judged, as journal records. No two tasks share noise."""
    records = list[dict[str, Any]]()
    sampling = Sampling(config.max_tokens, config.temperature)
    for place, (name, (task, prompts, engine, reward)) in enumerate(worlds.items()):
        asked = [prompts[i] for i in step_indices(len(prompts), task.prompts, seed=config.seed, step=step)]
        found = sampled(engine, reward, asked, sampling, task.answers, (config.seed + (place << 32), step))
        records += [{"task": name, **record} for record in found]
    return records


def across(metrics: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Means over tasks."""
    of = [{k.removeprefix(f"{name}/"): v for k, v in metrics.items() if k.startswith(f"{name}/")} for name in names]
    return mean_of(of)


def check_step_0(
    policy: Model, rollouts: Sequence[Rollout], refs: Mapping[int, Tensor], task: Task, config: CGPO
) -> None:
    """Sampling and learning agree on the distribution; where the run starts from its reference, on that too."""
    ours = [r for i, r in enumerate(rollouts) if (i + 1) % (task.answers + 1)]
    check_sampled(policy, ours, max_tokens=config.learner.max_tokens, precision=config.precision)
    if config.reference is None:
        said = torch.stack([refs[id(r)] for r in ours])
        old, lengths = torch.tensor([[sum(r.logps), sum(r.mask)] for r in ours]).unbind(1)
        check_reference(old, said, lengths, precision=config.precision)
