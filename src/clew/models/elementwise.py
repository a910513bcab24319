"""Norms, gates and rotations of transformers models on a CPU, in about half of the passes over memory.

Where matrix products are fast, what stands between them is what takes the time. A module is given another `forward`,
by instance, after its own has been seen to compute the same; weights, names and files stay as they are.
"""

import copy
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Forward = Callable[..., Any]
ROTATION = "apply_rotary_pos_emb"
MLP = ("gate_proj", "up_proj", "down_proj")


def in_fewer_passes(module: nn.Module) -> None:
    """Exchange the forward of every layer of a kind that is known, and that a numeric test finds to be of that kind."""
    for layer in module.modules():
        for known in (_norm, _gated, _rotating):
            forward = known(layer)
            if forward is not None:
                layer.forward = MethodType(forward, layer)


class _Norm(torch.autograd.Function):
    """x / rms(x) * weight (arXiv 1910.07467, eq. 4); beside x it keeps one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        by_x = by_weight = None
        product = grad * x
        if ctx.needs_input_grad[1]:
            by_weight = scale.flatten() @ product.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            inner = (product @ weight)[..., None] * scale.pow(3).div_(x.shape[-1])
            by_x = torch.mul(grad, weight, out=product).mul_(scale).addcmul_(x, inner, value=-1)
        return by_x, by_weight, None


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    scale = mean_square.add_(eps).rsqrt_()
    return (x * scale).mul_(weight), scale


class _Gate(torch.autograd.Function):
    """silu(gate) * up (SwiGLU, arXiv 2002.05202), silu computed again in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class _Rotation(torch.autograd.Function):
    """Rotary positions (arXiv 2104.09864): x cos + rotated(x) sin, halves exchanged in place of copied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin.roll(sin.shape[-1] // 2, -1), -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out


def _norm(layer: nn.Module) -> Forward | None:
    """For a layer that scales by the root of the mean square and a weight."""
    names = [name for name in ("variance_epsilon", "eps") if isinstance(getattr(layer, name, None), float)]
    weight = layer._parameters.get("weight")
    if not names or weight is None or weight.ndim != 1 or "RMSNorm" not in type(layer).__name__:
        return None
    own, eps = type(layer).forward, float(getattr(layer, names[0]))

    def forward(self: Any, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or not _is_for_us(x, self.weight):  # theirs is in float32 for float64, too
            return own(self, x)
        return _Norm.apply(x, self.weight, eps) if torch.is_grad_enabled() else _normed(x, self.weight, eps)[0]  # type: ignore[return-value]

    def agrees(twin: nn.Module, x: Tensor) -> bool:
        twin._parameters = {"weight": nn.Parameter(_numbers(len(weight)))}
        return _same(own(twin, x), forward(twin, x))

    return forward if _tried(layer, agrees, len(weight)) else None


def _gated(layer: nn.Module) -> Forward | None:
    """For an MLP that is down(silu(gate(x)) * up(x))."""
    if any(name not in layer._modules for name in (*MLP, "act_fn")):
        return None
    own = type(layer).forward

    def forward(self: Any, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if not (_is_for_us(gate, up) and torch.is_grad_enabled()):
            return self.down_proj(self.act_fn(gate) * up)
        return self.down_proj(_Gate.apply(gate, up))

    def agrees(twin: nn.Module, x: Tensor) -> bool:
        small = {name: nn.Linear(8, 8) for name in MLP}
        twin._modules = {**twin._modules, **small}
        return _same(own(twin, x), forward(twin, x))

    return forward if _tried(layer, agrees, 8) else None


def _rotating(layer: nn.Module) -> Forward | None:
    """For attention that rotates by its file's own function of the usual name: the same code, with another function."""
    own = type(layer).forward
    theirs = own.__globals__.get(ROTATION) if isinstance(own, FunctionType) else None
    if theirs is None or ROTATION not in own.__code__.co_names:
        return None

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **options: Any) -> tuple[Tensor, Tensor]:
        if more or options or not _is_for_us(q, k, cos, sin) or cos.shape[-1] != q.shape[-1]:
            return theirs(q, k, cos, sin, *more, **options)
        turn = _Rotation.apply if torch.is_grad_enabled() else (lambda x, c, s: _rotated(x, c, s, 1))
        return tuple(turn(x, cos.unsqueeze(1), sin.unsqueeze(1)) for x in (q, k))  # type: ignore[return-value]

    def agrees(twin: nn.Module, x: Tensor) -> bool:
        q, k, cos, sin = _numbers(1, 2, 5, 8), _numbers(1, 2, 5, 8) + 1, _numbers(1, 5, 8), _numbers(1, 5, 8) * 2
        return all(_same(a, b) for a, b in zip(theirs(q, k, cos, sin), rotate(q, k, cos, sin), strict=True))

    if not _tried(layer, agrees, 8):
        return None
    made = FunctionType(
        own.__code__, {**own.__globals__, ROTATION: rotate}, own.__name__, own.__defaults__, own.__closure__
    )
    made.__kwdefaults__ = own.__kwdefaults__
    return made


def _is_for_us(*tensors: Tensor) -> bool:
    """On a CPU, all of one kind of float: elsewhere, and under autocast, the layer's own rules hold."""
    first = tensors[0]
    return (
        first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and all(x.dtype == first.dtype for x in tensors)
    )


def _tried(layer: nn.Module, agrees: Callable[[nn.Module, Tensor], bool], width: int) -> bool:
    """Whether a twin with small weights of its own says the same: nothing of the layer is touched or allocated."""
    with torch.device("cpu"), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return agrees(copy.copy(layer), _numbers(3, width))
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError):
            return False


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-5, atol=1e-6))
