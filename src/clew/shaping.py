"""What becomes of a score before the policy learns from it: KL penalty, normalising, what its end and length cost."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from clew.config import Choice, Config, bound_to
from clew.losses.advantage import GROUP_ADVANTAGES, gae, minus_greedy, to_go
from clew.losses.kl import adaptive_coefficient, dual_coefficient
from clew.types import Rollout, Score

ADVANTAGES = {f.__name__: f for f in (gae, to_go, minus_greedy)} | GROUP_ADVANTAGES


class MissingEOS(Config):
    """What a rollout that was cut by length gets: OpenAI replaces its score, TRL subtracts a penalty."""

    how: Literal["replace", "subtract", "ignore"] = "replace"
    """ignore: nothing is learnt from it (DAPO's overlong filtering); its score still counts in its group."""
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
    draws: int = Field(default=1, ge=1)
    """Dynamic sampling (DAPO): groups of equal reward are dropped, and other prompts drawn, at most so often a step."""
    advantages: Annotated[Choice, bound_to(ADVANTAGES)] = Choice(name="gae")
    """Of tokens: gae (needs a critic), to_go. Of whole rollouts: group_mean, group_normalised, leave_one_out,
    batch_mean, minus_greedy (ReMax: one greedy rollout a prompt is the baseline)."""
    kl: KL = KL()
    normalise: Literal["none", "centre", "whiten"] = "none"
    """Scores, by the mean and spread of all scores of the run so far."""
    missing_eos: MissingEOS | None = None
    overlong: int | None = Field(default=None, ge=1)
    """Tokens before max_tokens over which the score falls evenly by 1 (DAPO's soft penalty for length)."""
    whiten_rewards: bool = False
    """Scale token rewards to unit variance, keeping their mean."""
    whiten_advantages: bool = False


def was_cut(rollouts: Sequence[Rollout]) -> Tensor:
    """Which rollouts ended by length, without a stop token: [B]."""
    return torch.tensor([r.stop != "end" for r in rollouts])


def outcome_scores(
    rollouts: Sequence[Rollout],
    scores: Sequence[Score],
    shaping: Shaping,
    statistics: Mapping[str, float],
    *,
    longest: int,
) -> Tensor:
    """The reward for each whole rollout, [B]: its score normalised, then what its end and length cost."""
    values = torch.tensor([s.value for s in scores], dtype=torch.float32)
    if shaping.normalise != "none":
        values = values - statistics["scores_mean"]
    if shaping.normalise == "whiten":
        values = values / max(spread(statistics), 1e-8)
    ending = shaping.missing_eos
    if ending is not None and ending.how == "replace":
        values = values.masked_fill(was_cut(rollouts), ending.value)
    if ending is not None and ending.how == "subtract":
        values = values - ending.value * was_cut(rollouts)
    if shaping.overlong is not None:
        lengths = torch.tensor([float(sum(r.mask)) for r in rollouts])
        values = values - ((lengths - longest + shaping.overlong) / shaping.overlong).clamp(0, 1)
    return values


def seen(statistics: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Count, mean and sum of squared deviations of all scores so far, these included (Chan et al. 1979)."""
    new = np.array([r["score"]["value"] for r in records if r["score"]["value"] is not None])
    count, mean, squares = (statistics.get(f"scores_{name}", 0.0) for name in ("seen", "mean", "squares"))
    if not len(new):
        return {"scores_seen": count, "scores_mean": mean, "scores_squares": squares}
    total, gap = count + len(new), float(new.mean()) - mean
    return {
        "scores_seen": total,
        "scores_mean": mean + gap * len(new) / total,
        "scores_squares": squares + float(((new - new.mean()) ** 2).sum()) + gap**2 * count * len(new) / total,
    }


def spread(statistics: Mapping[str, float]) -> float:
    """Standard deviation of all scores so far; 1 before the second."""
    count = statistics["scores_seen"]
    return 1.0 if count < 2 else (statistics["scores_squares"] / (count - 1)) ** 0.5
