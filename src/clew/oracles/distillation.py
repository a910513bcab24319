"""Context distillation on enumerable worlds: a context is a table of its own, and what a student of several becomes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from clew.batch import Batch, Outputs, Term
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.distill import forward_kl
from clew.models.divergence import BesideTeacher
from clew.oracles.recipes import NOWHERE, Rehearsal
from clew.oracles.result import Result
from clew.oracles.worlds import TablePolicy, Tree, random_logits
from clew.recipes import distill
from clew.recipes.distill import Both, Distill

TREE = Tree(4, 2)
STEADY = Optimiser(lr=0.3, schedule="linear", betas=(0.5, 0.95), clip=100.0, max_tokens=1 << 30)


class Student(TablePolicy):
    """A table whose whole distribution can be had at every scored token."""

    def scored_states(self, batch: Batch) -> Tensor:
        return self.logits[self.tree.states(batch)[batch.mask]]

    def head(self, states: Tensor) -> Tensor:
        return states


class Teacher:
    """A table for every context, which is the first token of a row: the tree's tokens come before it in number."""

    def __init__(self, tree: Tree, tables: Sequence[Tensor]) -> None:
        self.tree = tree
        self.tables = [table.log_softmax(1) for table in tables]

    def scored_states(self, batch: Batch) -> Tensor:
        context = batch.tokens[:, :1] - self.tree.vocab - 1
        without = Batch(batch.tokens[:, 1:], batch.real[:, 1:], batch.mask[:, 1:], batch.item, batch.rank)
        states = self.tree.states(without)
        return torch.stack(self.tables)[context.expand_as(states), states][without.mask]

    def head(self, states: Tensor) -> Tensor:
        return states

    def evaluate(self, batch: Batch) -> Outputs:
        raise NotImplementedError("a teacher is asked for distributions alone")


def rows_of(tree: Tree, counts: Sequence[int]) -> list[Both]:
    """Every sequence after every context, so often as `counts` says of that."""
    first = tree.vocab + 1
    return [
        Both(row, Encoded([first + context, *row.tokens], [False, *row.mask], True))
        for context, count in enumerate(counts)
        for row in tree.rows()
        for _ in range(count)
    ]


def trained(teacher: Teacher, rows: list[Both], steps: int = 60, **options: Any) -> Tensor:
    """The student's distributions [S, V] after the recipe's own loop, from a start of its own."""
    student = Student(teacher.tree, random_logits(teacher.tree, 71))
    config = Distill(
        out="", model="", data=NOWHERE, context=" ", batch=len(rows), epochs=steps, learner=STEADY, **options
    )
    distill.train(student, teacher, None, rows, [], config, Rehearsal())
    return student.logits.detach().softmax(1)


def off(found: Tensor, target: Tensor, tree: Tree) -> float:
    """Largest total variation at a state that is visited."""
    batch = collate([[row] for row in tree.rows()])
    visited = tree.states(batch)[batch.mask].unique()
    return float((found - target)[visited].abs().sum(1).max() / 2)


def checks() -> Iterator[Result]:
    one = Teacher(TREE, [random_logits(TREE, 72, 1.5)])
    two = Teacher(TREE, [random_logits(TREE, 72, 1.5), random_logits(TREE, 73, 1.5)])
    alone, both = rows_of(TREE, [1]), rows_of(TREE, [3, 1])
    says = "the teacher's distribution, given its context"
    yield Result("recipe distill", says, off(trained(one, alone), one.tables[0].exp(), TREE), 2e-3)
    mixture = 0.75 * two.tables[0].exp() + 0.25 * two.tables[1].exp()
    both_say = "the mean of both contexts' distributions"
    yield Result("recipe distill, two contexts", both_say, off(trained(two, both), mixture, TREE), 2e-3)
    backward = _fitted(two, both, lambda teacher, student: forward_kl(student, teacher))
    yield Result("distill, KL(student || teacher)", both_say, off(backward, mixture, TREE), 2e-3, wrong=True)
    k, classes = 2, "the teacher's 2 likeliest, and all others together"
    target = _classes(one.tables[0].exp(), one.tables[0], k)
    found = _classes(trained(one, alone, top_k=k), one.tables[0], k)
    yield Result("recipe distill, top_k", classes, off(found, target, TREE), 2e-3)
    alone_k = _fitted(one, alone, lambda teacher, student: _without_others(teacher, student, k))
    missed = off(_classes(alone_k, one.tables[0], k), target, TREE)
    yield Result("distill, top_k without the others' class", classes, missed, 2e-3, wrong=True)


def _fitted(teacher: Teacher, rows: list[Both], divergence: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The student after as many steps on another divergence."""
    student = Student(teacher.tree, random_logits(teacher.tree, 71))
    config = Distill(out="", model="", data=NOWHERE, context=" ")

    def objective(outputs: Outputs, batch: Batch) -> Any:
        assert outputs.divergence is not None
        return [Term("distill", outputs.divergence, "token")], []

    learner = Learner(BesideTeacher(student, teacher, divergence), STEADY, total_steps=60)
    for _ in range(60):
        learner.step(Part(distill.batch_of(rows, config), objective))
    return student.logits.detach().softmax(1)


def _without_others(teacher: Tensor, student: Tensor, k: int) -> Tensor:
    likeliest = teacher.topk(k, dim=-1).indices
    return forward_kl(*(x.gather(-1, likeliest) for x in (teacher, student)))


def _classes(probabilities: Tensor, teacher: Tensor, k: int) -> Tensor:
    """Of the teacher's k likeliest tokens at every state, and of all others together."""
    kept = probabilities.gather(1, teacher.topk(k, dim=1).indices)
    return torch.cat([kept, 1 - kept.sum(1, keepdim=True)], dim=1)
