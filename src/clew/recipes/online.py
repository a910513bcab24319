"""Preference optimisation on the policy's own answers: online and iterative DPO with any pair loss, and SPIN."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from clew.batch import Batch, Model, item_weights, mean_of
from clew.config import Choice, ModelName, bound_to
from clew.data.chat import Codec, Encoded, Encoding
from clew.data.example import best_alone
from clew.data.sources import Source, load_examples, step_indices
from clew.engines.local import LocalEngine, Slots
from clew.experience import minibatches, sample_of, sampled, scored_groups
from clew.judges.score import Sources, make_reward
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import FineTuning, start_policy
from clew.learn.invariants import check_sampled
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.pair import PAIR_LOSSES, REFERENCE_FREE
from clew.models.load import merged
from clew.models.reference import frozen, load_reference, move
from clew.pairwise import (
    Labels,
    against,
    check_at_reference,
    described,
    judged,
    logps_by_id,
    make_batch,
    pair_objective,
)
from clew.runs import Loop, Run
from clew.track import trackers
from clew.types import Engine, Prompt, Reward, Rollout, Sampling, Score


class Online(FineTuning, Labels, Slots):
    reference: ModelName | None = None
    """The reference that is kept: the model this run starts from when absent, else a folder or hub name."""
    data: Source
    """Prompts; for opponent: data, with the answers that are chosen."""
    encoding: Encoding = Encoding()
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling and of every log-probability."""
    opponent: Literal["itself", "data"] = "itself"
    """What a sampled answer is compared with. itself: another one, as the reward says. data: the answer in the data,
    which is always the better one (SPIN)."""
    reward: Sources = ()
    """A list of summands: [{function: "rewards.py:tidy"}], or [{model: "@reward/model"}]; none for opponent: data."""
    answers: int = Field(default=2, ge=1)
    """Sampled for each prompt; the best of them is compared with the worst."""
    round: int | None = Field(default=None, ge=1)
    """Steps of a round, for what is said to be of its start."""
    sampler: Literal["policy", "round"] = "policy"
    """Who answers: the policy as it is (online), or as it was when the round began (iterative)."""
    anchor: Literal["start", "round"] = "start"
    """The reference: kept from the start on, or moved to the policy whenever a round begins."""
    loss: Annotated[Choice, bound_to(PAIR_LOSSES)] = Choice(name="dpo")
    """dpo, robust_dpo, ipo, ipo_mean, hinge, apo_zero, apo_down, simpo, orpo."""
    steps: int = Field(default=100, ge=1)
    prompts: int = Field(default=32, ge=1)
    """Prompts a step."""
    epochs: int = Field(default=1, ge=1)
    """Passes over a step's pairs."""
    minibatches: int = Field(default=1, ge=1)
    """Updates a pass."""
    learner: Optimiser = Optimiser(lr=1e-6, schedule="constant")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        of_rounds = [name for name in ("sampler", "anchor") if getattr(self, name) == "round"]
        if (self.round is None) == bool(of_rounds):
            named = ", ".join(f"{name}: round" for name in of_rounds)
            raise ValueError(
                f"{named} needs round, the steps of one"
                if named
                else "round: does nothing; set sampler or anchor to round"
            )
        if self.anchor == "round" and self.reference is not None:
            raise ValueError(f"reference: {self.reference} is kept, and anchor: round moves the reference; choose one")
        if self.opponent == "data" and (self.reward or len(of_rounds) < 2):
            raise ValueError(
                "opponent: data is SPIN, whose data's answers always win over those of the round's start, which is the "
                "reference too; set sampler: round, anchor: round and a round, and no reward"
            )
        if self.opponent == "itself" and (not self.reward or self.answers < 2):
            raise ValueError("opponent: itself compares a prompt's answers; it needs a reward, and answers: 2 or more")
        return self


class Task(NamedTuple):
    """A prompt, and for SPIN the data's answer to it."""

    prompt: Prompt
    answer: Encoded | None = None


