"""A student beside its teacher: the divergence of the models' own logits, whatever the pieces it is computed in."""

import pytest
import torch

from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.learn.learner import Learner, Optimiser, Part
from clew.losses.distill import forward_kl
from clew.models import divergence
from clew.models.divergence import BesideTeacher, beside
from clew.recipes.distill import objective

OURS = [Encoded([1, 5, 6, 7, 8], [False, False, True, True, True], True), Encoded([1, 9, 4], [False, True, True], True)]
THEIRS = [Encoded([1, 3, 3, *row.tokens[1:]], [False, False, *row.mask], True) for row in OURS]


def batch_of():
    batch = beside(collate([[row] for row in OURS]), THEIRS)
    return batch.with_weights(token=batch.mask.float())


def logits_of(policy, row: Encoded) -> torch.Tensor:
    """Of every scored token, from the model called as transformers has it."""
    logits = policy.module(input_ids=torch.tensor([row.tokens])).logits[0]
    return logits[torch.tensor(row.mask).nonzero()[:, 0] - 1]


def test_the_divergence_is_that_of_the_models_own_logits(new_policy):
    student, teacher = new_policy(0), new_policy(1)
    found = BesideTeacher(student, teacher, forward_kl).evaluate(batch_of()).divergence
    for i, (ours, theirs) in enumerate(zip(OURS, THEIRS, strict=True)):
        expected = forward_kl(logits_of(teacher, theirs).log_softmax(-1), logits_of(student, ours).log_softmax(-1))
        torch.testing.assert_close(found[i][batch_of().mask[i]], expected, atol=1e-5, rtol=1e-4)
    assert found[~batch_of().mask].abs().sum() == 0


def test_gradients_depend_on_neither_pieces_nor_micro_batches_and_the_teacher_has_none(new_policy, monkeypatch):
    def gradient(max_tokens: int) -> dict[str, torch.Tensor]:
        student, teacher = new_policy(0), new_policy(1)
        model = BesideTeacher(student, teacher, forward_kl)
        learner = Learner(model, Optimiser(max_tokens=max_tokens), total_steps=1)
        learner.accumulate(Part(batch_of(), objective))
        assert all(p.grad is None for p in teacher.parameters())
        assert not {id(p) for p in teacher.parameters()} & {id(p) for p in model.parameters()}
        return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}

    whole = gradient(1 << 20)
    assert sum(float(g.abs().sum()) for g in whole.values()) > 0
    torch.testing.assert_close(gradient(3), whole, atol=1e-6, rtol=1e-4)
    monkeypatch.setattr(divergence, "KEPT", 1)
    torch.testing.assert_close(gradient(1 << 20), whole, atol=1e-6, rtol=1e-4)


def test_teacher_and_student_must_score_the_same_tokens():
    other = [THEIRS[0], Encoded([1, 3, 9, 5], [False, False, True, True], True)]
    fewer = [
        Encoded([1, 6, 7, 8], [False, False, True, True], True),
        Encoded([9, 8, 9, 4], [False, True, True, True], True),
    ]
    for rows in (other, fewer):
        with pytest.raises(ValueError, match="teacher and student must score the same tokens"):
            beside(collate([[row] for row in OURS]), rows)
