"""What is learnt from rollouts: the objectives of policy and critic, and the batches of a step's updates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from clew.batch import Averaging, Batch, Metric, Objective, Outputs, Term, token_weights
from clew.config import Choice, Config, ModelName, bound_to, option
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.data.sources import Source, step_indices
from clew.experience import minibatches
from clew.learn.learner import Optimiser, Part
from clew.learn.trust_region import TrustRegion
from clew.losses.kl import KL_LOSSES, k3
from clew.losses.token import POLICY_LOSSES, TOWARDS_REFERENCE, is_clipped, nll, sequence_mean
from clew.losses.value import VALUE_LOSSES
from clew.models.adapter import LoRA
from clew.shaping import KL


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


class PolicyUpdate(Config):
    """How a policy learns from its rollouts."""

    loss: Annotated[Choice, bound_to(POLICY_LOSSES)] = Choice(name="clipped")
    """clipped, reinforce, cispo, apa, advantage_weighted."""
    ratio: Literal["token", "sequence"] = "token"
    """sequence: of whole answers, the geometric mean of their tokens' (GSPO)."""
    averaging: Averaging = "token"
    epochs: int = Field(default=1, ge=1)
    """Passes over a step's rollouts."""
    minibatches: int = Field(default=1, ge=1)
    """Updates a pass."""
    entropy: float = Field(default=0.0, ge=0)
    """Coefficient of the entropy bonus."""
    trust_region: TrustRegion | None = None
    """TRPO in place of AdamW, for small models: natural gradient steps within a KL."""
    critic: Critic | None = None
    ptx: PTX | None = None


def updates_of(batch: Batch, config: PolicyUpdate, *, longest: int, key: tuple[int, int]) -> Iterator[Batch]:
    """Minibatches of every epoch, their weights fixed for the update."""
    for epoch in range(config.epochs):
        for part in minibatches(batch, config.minibatches, key=(*key, epoch)):
            yield part.with_weights(token=token_weights(part.mask, config.averaging, max_length=longest))


def policy_objective(config: PolicyUpdate, kl: KL, values: Mapping[str, float]) -> Objective:
    """`values["kl"]` is the coefficient of the moment."""
    loss = config.loss.bind(POLICY_LOSSES)
    anchor = "ref_logps" if loss.func in TOWARDS_REFERENCE else "old_logps"
    low, high = option(loss, "low", 0.2), option(loss, "high", 0.2)

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.logps is not None and outputs.entropy is not None
        logps, old, advantages = outputs.logps, batch.extras["old_logps"], batch.extras["advantages"]
        ours, theirs = logps, batch.extras[anchor]
        if config.ratio == "sequence":
            ours, theirs = (sequence_mean(x, batch.mask) for x in (ours, theirs))
        terms = [Term("policy", loss(ours, theirs, advantages), "token")]
        if config.entropy:
            terms.append(Term("entropy", -outputs.entropy, "token", config.entropy))
        if kl.place == "loss":
            penalty = KL_LOSSES[kl.loss](logps, batch.extras["ref_logps"], batch.mask)
            terms.append(Term("kl", penalty, "token", values["kl"]))
        metrics = [
            Metric.mean("policy/approxkl_avg", k3(old, logps), batch.mask),
            Metric.mean("policy/clipfrac_avg", is_clipped(ours, theirs, advantages, low=low, high=high), batch.mask),
            Metric.mean("policy/entropy_avg", outputs.entropy, batch.mask),
            Metric.mean("val/ratio", (logps.detach() - old).exp(), batch.mask),
        ]
        return terms, metrics

    return objective


def divergence(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
    """KL(old || new) on the tokens that old wrote: k3, whose curvature at old is their Fisher information."""
    assert outputs.logps is not None
    return [Term("divergence", k3(outputs.logps, batch.extras["old_logps"]), "token")], []


def critic_objective(config: Critic | None) -> Objective:
    loss = config.loss.bind(VALUE_LOSSES) if config else None

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert loss is not None and outputs.values is not None
        returns = batch.extras["returns"]
        metrics = [Metric.mean("critic/squared_error", (outputs.values - returns).square(), batch.mask)]
        return [Term("value", loss(outputs.values, batch.extras["old_values"], returns), "token")], metrics

    return objective


def ptx_parts(texts: Sequence[Encoded], config: PTX | None, *, seed: int, update: int) -> list[Part]:
    """Another part of the same update: the pretraining loss on its own batch, with its own average."""
    if config is None:
        return []
    coefficient = config.coefficient
    batch = collate([[texts[i]] for i in step_indices(len(texts), config.batch, seed=seed, step=update)])

    def objective(outputs: Outputs, batch: Batch) -> tuple[list[Term], list[Metric]]:
        assert outputs.logps is not None
        return [Term("ptx", nll(outputs.logps), "token", coefficient)], []

    return [Part(batch.with_weights(token=token_weights(batch.mask, "token")), objective)]
