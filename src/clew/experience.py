"""From rollouts and scores to numbers on tokens: KL, rewards, advantages. What an RL recipe learns from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clew.batch import Batch, Model, evaluate
from clew.data.collate import collate, pad
from clew.judges.ahead import generate_and_score
from clew.losses.advantage import minus_greedy, to_go, whiten
from clew.losses.kl import k1, k3
from clew.shaping import ADVANTAGES, Shaping, outcome_scores, was_cut
from clew.types import Engine, Prompt, Reward, Rollout, Sampling, Score, Turn

GREEDY = "greedy"
"""Part of a score: that of the prompt's greedy rollout."""
ROLLOUT_FIELDS = tuple(f.name for f in fields(Rollout))


def experience(
    records: Sequence[Mapping[str, Any]],
    reference: Model,
    critic: Model | None,
    shaping: Shaping,
    *,
    values: Mapping[str, float],
    longest: int,
    max_tokens: int,
) -> tuple[Batch, dict[str, float]]:
    """A batch whose items are prompts, with extras old_logps, ref_logps, advantages and, with a critic, old_values
    and returns, all [B, T]; and the metrics of the rollouts. All statistics are over the whole batch.

    `values`: the KL coefficient and, where scores are normalised, their statistics (`seen`). The sampler's own
    log-probabilities are the old ones: sampling and training agree (checked at step 0).
    """
    rollouts, scores, abstained = scored_groups(records, shaping.group, differing=shaping.draws > 1)
    batch = collate([rollouts[i : i + shaping.group] for i in range(0, len(rollouts), shaping.group)])
    old = pad([r.logps for r in rollouts], 0.0)
    ref = evaluate(reference, batch, max_tokens=max_tokens).logps
    assert ref is not None
    ref = ref.cpu()
    batch = batch.with_extras(old_logps=old, ref_logps=ref)
    outcomes = outcome_scores(rollouts, scores, shaping, values, longest=longest)
    in_reward = values["kl"] if shaping.kl.place == "reward" else 0.0
    rewards = token_rewards(batch, outcomes, scores, k1(old, ref), in_reward)
    if shaping.whiten_rewards:
        rewards = whiten(rewards, batch.mask, shift_mean=False)
    extras = estimated(batch, rewards, scores, critic, shaping, max_tokens=max_tokens)
    if shaping.missing_eos is not None and shaping.missing_eos.how == "ignore":
        extras["advantages"] = extras["advantages"] * ~was_cut(rollouts)[:, None]
    return batch.with_extras(**extras), describe(batch, rollouts, scores, rewards, abstained, values["kl"])


def estimated(
    batch: Batch, rewards: Tensor, scores: Sequence[Score], critic: Model | None, shaping: Shaping, *, max_tokens: int
) -> dict[str, Tensor]:
    """Advantages and, with a critic, old values and returns: [B, T] each."""
    estimate, found = shaping.advantages.bind(ADVANTAGES), dict[str, Tensor]()
    if critic is not None:
        values = evaluate(critic, batch, max_tokens=max_tokens).values
        assert values is not None
        advantages = estimate(rewards, values.cpu(), batch.mask)
        found = {"old_values": values.cpu(), "returns": advantages + values.cpu()}
    elif estimate.func is to_go:
        advantages = estimate(rewards, batch.mask)
    else:
        columns = [batch.per_row(rewards)]
        if estimate.func is minus_greedy:
            columns.append(torch.tensor([s.parts[GREEDY] for s in scores]))
        in_groups = (column.view(-1, shaping.group) for column in columns)
        advantages = estimate(*in_groups).flatten()[:, None] * batch.mask
    if shaping.whiten_advantages:
        advantages = whiten(advantages, batch.mask)
    return {**found, "advantages": advantages}


def drawn(
    engine: Engine,
    reward: Reward,
    draws: Sequence[Sequence[Prompt]],
    sampling: Sampling,
    shaping: Shaping,
    key: tuple[int, int],
) -> list[dict[str, Any]]:
    """Rollouts of the prompts of the first draw; with dynamic sampling, of further draws too, until as many groups
    differ in their rewards as there were prompts (DAPO, arXiv 2503.14476, sec. 3.2)."""
    records: list[dict[str, Any]] = []
    for number, asked in enumerate(draws):
        now = (key[0], key[1] * len(draws) + number)
        fresh = sampled(engine, reward, asked, sampling, shaping.group, now)
        if shaping.advantages.name == minus_greedy.__name__:
            best = sampled(engine, reward, asked, replace(sampling, temperature=0.0), 1, now)
            for i, record in enumerate(fresh):
                with_baseline(record, best[i // shaping.group])
        records += fresh
        groups = [records[i : i + shaping.group] for i in range(0, len(records), shaping.group)]
        if sum(differs([r["score"]["value"] for r in group]) for group in groups) >= len(draws[0]):
            break
    return records


def sampled(
    engine: Engine, reward: Reward, prompts: Sequence[Prompt], sampling: Sampling, group: int, key: tuple[int, int]
) -> list[dict[str, Any]]:
    """Rollouts of the policy and their scores, as journal records."""
    engine.version = key[1]
    rollouts, scores = generate_and_score(engine, reward, prompts, n=group, sampling=sampling, key=key)
    return [to_record(r, s) for r, s in zip(rollouts, scores, strict=True)]


def scored_groups(
    records: Sequence[Mapping[str, Any]], group: int, *, differing: bool = False
) -> tuple[list[Rollout], list[Score], float]:
    """Rollouts with scores, and the share of abstentions. A group with an abstention is left out whole; with
    `differing` also one of equal rewards, where there are others.

    Raises ValueError when nothing is left: a reward that always abstains teaches nothing.
    """
    pairs = [from_record(r) for r in records]
    groups = [pairs[i : i + group] for i in range(0, len(pairs), group)]
    known = [found for found in groups if all(s.value is not None for _, s in found)]
    if not known:
        raise ValueError(
            f"the reward abstained in every one of {len(groups)} groups of rollouts; nothing to learn from"
        )
    if differing:
        known = [found for found in known if differs([s.value for _, s in found])] or known
    kept = [pair for found in known for pair in found]
    abstained = sum(s.value is None for _, s in pairs) / len(pairs)
    return [r for r, _ in kept], [s for _, s in kept], abstained


def differs(values: Sequence[float | None]) -> bool:
    """Whether a group of rewards teaches anything: all known, and not all the same."""
    return None not in values and len(set(values)) > 1


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
    parts = {n: [s.parts[n] for s in scores if n in s.parts] for n in dict.fromkeys(n for s in scores for n in s.parts)}
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


def with_baseline(record: dict[str, Any], greedy: Mapping[str, Any]) -> None:
    """Puts the greedy rollout's score beside the sampled one's; where it abstains, so does the other."""
    value = greedy["score"]["value"]
    if value is None:
        record["score"]["value"] = None
    else:
        record["score"]["parts"] = {**record["score"]["parts"], GREEDY: value}


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
