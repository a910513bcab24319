"""ILQL: Q-learning on the tokens of answers that lie there, with rewards; no sampling while it learns."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import nn

from clew.batch import Averaging, Batch, Metric, Model, Objective, Outputs, Term, evaluate, token_weights
from clew.data.chat import Codec, Encoding
from clew.data.collate import collate
from clew.data.sources import Source, load_examples, step_indices
from clew.experience import from_record, to_record, token_rewards
from clew.judges.score import Sources, make_reward
from clew.learn.checkpoint import TrainState
from clew.learn.finetuning import HeldOut, start_policy, take_result
from clew.learn.invariants import check_rows
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.q import conservative, expectile, squared_q, td_targets
from clew.losses.token import advantage_weighted
from clew.models.load import merged
from clew.models.perturbed import Decoding, WithQ, alone, new_heads
from clew.models.reference import follow
from clew.offline import Scored, as_rollouts, known, rated, spread_of, total, whitened
from clew.runs import Loop, Run
from clew.track import trackers
from clew.types import Reward, Rollout


class ILQL(HeldOut):
    data: Source
    """Answers with a rating or a label, or steps with labels; with `reward`, any answers."""
    encoding: Encoding = Encoding()
    reward: Sources = ()
    """Scores every answer once, before the first step, in place of what the data say: [{model: "@reward/model"}]."""
    normalise: Literal["none", "whiten"] = "whiten"
    """whiten: rewards of mean 0 and spread 1 over the data, so that `beta` means the same whatever their scale."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; when absent, `epochs` times the data."""
    gamma: float = Field(default=0.99, gt=0, le=1)
    """Discount a token."""
    tau: float = Field(default=0.7, gt=0, lt=1)
    """Expectile of Q that V is: 0.5 the mean over the data's tokens, towards 1 the best that the data have."""
    cql: float = Field(default=0.1, ge=0)
    """Coefficient of the conservative term, which lowers Q of tokens that the data do not have."""
    awac: float = Field(default=1.0, ge=0)
    """Coefficient of cloning the data, with which the language model is learnt."""
    awac_beta: float = Field(default=0.0, ge=0)
    """0 clones all tokens alike; above, each is weighed by exp(awac_beta (Q - V)), by 20 at most."""
    polyak: float = Field(default=0.001, gt=0, le=1)
    """How far the target heads follow the Q heads,"""
    polyak_every: int = Field(default=5, ge=1)
    """every so many steps."""
    width: int | None = Field(default=None, ge=1)
    """Of the heads' hidden layer; twice the model's when absent."""
    decode: Decoding = Decoding()
    """How the model answers; saved with it."""
    averaging: Averaging = "token"
    learner: Optimiser = Optimiser(lr=5e-5, warmup=0.03)


class Critic(Model, Protocol):
    """A language model with two Q heads and V; `target` follows `q`."""

    @property
    def q(self) -> nn.Module: ...
    @property
    def target(self) -> nn.Module: ...


