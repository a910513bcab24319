"""Reinforcement learning from any reward: PPO with a value model, GRPO, RLOO, A2C, by configuration."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated

from pydantic import Field, model_validator

from clew.batch import Averaging, Batch, Metric, Model, Objective, Outputs, Term, mean_of, token_weights
from clew.config import Choice, Config, ModelName, bound_to, option
from clew.data.chat import Codec, Encoded, Encoding
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, step_indices
from clew.engines.local import LocalEngine, Slots
from clew.experience import Shaping, experience, minibatches, sample_of, sampled
from clew.judges.score import Sources, make_reward
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import FineTuning, start_policy, start_scalar
from clew.learn.invariants import check_combination, check_rollouts
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.kl import KL_LOSSES, k3
from clew.losses.token import POLICY_LOSSES, is_clipped, nll
from clew.losses.value import VALUE_LOSSES
from clew.models.adapter import LoRA
from clew.models.load import check_vocabulary, merged
from clew.models.reference import load_reference
from clew.runs import Loop, Run
from clew.track import trackers
from clew.types import Engine, Prompt, Reward, Sampling


class Critic(Config):
    model: ModelName
    """Folder to start from: the reward model, or a language model (new head)."""
    lora: LoRA | None = None
    loss: Annotated[Choice, bound_to(VALUE_LOSSES)] = Choice(name="clipped_squared")
    """clipped_squared, squared."""
    learner: Optimiser = Optimiser(lr=1e-5, schedule="constant")


class PTX(Config):
    """PPO-ptx: next-token prediction on other text, so that RL does not cost what the model knew."""

    data: Source
    coefficient: float = Field(default=1.0, ge=0)
    batch: int = Field(default=8, ge=1)


class RL(FineTuning, Shaping, Slots):
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
    loss: Annotated[Choice, bound_to(POLICY_LOSSES)] = Choice(name="clipped")
    """clipped, reinforce."""
    averaging: Averaging = "token"
    epochs: int = Field(default=1, ge=1)
    """Passes over a step's rollouts."""
    minibatches: int = Field(default=1, ge=1)
    """Updates a pass."""
    entropy: float = Field(default=0.0, ge=0)
    """Coefficient of the entropy bonus."""
    critic: Critic | None = None
    ptx: PTX | None = None
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
    objectives = {"policy": policy_objective(config, state.values), "critic": critic_objective(config)}
    for step in run.steps(config.steps, state, save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(prompts), config.prompts, seed=config.seed, step=step.number)
        asked, key = [prompts[i] for i in picked], (config.seed, step.number)
        records = step.journal(partial(sampled, engine, reward, asked, sampling, config.group, key))
        batch, metrics = experience(
            records, reference, critic, config, coefficient=state.values["kl"], max_tokens=budget
        )
        if step.number == 0:
            same = not config.reference
            check_rollouts(policy, batch, max_tokens=budget, precision=config.precision, from_reference=same)
        updates: list[dict[str, float]] = []
        for part in updates_of(batch, step.number, config):
            others = ptx_parts(texts, learners["policy"].steps, config)
            updates.append(learners["policy"].step(Part(part, objectives["policy"]), *others))
            if "critic" in learners:
                found = learners["critic"].step(Part(part, objectives["critic"]))
                updates[-1] |= {name if "/" in name else f"critic/{name}": value for name, value in found.items()}
            if config.kl.stop is not None and updates[-1]["policy/approxkl_avg"] > 1.5 * config.kl.stop:
                break
        step.track(metrics | mean_of(updates))
        step.samples([sample_of(record) for record in records[:2]])
        state.values["kl"] = config.kl.steered(state.values["kl"], metrics["objective/kl"], batch.num_rows)
        run.ledger["tokens_generated"] += int(batch.mask.sum())
        run.account(*(learner.spent() for learner in learners.values()))


def updates_of(batch: Batch, step: int, config: RL) -> Iterator[Batch]:
    """Minibatches of every epoch, their weights fixed for the update."""
    for epoch in range(config.epochs):
        for part in minibatches(batch, config.minibatches, key=(config.seed, step, epoch)):
            weights = token_weights(part.mask, config.averaging, max_length=config.max_tokens)
            yield part.with_weights(token=weights)


def policy_objective(config: RL, values: Mapping[str, float]) -> Objective:
    loss = config.loss.bind(POLICY_LOSSES)
    low, high = option(loss, "low", 0.2), option(loss, "high", 0.2)

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.logps is not None and outputs.entropy is not None
        logps, old, advantages = outputs.logps, batch.extras["old_logps"], batch.extras["advantages"]
        terms = [Term("policy", loss(logps, old, advantages), "token")]
        if config.entropy:
            terms.append(Term("entropy", -outputs.entropy, "token", config.entropy))
        if config.kl.place == "loss":
            penalty = KL_LOSSES[config.kl.loss](logps, batch.extras["ref_logps"], batch.mask)
            terms.append(Term("kl", penalty, "token", values["kl"]))
        metrics = [
            Metric.mean("policy/approxkl_avg", k3(old, logps), batch.mask),
            Metric.mean("policy/clipfrac_avg", is_clipped(logps, old, advantages, low=low, high=high), batch.mask),
            Metric.mean("policy/entropy_avg", outputs.entropy, batch.mask),
            Metric.mean("val/ratio", (logps.detach() - old).exp(), batch.mask),
        ]
        return terms, metrics

    return objective


def critic_objective(config: RL) -> Objective:
    loss = config.critic.loss.bind(VALUE_LOSSES) if config.critic else None

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert loss is not None and outputs.values is not None
        returns = batch.extras["returns"]
        metrics = [Metric.mean("critic/squared_error", (outputs.values - returns).square(), batch.mask)]
        return [Term("value", loss(outputs.values, batch.extras["old_values"], returns), "token")], metrics

    return objective


def ptx_parts(texts: Sequence[Encoded], update: int, config: RL) -> list[Part]:
    """Another part of the same update: the pretraining loss on its own batch, with its own average."""
    if config.ptx is None:
        return []
    coefficient = config.ptx.coefficient
    batch = collate([[texts[i]] for i in step_indices(len(texts), config.ptx.batch, seed=config.seed, step=update)])

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.logps is not None
        return [Term("ptx", nll(outputs.logps), "token", coefficient)], []

    return [Part(batch.with_weights(token=token_weights(batch.mask, "token")), objective)]
