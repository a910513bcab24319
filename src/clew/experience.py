"""From rollouts and scores to numbers on tokens: KL, rewards, advantages. What an RL recipe learns from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from clew.batch import Batch, Model, evaluate
from clew.config import Choice, Config, bound_to
from clew.data.collate import collate, pad
from clew.judges.ahead import generate_and_score
from clew.losses.advantage import GROUP_ADVANTAGES, gae, whiten
from clew.losses.kl import adaptive_coefficient, dual_coefficient, k1, k3
from clew.types import Engine, Prompt, Reward, Rollout, Sampling, Score, Turn

ROLLOUT_FIELDS = tuple(f.name for f in fields(Rollout))


class MissingEOS(Config):
    """What a rollout that was cut by length gets: OpenAI replaces its score, TRL subtracts a penalty."""

    how: Literal["replace", "subtract"] = "replace"
    value: float = -1.0
    """The new score; or the penalty, a positive number, to subtract."""


class KL(Config):
    """How far the policy may go from the reference, and how that is felt."""

    coefficient: float = Field(default=0.05, ge=0)
    place: Literal["reward", "loss"] = "reward"
    """reward: k1 of each token, exact in expectation. loss: a term with the gradient named in `loss`."""
    loss: Literal["reverse", "forward"] = "reverse"
    """reverse: KL(pi || ref) over sequences. forward: k3 of each token, as GRPO has it."""
    target: float | None = Field(default=None, gt=0)
    """Nats a sequence that the coefficient is steered to; none keeps the coefficient."""
    controller: Literal["adaptive", "dual"] = "adaptive"
    """adaptive: Ziegler's, proportional. dual: ascent on the multiplier of the hard constraint KL <= target."""
    horizon: float = Field(default=10000.0, gt=0)
    """Sequences over which the controller acts."""
    stop: float | None = Field(default=None, gt=0)
    """Skip the step's other minibatches once mean k3(new || old) a token exceeds 1.5 times this."""

    @model_validator(mode="after")
    def _can_be_steered(self) -> "KL":
        if self.target is not None and self.coefficient <= 0:
            raise ValueError(f"a KL target is reached by changing the coefficient from above 0; got {self.coefficient}")
        return self

    def steered(self, coefficient: float, kl: float, num_sequences: int) -> float:
        """The coefficient for the next step, after a batch whose mean KL a sequence was `kl`."""
        if self.target is None:
            return coefficient
        if self.controller == "dual":
            return dual_coefficient(coefficient, kl, target=self.target, rate=num_sequences / self.horizon)
        return adaptive_coefficient(
            coefficient, kl, target=self.target, horizon=self.horizon, num_sequences=num_sequences
        )


class Shaping(Config):
    """What becomes of a score before the policy learns from it."""

    group: int = Field(default=1, ge=1)
    """Rollouts a prompt."""
    advantages: Annotated[Choice, bound_to({"gae": gae, **GROUP_ADVANTAGES})] = Choice(name="gae")
    """gae (needs a critic); group_mean, group_normalised, leave_one_out, batch_mean over whole rollouts."""
    kl: KL = KL()
    missing_eos: MissingEOS | None = None
    whiten_rewards: bool = False
    """Scale token rewards to unit variance, keeping their mean."""
    whiten_advantages: bool = False


def experience(
    records: Sequence[Mapping[str, Any]],
    reference: Model,
    critic: Model | None,
    shaping: Shaping,
    *,
    coefficient: float,
    max_tokens: int,
) -> tuple[Batch, dict[str, float]]:
    """A batch whose items are prompts, with extras old_logps, ref_logps, advantages and, with a critic, old_values
    and returns, all [B, T]; and the metrics of the rollouts. All statistics are over the whole batch.

    The sampler's own log-probabilities are the old ones: sampling and training agree (checked at step 0).
    """
    rollouts, scores, abstained = scored_groups(records, shaping.group)
    batch = collate([rollouts[i : i + shaping.group] for i in range(0, len(rollouts), shaping.group)])
    old = pad([r.logps for r in rollouts], 0.0)
    ref = evaluate(reference, batch, max_tokens=max_tokens).logps
    assert ref is not None
    ref = ref.cpu()
    outcomes = outcome_scores(rollouts, scores, shaping.missing_eos)
    in_reward = coefficient if shaping.kl.place == "reward" else 0.0
    rewards = token_rewards(batch, outcomes, scores, k1(old, ref), in_reward)
    if shaping.whiten_rewards:
        rewards = whiten(rewards, batch.mask, shift_mean=False)
    batch = batch.with_extras(old_logps=old, ref_logps=ref)
    if critic is not None:
        values = evaluate(critic, batch, max_tokens=max_tokens).values
        assert values is not None
        values = values.cpu()
        advantages = shaping.advantages.bind({"gae": gae})(rewards, values, batch.mask)
        batch = batch.with_extras(old_values=values, returns=advantages + values)
    else:
        estimate = shaping.advantages.bind(GROUP_ADVANTAGES)
        per_rollout = estimate(batch.per_row(rewards).view(-1, shaping.group)).flatten()
        advantages = per_rollout[:, None] * batch.mask
    if shaping.whiten_advantages:
        advantages = whiten(advantages, batch.mask)
    return batch.with_extras(advantages=advantages), describe(batch, rollouts, scores, rewards, abstained, coefficient)


