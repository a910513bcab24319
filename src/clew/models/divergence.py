"""A student read beside its teacher: their divergence at every scored token, never holding [B, T, V]."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clew.batch import Batch, Outputs
from clew.data.collate import TokenRow, collate
from clew.models.heads import KEPT, Head

Divergence = Callable[[Tensor, Tensor], Tensor]
"""Of log-probabilities [S, V] of teacher and student: [S]."""


class Distribution(Protocol):
    """A model whose next-token distribution can be had at every scored token."""

    def scored_states(self, batch: Batch) -> Tensor:
        """[S, D], in the order of the mask's True places."""
        ...

    def head(self, states: Tensor) -> Tensor:
        """[S, D] -> logits [S, V]."""
        ...


class BesideTeacher(nn.Module):
    """A student that learns to say of its rows what the teacher says of its own, which score the same tokens.

    The teacher's rows come along as extras (`beside`). It is never a parameter, and is asked without gradient.
    """

    def __init__(self, student: Distribution, teacher: Distribution, divergence: Divergence) -> None:
        super().__init__()
        assert isinstance(student, nn.Module)
        self.student = student
        self._teacher_states, self._teacher_head = teacher.scored_states, teacher.head
        self._divergence = divergence

    def evaluate(self, batch: Batch) -> Outputs:
        """The divergence [B, T] of every scored token, zero elsewhere."""
        student = cast(Distribution, self.student)
        with torch.no_grad():
            theirs = self._teacher_states(_of_teacher(batch))
        ours = student.scored_states(batch)
        found = divergences(ours, theirs, student.head, self._teacher_head, self._divergence)
        mask = batch.mask.to(found.device)
        return Outputs(divergence=found.new_zeros(mask.shape).masked_scatter(mask, found))

    def checkpoint_activations(self) -> None:
        cast("BesideTeacher", self.student).checkpoint_activations()

    def save(self, folder: Path) -> None:
        cast("BesideTeacher", self.student).save(folder)

    def load(self, folder: Path) -> None:
        cast("BesideTeacher", self.student).load(folder)


def divergences(ours: Tensor, theirs: Tensor, head: Head, teacher_head: Head, divergence: Divergence) -> Tensor:
    """Of student's and teacher's states, [S, D] each: [S], piece by piece, each computed again on the way back."""

    def piece(ours: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            target = _log_probs(teacher_head(theirs))
        return divergence(target, _log_probs(head(ours)))

    with torch.no_grad():
        size = max(1, KEPT // teacher_head(theirs[:1]).shape[1])
    again = torch.is_grad_enabled()
    found = [
        checkpoint(piece, *both, use_reentrant=False) if again else piece(*both)  # type: ignore[misc]
        for both in zip(ours.split(size), theirs.split(size), strict=True)
    ]
    return torch.cat(found)


def beside(batch: Batch, rows: Sequence[TokenRow]) -> Batch:
    """The student's batch with the teacher's rows, one for each of its own. Raises ValueError if they score others."""
    theirs = collate([[row] for row in rows])
    same = theirs.lengths().equal(batch.lengths())
    if not same or not theirs.tokens[theirs.mask].equal(batch.tokens[batch.mask]):
        raise ValueError("teacher and student must score the same tokens, in the same order of rows")
    return batch.with_extras(teacher_tokens=theirs.tokens, teacher_real=theirs.real, teacher_mask=theirs.mask)


def _of_teacher(batch: Batch) -> Batch:
    tokens, real, mask = (batch.extras[f"teacher_{name}"] for name in ("tokens", "real", "mask"))
    return Batch(tokens, real, mask, batch.item, batch.rank)


def _log_probs(logits: Tensor) -> Tensor:
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
