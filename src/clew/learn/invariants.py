"""What must hold before the first step of a real run. A broken invariant stops the run and says which row and why."""

import math
from collections.abc import Collection, Sequence

from torch import Tensor

from clew.batch import Batch, Model, evaluate
from clew.data.chat import Encoded


class BrokenInvariant(RuntimeError):
    """The run would have trained on something other than it claims."""


def check_rows(rows: Sequence[Encoded], stop_ids: Collection[int]) -> None:
    """Something is supervised in every row, and the stop token of every complete answer is."""
    for i, row in enumerate(rows):
        if not any(row.mask):
            raise BrokenInvariant(f"row {i} has no supervised token; tokens {row.tokens[:12]}…")
        if row.complete and not (row.mask[-1] and row.tokens[-1] in stop_ids):
            raise BrokenInvariant(
                f"row {i} ends with token {row.tokens[-1]}, which is not a supervised stop token ({sorted(stop_ids)}): "
                "the model would never learn to stop"
            )


def check_same(name: str, ours: Tensor, expected: Tensor, *, tolerance: float, why: str) -> None:
    """Two tensors [B] or [B, T] agree to `tolerance` nats; the error names the row that is furthest off."""
    gap = (ours - expected).abs()
    gap = gap.amax(1) if gap.ndim > 1 else gap
    worst = int(gap.argmax())
    if not math.isfinite(float(gap[worst])) or float(gap[worst]) > tolerance:
        raise BrokenInvariant(f"{name}: row {worst} is off by {float(gap[worst]):.3g} (allowed {tolerance:g}); {why}")


def check_reference(logps: Tensor, ref_logps: Tensor, *, tolerance: float) -> None:
    """Policy and reference are the same model before the first step, so KL = 0."""
    why = "the reference is not the policy this run starts from"
    check_same("KL to the reference at step 0", logps, ref_logps, tolerance=tolerance, why=why)


def check_rollouts(policy: Model, batch: Batch, *, max_tokens: int, tolerance: float, from_reference: bool) -> None:
    """Before the first step the learner's log-probabilities are the sampler's: importance ratio 1.

    Where the run starts from its reference they are the reference's too.
    """
    logps = evaluate(policy, batch, max_tokens=max_tokens).logps
    assert logps is not None
    why = "sampling and training disagree on the distribution (temperature, precision or weights)"
    old, ref = batch.extras["old_logps"], batch.extras["ref_logps"]
    check_same("importance ratio at step 0", logps.cpu(), old, tolerance=tolerance, why=why)
    if from_reference:
        check_reference(logps.cpu(), ref, tolerance=tolerance)


def check_loss_at_reference(losses: Tensor, expected: Tensor, *, tolerance: float) -> None:
    """At the reference a pair loss has its value at a gap of zero (DPO: log 2)."""
    why = "masks or reference log-probabilities are wrong"
    check_same("loss at step 0", losses, expected, tolerance=tolerance, why=why)
