"""Nash learning from human feedback: a policy against an opponent of its own kind, judged by pairwise preferences."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, Self

from pydantic import Field, model_validator

from clew.batch import Model
from clew.config import ModelName
from clew.data.chat import Codec, Encoding
from clew.data.sources import Source, load_examples, step_indices
from clew.duels import Sides, compared, experience, objective
from clew.engines.local import LocalEngine, Slots
from clew.engines.mixture import Mixed
from clew.experience import sample_of
from clew.judges.prefer import AnyPreference, make_preference
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import FineTuning, start_policy
from clew.learn.invariants import check_rollouts
from clew.learn.learner import Learner, Optimiser, Part
from clew.models.load import merged
from clew.models.policy import Policy
from clew.models.reference import follow, frozen, load_reference
from clew.runs import Loop, Run
from clew.track import trackers
from clew.types import Prompt, Sampling


class Nash(FineTuning, Slots):
    reference: ModelName | None = None
    """The frozen reference mu: the model this run starts from when absent, else a folder or hub name."""
    data: Source
    """Prompts."""
    encoding: Encoding = Encoding()
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling and of every log-probability."""
    preference: AnyPreference
    """{model: "@reward/model"} of a preference model or a reward model, or {function: "judges.py:better"}."""
    tau: float = Field(default=0.008, gt=0)
    """Weight of the KL to the reference, in units of a probability."""
    opponent: Literal["mixture", "average"] = "mixture"
    """mixture: token by token pi^(1 - mixture) mu^mixture (Nash-MD). average: an exponential moving average of the
    policy's weights (Nash-EMA)."""
    mixture: float = Field(default=0.125, ge=0, le=1)
    """0 is self-play, whose fixed point is the Nash point; 1 the best response to the reference."""
    decay: float = Field(default=0.999, ge=0, lt=1)
    """What the average keeps of itself at a step."""
    result: Literal["policy", "average"] = "policy"
    """What becomes the model."""
    answers: int = Field(default=2, ge=1)
    """Sampled for each prompt, each against an opponent's of its own."""
    measured: int = Field(default=32, ge=0)
    """Of a step before a checkpoint, prompts whose answers are compared with the reference's too, and with the best of
    a pool: a lower bound of the exploitability, for 2 or more answers."""
    steps: int = Field(default=100, ge=1)
    prompts: int = Field(default=32, ge=1)
    """Prompts a step."""
    learner: Optimiser = Optimiser(lr=1e-6, schedule="constant")

    @model_validator(mode="after")
    def _has_an_average(self) -> Self:
        if self.result == "average" and self.opponent != "average":
            raise ValueError(f"result: average needs opponent: average, which keeps one; got opponent: {self.opponent}")
        return self


def run(config: Nash) -> None:
    with Run(config, config.out, "nash", trackers(config)) as run:
        if run.is_finished:
            return
        policy = start_policy(config)
        policy.temperature = config.temperature
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        prompts = codec.prompts(load_examples(config.data), config.max_tokens)
        run.note(f"nash: {len(prompts)} prompts; encoded: {codec.summary()}")
        policy.stop_at(codec.stops())
        preference = make_preference(config.preference, policy)
        reference = load_reference(config.reference, policy) if config.reference else frozen(policy)
        assert isinstance(reference, Policy)
        average = frozen(policy) if config.opponent == "average" else None
        sides = Sides(
            LocalEngine(policy, slots=config.slots, linears=config.linears),
            opponent_of(policy, reference, average, config),
            LocalEngine(reference, slots=config.slots),
            preference,
        )
        train(policy, reference, average, sides, prompts, config, run)
        found = average if average is not None and config.result == "average" else policy
        merged(found, run.model_folder).save(run.model_folder)
        run.finish()


def opponent_of(policy: Policy, reference: Policy, average: Policy | None, config: Nash) -> LocalEngine:
    """Whoever the policy's answers are compared with, as the policy is at that time."""
    if average is not None:
        return LocalEngine(average, slots=config.slots)
    if config.mixture in (0, 1):
        return LocalEngine(reference if config.mixture else policy, slots=config.slots)
    return LocalEngine(policy, slots=config.slots, mixed=Mixed(reference, config.mixture))


def train(
    policy: Model,
    reference: Model,
    average: Model | None,
    sides: Sides,
    prompts: Sequence[Prompt],
    config: Nash,
    run: Loop,
) -> None:
    """`sides` answer as the models are now; `average` moves behind the policy."""
    learner = Learner(policy, config.learner, total_steps=config.steps)
    state = TrainState({"policy": learner}, models={} if average is None else {"average": average})
    sampling, budget = Sampling(config.max_tokens, config.temperature), config.learner.max_tokens
    for step in run.steps(config.steps, state, save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(prompts), config.prompts, seed=config.seed, step=step.number)
        asked, key = [prompts[i] for i in picked], (config.seed, step.number)
        measured = config.measured if step.is_saved else 0
        records = step.journal(partial(compared, sides, asked, sampling, config.answers, key, measured=measured))
        batch, metrics = experience(records, reference, tau=config.tau, max_tokens=budget)
        if step.number == 0:
            same = config.reference is None
            check_rollouts(policy, batch, max_tokens=budget, precision=config.precision, from_reference=same)
        step.track(metrics | learner.step(Part(batch, objective)))
        if average is not None:
            follow(average, policy, decay=config.decay)
        step.samples([sample_of(record) | {"opponent": record["opponent"]} for record in records[:2]])
        run.ledger["tokens_generated"] += sum(sum(r["rollout"]["mask"]) + r["tokens_of_others"] for r in records)
        run.account(learner.spent())
