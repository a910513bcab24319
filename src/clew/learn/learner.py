"""One optimiser step over parts, each a batch with its objective. It knows no algorithm."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from clew.batch import Batch, Metric, Model, Objective, Term, reduce_metrics
from clew.config import Config
from clew.failure import memory_for
from clew.learn.not_finite import NotFinite, item_at_fault
from clew.learn.schedule import Schedule, rate_at


class Optimiser(Config):
    """AdamW with a schedule, over micro-batches that fit a token budget."""

    lr: float = Field(default=1e-5, gt=0)
    schedule: Schedule = "cosine"
    warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps in which the rate rises from zero."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Share of `lr` at which cosine and linear end."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """On matrices only, decoupled."""
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    max_tokens: int = Field(default=16384, ge=1)
    """Tokens in one forward pass: memory, not mathematics."""
    gradient_checkpointing: bool = False


class Part(NamedTuple):
    """A batch and what is wanted of it. Parts that share a batch share its forward pass."""

    batch: Batch
    objective: Objective


class Checkpointable(Protocol):
    """A model that can compute activations again in the backward pass instead of keeping them."""

    def checkpoint_activations(self) -> None: ...


class Learner:
    """A model with its optimiser. `rates` are peak rates of single parameters, by name, in place of the optimiser's lr.

    Example: `learner.step(Part(batch, dpo_objective))` changes the weights and returns the step's metrics.
    """

    def __init__(
        self, model: Model, optimiser: Optimiser, *, total_steps: int, rates: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        assert isinstance(model, nn.Module)
        self.model = model
        self.options = optimiser
        if optimiser.gradient_checkpointing:
            cast(Checkpointable, model).checkpoint_activations()
        self.total_steps = total_steps
        self.steps = 0
        self.tokens_trained = 0
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        usual = [p for name, p in self.named.items() if name not in rates]
        groups = [
            {"params": [p for p in usual if p.ndim > 1], "weight_decay": optimiser.weight_decay, "times": 1.0},
            {"params": [p for p in usual if p.ndim <= 1], "weight_decay": 0.0, "times": 1.0},
        ]
        groups += [
            {"params": [self.named[name]], "weight_decay": 0.0, "times": rate / optimiser.lr}
            for name, rate in rates.items()
        ]
        self.optimiser = torch.optim.AdamW(
            groups,
            lr=optimiser.lr,
            betas=optimiser.betas,
            eps=optimiser.eps,
            fused=all(p.device.type == "cpu" for p in self.named.values()),  # one pass over memory in place of eight
        )

    @memory_for("training", advice="lower learner.max_tokens, set learner.gradient_checkpointing, or use lora")
    def step(self, *parts: Part) -> dict[str, float]:
        """One update from the sum of all parts' terms; metrics of the step, with `lr` and `grad_norm`.

        Raises NotFinite, naming the first row at fault, before any weight changes; OutOfMemory.
        """
        metrics = self.accumulate(*parts)
        norm = nn.utils.clip_grad_norm_(self.named.values(), self.options.clip)
        if not torch.isfinite(norm) or not all(math.isfinite(v) for k, v in metrics.items() if k.startswith("loss/")):
            found = self._culprit(parts)
            self.optimiser.zero_grad(set_to_none=True)
            raise found
        rate = rate_at(self.steps, self.total_steps, self.options)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["times"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        return {**metrics, "lr": rate, "grad_norm": float(norm)}

    def accumulate(self, *parts: Part) -> dict[str, float]:
        """Gradients of all parts, added up over micro-batches; the weights stay as they are."""
        metrics: list[Metric] = []
        with self._training():
            for batch, objectives in _by_batch(parts):
                self.tokens_trained += int(batch.real.sum())
                for micro in batch.split(self.options.max_tokens):
                    terms, found = self._forward(micro, objectives)
                    total_loss(terms, micro).backward()
                    metrics += found
        return reduce_metrics(metrics)

    def spent(self) -> dict[str, float]:
        """For the ledger: tokens trained, and the usual estimate of 6 FLOPs a parameter and token."""
        assert isinstance(self.model, nn.Module)
        size = sum(p.numel() for p in self.model.parameters())
        return {"tokens_trained": self.tokens_trained, "flops": 6.0 * size * self.tokens_trained}

    def _forward(self, batch: Batch, objectives: Sequence[Objective]) -> tuple[list[Term], list[Metric]]:
        batch = batch.to(next(iter(self.named.values())).device)
        outputs = self.model.evaluate(batch)
        terms: list[Term] = []
        metrics: list[Metric] = []
        for objective in objectives:
            more_terms, more_metrics = objective(outputs, batch)
            terms += more_terms
            metrics += more_metrics
        one = torch.tensor(1.0)
        for term in terms:
            value = (term.values.detach() * batch.weights[term.weights_key]).sum()
            metrics.append(Metric(f"loss/{term.name}", value, one, "sum"))
        return terms, metrics

    def _culprit(self, parts: Sequence[Part]) -> NotFinite:
        """Which row makes the loss or its gradient infinite: each item is tried alone."""
        for batch, objectives in _by_batch(parts):
            for i in range(batch.num_items):
                self.optimiser.zero_grad(set_to_none=True)
                alone = batch.take([i])
                terms, _ = self._forward(alone, objectives)
                loss = total_loss(terms, alone)
                loss.backward()
                grads = [p.grad for p in self.named.values() if p.grad is not None]
                if not torch.isfinite(loss) or not all(bool(torch.isfinite(g).all()) for g in grads):
                    place = f"step {self.steps}", f"item {i} of {batch.num_items}"
                    return item_at_fault(*place, float(loss.detach()), alone, self.model)
        return NotFinite(f"step {self.steps}: every item has a finite gradient, their sum has not; lower lr")

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Training mode only where gradient checkpointing needs it: dropout is off either way."""
        assert isinstance(self.model, nn.Module)
        self.model.train(self.options.gradient_checkpointing)
        try:
            yield
        finally:
            self.model.eval()

    def state_tensors(self) -> dict[str, Tensor]:
        """The optimiser's state by parameter name, for a checkpoint."""
        states = self.optimiser.state
        return {
            f"{name}.{key}": value
            for name, parameter in self.named.items()
            for key, value in states.get(parameter, {}).items()
        }

    def load_state(self, tensors: Mapping[str, Tensor], *, steps: int, tokens_trained: int) -> None:
        for key, value in tensors.items():
            name, _, entry = key.rpartition(".")
            device = self.named[name].device if value.ndim else "cpu"  # step counts stay where AdamW keeps them
            self.optimiser.state[self.named[name]][entry] = value.to(device, copy=True)
        self.steps, self.tokens_trained = steps, tokens_trained


def total_loss(terms: Sequence[Term], batch: Batch) -> Tensor:
    """Sum, do not average: the weights already divide by the counts of the whole step (docs/concepts)."""
    loss = torch.zeros((), device=batch.tokens.device)
    for term in terms:
        loss = loss + term.coefficient * (term.values * batch.weights[term.weights_key]).sum()
    return loss


def _by_batch(parts: Sequence[Part]) -> list[tuple[Batch, list[Objective]]]:
    """Objectives grouped by the batch they share."""
    grouped: dict[int, tuple[Batch, list[Objective]]] = {}
    for batch, objective in parts:
        grouped.setdefault(id(batch), (batch, []))[1].append(objective)
    return list(grouped.values())
