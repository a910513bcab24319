"""Losses of a value model: [B, T] -> [B, T]."""

from torch import Tensor


def squared(values: Tensor, old_values: Tensor, returns: Tensor) -> Tensor:
    """Half the squared error to the return; `old_values` is accepted, so that value losses are called alike."""
    return (values - returns).square() / 2


def clipped_squared(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2) -> Tensor:
    """PPO's value loss: half the larger of the squared errors with and without moving more than `clip` from old.

    As in OpenAI's baselines: never less than `squared`, and without gradient once a step has gone too far.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    return (values - returns).square().maximum((near - returns).square()) / 2


VALUE_LOSSES = {f.__name__: f for f in (clipped_squared, squared)}
