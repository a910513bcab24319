import math

import pytest
import torch
from torch import nn

from clew.batch import Batch, Outputs, Term, item_weights
from clew.data.chat import Encoded
from clew.data.collate import collate
from clew.learn.learner import Learner, NotFinite, Optimiser, Part
from clew.learn.schedule import rate_at


class Line(nn.Module):
    """Score of a row = a * its first token + b."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor([[0.5]])), nn.Parameter(torch.tensor([0.1]))
        self.forwards = 0

    def evaluate(self, batch):
        self.forwards += 1
        return Outputs(scores=batch.tokens[:, 0] * self.a[0, 0] + self.b[0])


def batch(*firsts: int) -> Batch:
    made = collate([[Encoded([f, 1], [False, True], True)] for f in firsts])
    return made.with_weights(item=item_weights(made))


def squares(target: float, coefficient: float = 1.0):
    def objective(outputs, b):
        return [Term("fit", (outputs.scores - target).square(), "item", coefficient)], []

    return objective


def test_one_step_is_adamw_worked_by_hand():
    # loss mean((a x + b)^2) over x = 1, 3 from a = 0.5, b = 0.1: dL/da = mean(2 x y) = 5.4, dL/db = mean(2 y) = 2.2
    learner = Learner(Line(), Optimiser(lr=0.01, schedule="constant", clip=1e9, weight_decay=0.5), total_steps=1)
    metrics = learner.step(Part(batch(1, 3), squares(0.0)))
    assert metrics["grad_norm"] == pytest.approx(math.hypot(5.4, 2.2), rel=1e-5)
    assert metrics["loss/fit"] == pytest.approx((0.6**2 + 1.6**2) / 2)
    # Adam's first step is lr * sign(gradient); decay is decoupled, and only on matrices
    assert float(learner.model.a) == pytest.approx(0.5 * (1 - 0.01 * 0.5) - 0.01, abs=1e-6)
    assert float(learner.model.b) == pytest.approx(0.1 - 0.01, abs=1e-6)


def test_a_parameter_may_have_a_rate_of_its_own():
    options = Optimiser(lr=0.01, schedule="linear", floor=0.5, clip=1e9)
    learner = Learner(Line(), options, total_steps=2, rates={"b": 0.2})
    for rate in (1.0, 0.75):  # of both, by the same schedule
        a, b = float(learner.model.a), float(learner.model.b)
        learner.step(Part(batch(1, 3), squares(-100.0)))
        assert a - float(learner.model.a) == pytest.approx(0.01 * rate, rel=1e-2)
        assert b - float(learner.model.b) == pytest.approx(0.2 * rate, rel=1e-2)


def test_clipping_bounds_the_norm():
    learner = Learner(Line(), Optimiser(clip=1e-3), total_steps=1)
    learner.accumulate(Part(batch(1, 3), squares(0.0)))
    nn.utils.clip_grad_norm_(learner.named.values(), learner.options.clip)
    total = torch.cat([p.grad.flatten() for p in learner.named.values()]).norm()
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_parts_add_up_and_share_the_forward_of_a_shared_batch():
    shared, other = batch(1, 3), batch(2)
    model = Line()
    Learner(model, Optimiser(), total_steps=1).accumulate(
        Part(shared, squares(0.0)), Part(shared, squares(1.0, 0.5)), Part(other, squares(2.0, 3.0))
    )
    assert model.forwards == 2
    direct = Line()
    y = torch.tensor([1.0, 3.0]) * direct.a[0, 0] + direct.b
    z = 2.0 * direct.a[0, 0] + direct.b
    (y.square().mean() + 0.5 * (y - 1).square().mean() + 3 * (z - 2).square().sum()).backward()
    torch.testing.assert_close(model.a.grad, direct.a.grad)
    torch.testing.assert_close(model.b.grad, direct.b.grad)


def test_a_loss_that_is_not_finite_names_its_item_and_leaves_the_weights():
    learner = Learner(Line(), Optimiser(), total_steps=1)
    before = [p.clone() for p in learner.named.values()]

    def broken(outputs, b):
        return [Term("bad", torch.where(b.tokens[:, 0] == 7, torch.nan, outputs.scores), "item")], []

    with pytest.raises(NotFinite, match=r"step 0: loss nan .* for item 2 of 3, tokens \[7, 1\]"):
        learner.step(Part(batch(1, 3, 7), broken))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.named.values(), strict=True))


def test_state_goes_on_where_it_was():
    one, two = (Learner(Line(), Optimiser(lr=0.1), total_steps=10) for _ in range(2))
    for _ in range(3):
        one.step(Part(batch(1, 3), squares(0.0)))
    two.model.load_state_dict(one.model.state_dict())
    two.load_state(one.state_tensors(), steps=one.steps, tokens_trained=one.tokens_trained)
    for learner in (one, two):
        learner.step(Part(batch(2, 5), squares(1.0)))
    assert torch.equal(one.model.a, two.model.a)
    assert one.spent() == two.spent()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.775, 0.55, 0.325]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 1.0, 0.868198, 0.55, 0.231802]),
    ],
)
def test_schedules(schedule, expected):
    options = Optimiser(lr=1.0, schedule=schedule, warmup=0.5, floor=0.1)
    assert [rate_at(s, 8, options) for s in range(8)] == pytest.approx(expected, abs=1e-6)


def test_after_a_bad_step_a_good_one_works():
    learner = Learner(Line(), Optimiser(), total_steps=2)
    with pytest.raises(NotFinite):
        learner.step(Part(batch(1, 3), lambda outputs, b: ([Term("bad", outputs.scores * torch.inf, "item")], [])))
    assert learner.step(Part(batch(1, 3), squares(0.0)))["grad_norm"] > 0