def sampled(
    engine: Engine, reward: Reward, prompts: Sequence[Prompt], sampling: Sampling, group: int, key: tuple[int, int]
) -> list[dict[str, Any]]:
    """Rollouts of the policy and their scores, as journal records."""
    engine.version = key[1]
    rollouts, scores = generate_and_score(engine, reward, prompts, n=group, sampling=sampling, key=key)
    return [to_record(r, s) for r, s in zip(rollouts, scores, strict=True)]


def scored_groups(records: Sequence[Mapping[str, Any]], group: int) -> tuple[list[Rollout], list[Score], float]:
    """Rollouts with scores, and the share of abstentions. A group with an abstention is left out whole.

    Raises ValueError when nothing is left: a reward that always abstains teaches nothing.
    """
    pairs = [from_record(r) for r in records]
    groups = [pairs[i : i + group] for i in range(0, len(pairs), group)]
    kept = [pair for found in groups if all(s.value is not None for _, s in found) for pair in found]
    if not kept:
        raise ValueError(
            f"the reward abstained in every one of {len(groups)} groups of rollouts; nothing to learn from"
        )
    abstained = sum(s.value is None for _, s in pairs) / len(pairs)
    return [r for r, _ in kept], [s for _, s in kept], abstained


def outcome_scores(rollouts: Sequence[Rollout], scores: Sequence[Score], missing_eos: MissingEOS | None) -> Tensor:
    """The reward for each whole rollout, [B]."""
    values = torch.tensor([s.value for s in scores], dtype=torch.float32)
    if missing_eos is None:
        return values
    cut = torch.tensor([r.stop != "end" for r in rollouts])
    if missing_eos.how == "replace":
        return values.masked_fill(cut, missing_eos.value)
    return values - missing_eos.value * cut


def token_rewards(batch: Batch, outcomes: Tensor, scores: Sequence[Score], kl: Tensor, coefficient: float) -> Tensor:
    """Per-token rewards [B, T]: -coefficient * kl everywhere, the outcome on the last token the policy wrote.

    On that token itself (the stop token), not behind it, where there is no state to value. Process rewards
    (`Score.at`) go to their own tokens.
    """
    rewards = -coefficient * kl * batch.mask
    last = (torch.arange(batch.tokens.shape[1]) * batch.mask).argmax(1)
    rewards[torch.arange(batch.num_rows), last] += outcomes
    for b, score in enumerate(scores):
        for index, reward in score.at:
            rewards[b, index] += reward
    return rewards


def describe(
    batch: Batch,
    rollouts: Sequence[Rollout],
    scores: Sequence[Score],
    rewards: Tensor,
    abstained: float,
    coefficient: float,
) -> dict[str, float]:
    """Metrics of a rollout batch, under the names people watch."""
    old, ref = batch.extras["old_logps"], batch.extras["ref_logps"]
    values = torch.tensor([s.value for s in scores], dtype=torch.float32)
    lengths = batch.lengths().float()
    parts = {name: [s.parts[name] for s in scores if name in s.parts] for name in scores[0].parts}
    return {
        "objective/scores": float(values.mean()),
        "objective/scores_std": float(values.std()) if len(values) > 1 else 0.0,
        "objective/kl": float(batch.per_row(k1(old, ref)).mean()),
        "objective/kl_k3": float(batch.per_row(k3(old, ref)).mean()),
        "objective/kl_coefficient": coefficient,
        "objective/rlhf_reward": float(batch.per_row(rewards).mean()),
        "objective/entropy": float(-batch.per_row(old).mean()),
        "completions/mean_length": float(lengths.mean()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": sum(r.stop != "end" for r in rollouts) / len(rollouts),
        "rewards/abstained": abstained,
        **{f"rewards/{name}/mean": float(np.mean(found)) for name, found in parts.items() if len(parts) > 1},
    }


def minibatches(batch: Batch, num: int, *, key: Sequence[int]) -> Iterator[Batch]:
    """The batch in `num` parts of whole items, shuffled by `key`."""
    order = np.random.default_rng(list(key)).permutation(batch.num_items)
    for part in np.array_split(order, num):
        if len(part):
            yield batch.take(part.tolist())


def to_record(rollout: Rollout, score: Score) -> dict[str, Any]:
    """A journal line: JSON types only, field by field (dataclasses.asdict would copy every token)."""
    record = dict(zip(ROLLOUT_FIELDS, attrgetter(*ROLLOUT_FIELDS)(rollout), strict=True))
    record["turns"] = [[turn.role, turn.start, turn.end] for turn in rollout.turns]
    return {"rollout": record, "score": {"value": score.value, "parts": score.parts, "at": score.at}}


def from_record(record: Mapping[str, Any]) -> tuple[Rollout, Score]:
    rollout, score = record["rollout"], record["score"]
    turns = tuple(Turn(*turn) for turn in rollout["turns"])
    at = tuple((int(i), float(r)) for i, r in score["at"])
    return Rollout(**{**rollout, "turns": turns}), Score(score["value"], score["parts"], at)


def sample_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What people want to read of a journal record."""
    rollout, score = record["rollout"], record["score"]
    return {
        "prompt": rollout["prompt"],
        "completion": rollout["text"],
        "stop": rollout["stop"],
        "score": score["value"],
    }
