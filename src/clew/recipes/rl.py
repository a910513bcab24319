"""Reinforcement learning from any reward: PPO with a value model, GRPO, RLOO, A2C, by configuration."""

from collections.abc import Sequence
from functools import partial

from pydantic import Field, model_validator

from clew.batch import Batch, Model, Objective, mean_of
from clew.config import ModelName
from clew.data.chat import Codec, Encoded, Encoding
from clew.data.sources import Source, load_examples, step_indices
from clew.engines.local import LocalEngine, Slots
from clew.experience import drawn, experience, sample_of
from clew.judges.score import Sources, make_reward
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import FineTuning, start_policy, start_scalar
from clew.learn.invariants import check_combination, check_rollouts
from clew.learn.learner import Learner, Optimiser, Part
from clew.learn.trust_region import trust_region_step
from clew.models.load import check_vocabulary, merged
from clew.models.reference import load_reference
from clew.policy_gradient import PolicyUpdate, critic_objective, divergence, policy_objective, ptx_parts, updates_of
from clew.runs import Loop, Run
from clew.shaping import Shaping, seen
from clew.track import trackers
from clew.types import Engine, Prompt, Reward, Sampling


class RL(FineTuning, Shaping, PolicyUpdate, Slots):
    reference: ModelName | None = None
    """The frozen reference: the model this run starts from when absent, else a folder or hub name."""
    data: Source
    """Prompts."""
    encoding: Encoding = Encoding()
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling and of every log-probability. RL samples from the whole softmax: there is no top_k and no top_p."""
    reward: Sources = Field(min_length=1)
    """A list of summands: [{function: "rewards.py:tidy"}], or [{model: "@reward/model"}]."""
    steps: int = Field(default=100, ge=1)
    prompts: int = Field(default=32, ge=1)
    """Prompts a step."""
    learner: Optimiser = Optimiser(lr=1e-6, schedule="constant")
    _goes_together = model_validator(mode="after")(check_combination)


def run(config: RL) -> None:
    with Run(config, config.out, "rl", trackers(config)) as run:
        if run.is_finished:
            return
        policy = start_policy(config)
        policy.temperature = config.temperature
        reference = load_reference(config.reference, policy)
        critic = config.critic and start_scalar(config, config.critic.model, config.critic.lora)
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        prompts = codec.prompts(load_examples(config.data), config.max_tokens)
        texts = [r[0] for _, r in codec.answers(load_examples(config.ptx.data))] if config.ptx else []
        run.note(f"rl: {len(prompts)} prompts; encoded: {codec.summary()}")
        if critic is not None:
            check_vocabulary(critic.tokenizer, policy.tokenizer, str(config.critic))
        engine, reward = (
            LocalEngine(policy, slots=config.slots, linears=config.linears),
            make_reward(config.reward, policy),
        )
        train(policy, reference, critic, engine, reward, prompts, texts, config, run)
        merged(policy, run.model_folder).save(run.model_folder)
        run.finish()


def train(
    policy: Model,
    reference: Model,
    critic: Model | None,
    engine: Engine,
    reward: Reward,
    prompts: Sequence[Prompt],
    texts: Sequence[Encoded],
    config: RL,
    run: Loop,
) -> None:
    total = config.steps * config.epochs * config.minibatches
    learners = {"policy": Learner(policy, config.learner, total_steps=total)}
    if critic is not None and config.critic is not None:
        learners["critic"] = Learner(critic, config.critic.learner, total_steps=total)
    state = TrainState(learners, {"kl": config.kl.coefficient})
    sampling, budget = Sampling(config.max_tokens, config.temperature), config.learner.max_tokens
    objectives = {
        "policy": policy_objective(config, config.kl, state.values),
        "critic": critic_objective(config.critic),
    }
    for step in run.steps(config.steps, state, save_every=config.save_every, keep=config.keep):
        key = (config.seed, step.number)
        draws = draws_of(prompts, config, step.number)
        records = step.journal(partial(drawn, engine, reward, draws, sampling, config, key))
        if config.normalise != "none":
            state.values.update(seen(state.values, records))
        batch, metrics = experience(
            records, reference, critic, config, values=state.values, longest=config.max_tokens, max_tokens=budget
        )
        if step.number == 0:
            same = not config.reference
            check_rollouts(policy, batch, max_tokens=budget, precision=config.precision, from_reference=same)
        updates: list[dict[str, float]] = []
        for part in updates_of(batch, config, longest=config.max_tokens, key=key):
            updates.append(improved(learners["policy"], part, objectives["policy"], texts, config))
            if "critic" in learners:
                found = learners["critic"].step(Part(part, objectives["critic"]))
                updates[-1] |= {name if "/" in name else f"critic/{name}": value for name, value in found.items()}
            if config.kl.stop is not None and updates[-1]["policy/approxkl_avg"] > 1.5 * config.kl.stop:
                break
        step.track(metrics | mean_of(updates))
        step.samples([sample_of(record) for record in records[:2]])
        state.values["kl"] = config.kl.steered(state.values["kl"], metrics["objective/kl"], batch.num_rows)
        run.ledger["tokens_generated"] += sum(sum(record["rollout"]["mask"]) for record in records)
        run.account(*(learner.spent() for learner in learners.values()))


def draws_of(prompts: Sequence[Prompt], config: RL, step: int) -> list[list[Prompt]]:
    """Prompts of a step, and those in reserve for dynamic sampling."""
    numbers = range(step * config.draws, (step + 1) * config.draws)
    return [[prompts[i] for i in step_indices(len(prompts), config.prompts, seed=config.seed, step=n)] for n in numbers]


def improved(
    learner: Learner, batch: Batch, objective: Objective, texts: Sequence[Encoded], config: RL
) -> dict[str, float]:
    """One update of the policy."""
    if config.trust_region is not None:
        return trust_region_step(learner, Part(batch, objective), Part(batch, divergence), config.trust_region)
    others = ptx_parts(texts, config.ptx, seed=config.seed, update=learner.steps)
    return learner.step(Part(batch, objective), *others)
