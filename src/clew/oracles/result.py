"""One row of `clew verify`, and the solver that rows share."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.optimize import brentq
from torch import nn

from clew.batch import Model
from clew.learn.learner import Part, total_loss

CAUGHT = 5.0
"""A wrong variant must miss by this many tolerances."""


@dataclass(frozen=True, slots=True)
class Result:
    """A method's distance to what it should converge to; for a wrong variant, by how much it misses."""

    method: str
    target: str
    distance: float
    tolerance: float
    wrong: bool = False

    @property
    def passed(self) -> bool:
        if self.wrong:
            return self.distance >= CAUGHT * self.tolerance
        return self.distance <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def minimise(model: Model, *parts: Part) -> None:
    """L-BFGS on the sum of the parts' terms, in float64, to the end."""
    assert isinstance(model, nn.Module)
    parameters = [p for p in model.parameters() if p.requires_grad]
    solver = torch.optim.LBFGS(
        parameters, max_iter=2000, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = sum_of(model, *parts)
        loss.backward()
        return loss

    for _ in range(3):  # L-BFGS forgets its history at a restart, which helps it over flat stretches
        solver.step(closure)  # type: ignore[arg-type]


def sum_of(model: Model, *parts: Part) -> torch.Tensor:
    loss = torch.zeros((), dtype=torch.float64)
    for batch, objective in parts:
        terms, _ = objective(model.evaluate(batch), batch)
        loss = loss + total_loss(terms, batch)
    return loss


def gradient(model: Model, *parts: Part) -> torch.Tensor:
    """Gradient of the parts' sum, flat."""
    assert isinstance(model, nn.Module)
    model.zero_grad()
    sum_of(model, *parts).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def root(slope: Callable[[float], float]) -> float:
    """Where an increasing or decreasing function on [-20, 20] crosses zero."""
    return float(brentq(slope, -20, 20, xtol=1e-14))  # type: ignore[arg-type] (its stub also has the verbose result)
