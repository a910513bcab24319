import math
from itertools import pairwise

import torch
from torch import tensor
from torch.testing import assert_close

from clew.losses.distill import forward_kl, top_k_kl

TEACHER, STUDENT = tensor([[0.5, 0.3, 0.2]]).log(), tensor([[0.25, 0.25, 0.5]]).log()


def random_logps(seed: int) -> torch.Tensor:
    return torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)


def test_divergences_worked_by_hand():
    expected = 0.5 * math.log(2) + 0.3 * math.log(1.2) + 0.2 * math.log(0.4)
    assert_close(forward_kl(TEACHER, STUDENT), tensor([expected]))
    both = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)  # the first, and the other two together
    assert_close(top_k_kl(TEACHER, STUDENT, k=1), tensor([both]))


def test_the_gradient_is_the_students_distribution_less_the_teachers():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    forward_kl(random_logps(0), logits.log_softmax(-1)).sum().backward()
    assert_close(logits.grad, logits.detach().softmax(-1) - random_logps(0).exp())


def test_fewer_classes_never_tell_more_apart():
    teacher, student = random_logps(0), random_logps(1)
    by_k = [top_k_kl(teacher, student, k=k) for k in (1, 3, 7, 9)]
    assert all((a <= b + 1e-12).all() for a, b in pairwise(by_k))
    assert_close(by_k[2], forward_kl(teacher, student))
    assert_close(by_k[3], forward_kl(teacher, student))
    assert_close(top_k_kl(teacher, teacher, k=3), torch.zeros(4, dtype=torch.float64))


def test_what_the_teacher_never_says_costs_nothing_and_has_a_gradient():
    teacher = tensor([[0.5, 0.5, 0.0]]).log()
    logits = tensor([[0.0, 0.0, -50.0]], requires_grad=True)
    for loss in (forward_kl(teacher, logits.log_softmax(-1)), top_k_kl(teacher, logits.log_softmax(-1), k=2)):
        assert_close(loss, tensor([0.0]), atol=1e-6, rtol=0)
        (grad,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
        assert torch.isfinite(grad).all()
