"""Linear layers in bfloat16 while a model samples: half the weights to read, and matrix units that CPUs have for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def bf16_linears(module: PreTrainedModel) -> Iterator[None]:
    """Everything else stays as it is: attention, norms, and the output layer, whose logits would be too coarse."""
    head = module.get_output_embeddings()
    layers = [layer for layer in module.modules() if type(layer) is nn.Linear and layer is not head]
    for layer in layers:
        bias = None if layer.bias is None else layer.bias.bfloat16()
        layer.forward = partial(_multiply, layer.weight.bfloat16(), bias)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _multiply(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return F.linear(x.to(torch.bfloat16), weight, bias).to(x.dtype)
