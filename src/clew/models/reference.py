"""The frozen reference: an explicit object, never a guess."""

import copy
from contextlib import AbstractContextManager
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from clew.batch import Batch, Model, Outputs
from clew.models.device import Device
from clew.models.load import check_vocabulary, load_policy
from clew.models.policy import Policy

M = TypeVar("M", bound=nn.Module)


class AdapterOff:
    """A policy without the adapters that it learns in: the reference, where they were new on the reference's weights.

    So it is only where this run made them; adapters that were there before are merged when a model is loaded.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def evaluate(self, batch: Batch) -> Outputs:
        with self._off():
            return self.policy.evaluate(batch)

    def scored_states(self, batch: Batch) -> Tensor:
        with self._off():
            return self.policy.scored_states(batch)

    def head(self, states: Tensor) -> Tensor:
        with self._off():
            return self.policy.head(states)

    def _off(self) -> AbstractContextManager[None]:
        adapter = self.policy.trunk.adapter
        assert adapter is not None
        return adapter.model.disable_adapter()


class Start:
    """A policy before its first step: the reference without a copy, for whoever reads all rows before that.

    Asked later it raises RuntimeError.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._before = self._weights()

    def evaluate(self, batch: Batch) -> Outputs:
        if self._weights() != self._before:
            raise RuntimeError("the policy has learnt since it was taken for the reference; take a frozen copy")
        return self.policy.evaluate(batch)

    def _weights(self) -> str:
        """Versions of tensors would not do: AdamW's fused step leaves them as they are."""
        return str([float(p.detach().sum(dtype=torch.float64)) for p in self.policy.parameters()])


def load_start(path: str | None, policy: Policy) -> Model:
    """As `load_reference`, for rows that are all read before the first step: needs no second copy of the policy."""
    return Start(policy) if path is None and policy.trunk.adapter is None else load_reference(path, policy)


def load_reference(path: str | None, policy: Policy) -> Model:
    """The frozen reference, on the policy's device, in its precision, at its temperature: of that path, or itself now.

    Where the policy learns in new adapters, it is without them what it is now, and needs no second copy.
    """
    if path is None:
        return AdapterOff(policy) if policy.trunk.adapter else frozen(policy)
    reference = load_policy(path, precision=policy.trunk.precision, device=cast(Device, policy.device.type))
    nn.Module.to(reference.module, policy.device)
    reference.temperature = policy.temperature
    check_vocabulary(reference.tokenizer, policy.tokenizer, path)
    return frozen(reference)


def move(twin: Model, model: Model) -> None:
    """The twin, a frozen copy of earlier, becomes what the model is now."""
    cast(nn.Module, twin).load_state_dict(cast(nn.Module, model).state_dict())


@torch.no_grad()
def follow(twin: Model | nn.Module, model: Model | nn.Module, *, decay: float) -> None:
    """An exponential moving average: the twin keeps `decay` of what it was, the rest becomes the model's.

    Of parameters, so that adapters average as what they are, low-rank factors.
    """
    now = dict(cast(nn.Module, model).named_parameters())
    for name, parameter in cast(nn.Module, twin).named_parameters():
        if now[name].requires_grad:
            parameter.lerp_(now[name], 1 - decay)


def frozen(model: M) -> M:
    """A copy that never learns: the explicit reference."""
    twin = copy.deepcopy(model).eval()
    twin.requires_grad_(False)
    return twin