def run(config: Online) -> None:
    with Run(config, config.out, "online", trackers(config)) as run:
        if run.is_finished:
            return
        policy = start_policy(config)
        policy.temperature = config.temperature
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        tasks = tasks_of(codec, config)
        run.note(f"online: {len(tasks)} prompts; encoded: {codec.summary()}")
        policy.stop_at(codec.stops())
        begun = frozen(policy) if config.round else None
        is_free = config.loss.bind(PAIR_LOSSES).func in REFERENCE_FREE
        reference = begun if config.anchor == "round" else load_reference(config.reference, policy)
        sampler = policy if config.sampler == "policy" or begun is None else begun
        engine = LocalEngine(sampler, slots=config.slots, linears=config.linears)
        reward = make_reward(config.reward, policy) if config.reward else unjudged
        train(policy, begun, None if is_free else reference, engine, reward, tasks, config, run)
        merged(policy, run.model_folder).save(run.model_folder)
        run.finish()


def train(
    policy: Model,
    begun: Model | None,
    reference: Model | None,
    engine: Engine,
    reward: Reward,
    tasks: Sequence[Task],
    config: Online,
    run: Loop,
) -> None:
    """`begun` is the policy of the round's start; engine and reference may be of it."""
    learner = Learner(policy, config.learner, total_steps=config.steps * config.epochs * config.minibatches)
    state = TrainState({"policy": learner}, models={} if begun is None else {"round": begun})
    objective = pair_objective(config.loss.bind(PAIR_LOSSES))
    sampling = Sampling(config.max_tokens, config.temperature)
    for step in run.steps(config.steps, state, save_every=config.save_every, keep=config.keep):
        if begun is not None and config.round and step.number % config.round == 0:
            move(begun, policy)
        key = (config.seed, step.number)
        picked = [tasks[i] for i in step_indices(len(tasks), config.prompts, seed=config.seed, step=step.number)]
        asked = [task.prompt for task in picked]
        records = step.journal(partial(sampled, engine, reward, asked, sampling, config.answers, key))
        rollouts, scores, abstained = scored_groups(records, config.answers)
        answers = [task.answer for task in picked if task.answer]
        refs = logps_by_id(reference, [*rollouts, *answers], max_tokens=config.learner.max_tokens)
        step.track(described(rollouts, [] if answers else scores, refs) | {"rewards/abstained": abstained})
        if answers:
            pairs = against(answers, rollouts, config.answers)
        else:
            pairs = judged(rollouts, scores, config, config.answers, key)
        if pairs:
            batch = make_batch(pairs, refs)
            if step.number == 0:
                check_step_0(policy, rollouts, batch, config)
            parts = updates_of(batch, config, key)
            step.track(mean_of([learner.step(Part(part, objective)) for part in parts]))
        step.track({"pairs": len(pairs)})
        step.samples([sample_of(record) for record in records[:2]])
        run.ledger["tokens_generated"] += sum(sum(record["rollout"]["mask"]) for record in records)
        run.account(learner.spent())


def tasks_of(codec: Codec, config: Online) -> list[Task]:
    """Prompts; for SPIN those whose answer in the data can be learnt from, each with it."""
    examples = load_examples(config.data)
    if config.opponent == "itself":
        return [Task(prompt) for prompt in codec.prompts(examples, config.max_tokens)]
    found = [(codec.prompt(e, config.max_tokens), codec.encode(best_alone(e))) for e in examples]
    tasks = [Task(prompt, rows[-1]) for prompt, rows in found if prompt is not None and rows]
    if not tasks:
        raise ValueError(f"no prompt with its answer is left after encoding ({dict(codec.counts)}); raise max_length")
    return tasks


def updates_of(batch: Batch, config: Online, key: tuple[int, int]) -> Iterator[Batch]:
    """Minibatches of every epoch, each with its own mean over pairs."""
    for epoch in range(config.epochs):
        for part in minibatches(batch, config.minibatches, key=(*key, epoch)):
            yield part.with_weights(item=item_weights(part))


def unjudged(rollouts: Sequence[Rollout]) -> list[Score]:
    return [Score(0.0) for _ in rollouts]


def check_step_0(policy: Model, rollouts: Sequence[Rollout], batch: Batch, config: Online) -> None:
    """Sampling and learning agree on the distribution; without one of its own, the reference is the policy too."""
    options: dict[str, Any] = {"max_tokens": config.learner.max_tokens, "precision": config.precision}
    check_sampled(policy, rollouts, **options)
    if config.reference is None:
        check_at_reference(policy, config.loss.bind(PAIR_LOSSES), batch, **options)
