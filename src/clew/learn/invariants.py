"""What must hold before the first step of a real run. A broken invariant stops the run and says which row and why."""

import math
from collections.abc import Collection, Sequence
from typing import Literal, Protocol, TypeVar

from torch import Tensor

from clew.batch import Batch, Model, evaluate
from clew.config import Choice
from clew.data.chat import Encoded
from clew.data.collate import collate, pad
from clew.types import Rollout

Precision = Literal["fp32", "bf16"]


class BrokenInvariant(RuntimeError):
    """The run would have trained on something other than it claims."""


class Combined(Protocol):
    """What an RL configuration combines."""

    @property
    def advantages(self) -> Choice: ...
    @property
    def critic(self) -> object | None: ...
    @property
    def draws(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def ptx(self) -> object | None: ...
    @property
    def temperature(self) -> float: ...
    @property
    def trust_region(self) -> object | None: ...


R = TypeVar("R", bound=Combined)
IN_GROUP = ("group_mean", "group_normalised", "leave_one_out")


def check_combination(config: R) -> R:
    """Options that each are right, and together teach nothing or something else. Raises ValueError."""
    name = config.advantages.name
    if (config.critic is None) == (name == "gae"):
        raise ValueError(f"advantages: {name} and critic: {config.critic} do not go together: gae needs one")
    if name in IN_GROUP and config.group < 2:
        raise ValueError(
            f"advantages: {name} compares the rollouts of a prompt, of which there is one (group: {config.group}), so "
            "nothing would be learnt; set group: 2 or more, or take batch_mean"
        )
    if config.draws > 1 and config.group < 2:
        raise ValueError(
            f"draws: {config.draws} drops groups of equal reward, and a group has one rollout; set group: 2"
        )
    if config.ptx is not None and config.trust_region is not None:
        raise ValueError("trust_region steps on the policy's own loss; it has no place for ptx")
    if config.ptx is not None and config.temperature != 1.0:
        raise ValueError(f"ptx keeps what the model knows at temperature 1; temperature is {config.temperature}")
    return config


TOLERANCE = {"fp32": 1e-4, "bf16": 0.03}
"""Nats a token, averaged over a row."""


def check_rows(rows: Sequence[Encoded], stop_ids: Collection[int], context: int | None) -> None:
    """Something is supervised in every row, the stop token of every complete answer is, and it fits the model."""
    for i, row in enumerate(rows):
        if context is not None and len(row.tokens) > context:
            raise BrokenInvariant(
                f"row {i} has {len(row.tokens)} tokens and the model's context {context}; lower encoding.max_length"
            )
        if not any(row.mask):
            raise BrokenInvariant(f"row {i} has no supervised token; tokens {row.tokens[:12]}…")
        if row.complete and not (row.mask[-1] and row.tokens[-1] in stop_ids):
            raise BrokenInvariant(
                f"row {i} ends with token {row.tokens[-1]}, which is not a supervised stop token ({sorted(stop_ids)}): "
                "the model would never learn to stop"
            )


def check_same(name: str, ours: Tensor, expected: Tensor, *, tolerance: float, why: str) -> None:
    """Two tensors [B] agree to `tolerance`; the error names the row that is furthest off."""
    gap = (ours - expected).abs()
    worst = int(gap.argmax())
    if not math.isfinite(float(gap[worst])) or float(gap[worst]) > tolerance:
        raise BrokenInvariant(f"{name}: row {worst} is off by {float(gap[worst]):.3g} (allowed {tolerance:g}); {why}")


def check_reference(logps: Tensor, ref_logps: Tensor, lengths: Tensor, *, precision: Precision) -> None:
    """Policy and reference are the same model before the first step, so KL = 0. Sums over rows of `lengths`, [B]."""
    why = "the reference is not the policy this run starts from"
    ours, theirs = logps / lengths, ref_logps / lengths
    check_same("log-ratio to the reference at step 0", ours, theirs, tolerance=TOLERANCE[precision], why=why)


def check_rollouts(policy: Model, batch: Batch, *, max_tokens: int, precision: Precision, from_reference: bool) -> None:
    """Before the first step the learner's log-probabilities are the sampler's: importance ratio 1.

    Where the run starts from its reference they are the reference's too.
    """
    logps = evaluate(policy, batch, max_tokens=max_tokens).logps
    assert logps is not None
    why = "sampling and training disagree on the distribution (temperature, precision or weights)"
    old, ref = batch.extras["old_logps"], batch.extras["ref_logps"]
    gap = batch.per_row((logps.cpu() - old).abs()) / batch.lengths()
    check_same("log of the importance ratio at step 0", gap, gap * 0, tolerance=TOLERANCE[precision], why=why)
    if from_reference:
        check_reference(batch.per_row(logps.cpu()), batch.per_row(ref), batch.lengths(), precision=precision)


def check_sampled(policy: Model, rollouts: Sequence[Rollout], *, max_tokens: int, precision: Precision) -> None:
    """`check_rollouts` of rollouts that are not in a batch yet, without a reference."""
    old = pad([r.logps for r in rollouts], 0.0)
    batch = collate([[r] for r in rollouts]).with_extras(old_logps=old, ref_logps=old)
    check_rollouts(policy, batch, max_tokens=max_tokens, precision=precision, from_reference=False)


def check_loss_at_reference(losses: Tensor, expected: Tensor) -> None:
    """At the reference a pair loss has its value at a gap of zero (DPO: log 2), to 1 %."""
    why = "masks or reference log-probabilities are wrong"
    scale = expected.abs().clamp(min=1)
    check_same("loss at step 0", losses / scale, expected / scale, tolerance=1e-2, why=why)