def run(config: ILQL) -> None:
    with Run(config, config.out, "ilql", trackers(config)) as run:
        if run.is_finished:
            return
        policy = alone(start_policy(config))
        model = WithQ(policy, new_heads(policy.trunk, width=config.width, seed=config.seed), config.decode)
        codec = Codec(policy.tokenizer, config.encoding, run.note)
        reward = make_reward(config.reward, policy) if config.reward else None
        answers = with_rewards(codec, config.data, reward, model, run, "rewards")
        held = with_rewards(codec, config.heldout, reward, model, run, "heldout") if config.heldout else []
        mean, std = spread_of(answers, config.data.path)
        run.note(
            f"ilql: {len(answers)} answers to train on, rewards {mean:.3g} ± {std:.3g}, {len(held)} held out; "
            f"encoded: {codec.summary()}"
        )
        came = 1 - (1 - config.polyak) ** (num_steps(config, answers) // config.polyak_every)
        run.note(f"ilql: target heads, by which it answers, will come {came:.0%} of the way; a higher polyak, further")
        if config.normalise == "whiten":
            answers, held = (whitened(scored, mean, std) for scored in (answers, held))
        train(model, answers, held, config, run)
        take_result(config, model, run)
        model = WithQ(merged(policy, run.model_folder), model.heads, config.decode)
        model.save(run.model_folder)
        if held:
            run.write("result.json", {"heldout": judged(model, held, config)})
        run.finish()


def train(model: Critic, answers: Sequence[Scored], held: Sequence[Scored], config: ILQL, run: Loop) -> None:
    steps = num_steps(config, answers)
    learner, objective = Learner(model, config.learner, total_steps=steps), q_objective(config)
    for step in run.steps(steps, TrainState({"model": learner}), save_every=config.save_every, keep=config.keep):
        picked = step_indices(len(answers), config.batch, seed=config.seed, step=step.number)
        step.track(learner.step(Part(batch_of([answers[i] for i in picked], config), objective)))
        if (step.number + 1) % config.polyak_every == 0:
            follow(model.target, model.q, decay=1 - config.polyak)
        if held and step.is_saved:
            step.track({f"heldout/{name}": value for name, value in judged(model, held, config).items()})
        run.account(learner.spent())


def num_steps(config: ILQL, answers: Sequence[Scored]) -> int:
    return config.steps or max(1, round(config.epochs * len(answers) / config.batch))


def q_objective(config: ILQL) -> Objective:
    """The sum of all four losses (arXiv 2206.11871, sec. 4), as trlx adds them up."""

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        logps, values, target = outputs.logps, outputs.values, outputs.target_q
        assert logps is not None and values is not None and target is not None
        assert outputs.q is not None and outputs.q_logps is not None
        targets = td_targets(batch.extras["rewards"], values, batch.mask, gamma=config.gamma)
        advantages = (target - values).detach()
        terms = [
            Term("q", squared_q(outputs.q, targets), "token"),
            Term("value", expectile(values, target, tau=config.tau), "token"),
            Term("conservative", conservative(outputs.q_logps), "token", config.cql),
            Term("awac", advantage_weighted(logps, logps, config.awac_beta * advantages), "token", config.awac),
        ]
        seen = {"q": outputs.q.mean(-1), "target_q": target, "values": values, "advantages": advantages, "nll": -logps}
        return terms, [Metric.mean(name, x, batch.mask) for name, x in seen.items()]

    return objective


def batch_of(answers: Sequence[Scored], config: ILQL) -> Batch:
    """Rewards [B, T]: the score on an answer's last token, process rewards where they belong."""
    batch, scores = collate([[rollout] for rollout, _ in answers]), [score for _, score in answers]
    outcomes = torch.tensor([0.0 if score.value is None else score.value for score in scores])
    rewards = token_rewards(batch, outcomes, scores, torch.zeros(batch.tokens.shape), 0.0)
    weights = token_weights(batch.mask, config.averaging, max_length=config.encoding.max_length)
    return batch.with_extras(rewards=rewards).with_weights(token=weights)


def with_rewards(
    codec: Codec, source: Source, reward: Reward | None, model: WithQ, run: Run, name: str
) -> list[Scored]:
    """Every answer of a source with what it is worth; scores are journalled, since they may not come out the same."""
    items = codec.answers(load_examples(source))
    policy = model.policy
    policy.stop_at(codec.stops())
    check_rows([row for _, rows in items for row in rows], policy.stop_ids, policy.trunk.context)
    rollouts = as_rollouts(codec, items)
    if reward is None:
        return list(zip(rollouts, rated(codec, rollouts, source.path), strict=True))
    scored = [from_record(record) for record in run.journal(name, partial(records, reward, rollouts))]
    kept = known(scored, source.path)
    run.note(f"ilql: {source.path}: {len(kept)} answers scored, {len(scored) - len(kept)} abstentions left out")
    return kept


def records(reward: Reward, rollouts: Sequence[Rollout]) -> list[dict]:
    return [to_record(*pair) for pair in zip(rollouts, reward(rollouts), strict=True)]


def judged(model: Model, answers: Sequence[Scored], config: ILQL) -> dict[str, float]:
    """How the targets' Q of an answer's last token goes with its reward, and how usual its tokens are."""
    batch = batch_of(answers, config)
    said = evaluate(model, batch, max_tokens=config.learner.max_tokens)
    assert said.target_q is not None and said.logps is not None
    last = (torch.arange(batch.tokens.shape[1]) * batch.mask).argmax(1, keepdim=True)
    worth = torch.tensor([total(score) for _, score in answers])
    both = torch.stack([said.target_q.cpu().float().gather(1, last)[:, 0], worth])
    correlation = float(torch.corrcoef(both)[0, 1].nan_to_num()) if len(answers) > 1 else 0.0
    return {"correlation": correlation, "token_nll": float(-said.logps.sum() / batch.mask.sum())}
