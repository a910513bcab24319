"""TRPO's step: along the natural gradient, as far as a KL allows (arXiv 1502.05477). For small models."""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from clew.config import Config
from clew.learn.learner import Learner, Part


class TrustRegion(Config):
    max_kl: float = Field(default=0.01, gt=0)
    """Nats a token, KL(old || new), in one step."""
    iterations: int = Field(default=10, ge=1)
    """Of conjugate gradients."""
    damping: float = Field(default=0.1, ge=0)
    """Added to the Fisher matrix's diagonal."""
    shrink: float = Field(default=0.8, gt=0, lt=1)
    """Of the step, while it goes too far or does not improve."""
    tries: int = Field(default=20, ge=1)


def trust_region_step(learner: Learner, surrogate: Part, divergence: Part, options: TrustRegion) -> dict[str, float]:
    """Change the weights by the largest step that stays within `max_kl` and lowers the surrogate, else by none.

    Both parts are sums of terms on the same batch. `divergence` is a KL that is least, and zero, at the weights of now;
    products with its Hessian are differences of its gradient, so that models need no second derivatives.
    """
    parameters = list(learner.named.values())
    start = parameters_to_vector(parameters).detach().clone()
    metrics, gradient = _measured(learner, surrogate, start)

    def fisher(v: Tensor) -> Tensor:
        reach = DIFFERENCE[v.dtype] / float(v.norm())
        ahead, behind = (_measured(learner, divergence, start + sign * reach * v)[1] for sign in (1, -1))
        return (ahead - behind) / (2 * reach) + options.damping * v

    step = conjugate_gradient(fisher, -gradient, options.iterations)
    length = float(step @ fisher(step)) if step.any() else 0.0
    scale = (2 * options.max_kl / length) ** 0.5 if length > 0 else 0.0
    before, kl, taken = _loss(metrics), 0.0, 0.0
    for _ in range(options.tries if scale else 0):
        after, kl = (_loss(_measured(learner, part, start + scale * step)[0]) for part in (surrogate, divergence))
        if after < before and kl <= options.max_kl:
            taken = scale
            break
        scale *= options.shrink
    vector_to_parameters(start + taken * step, parameters)
    learner.steps += 1
    kl = kl if taken else 0.0
    return {
        **metrics,
        "grad_norm": float(gradient.norm()),
        "trust_region/kl": kl,
        "trust_region/taken": float(taken > 0),
    }


def conjugate_gradient(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """Approximately the x with product(x) = target, for a positive definite matrix (Hestenes and Stiefel 1952)."""
    x, residual = torch.zeros_like(target), target.clone()
    direction, square = residual.clone(), residual @ residual
    for _ in range(iterations):
        if float(square) < 1e-20:
            break
        along = product(direction)
        size = square / (direction @ along)
        x, residual = x + size * direction, residual - size * along
        square, old = residual @ residual, square
        direction = residual + square / old * direction
    return x


def _measured(learner: Learner, part: Part, weights: Tensor) -> tuple[dict[str, float], Tensor]:
    """Metrics and gradient of a part at these weights."""
    parameters = list(learner.named.values())
    vector_to_parameters(weights, parameters)
    metrics = learner.accumulate(part)
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = parameters_to_vector(found).clone()
    learner.optimiser.zero_grad(set_to_none=True)
    return metrics, flat


def _loss(metrics: dict[str, float]) -> float:
    """The sum of a part's terms."""
    return sum(value for name, value in metrics.items() if name.startswith("loss/"))


DIFFERENCE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Length, in weights, over which gradients are compared."""
