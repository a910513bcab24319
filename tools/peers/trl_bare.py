"""TRL's trainers without their `__init__`, which would load a model and a data set: only what their losses read.

Models are replaced by modules that answer with the log-probabilities of the inputs.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

T = TypeVar("T")


class Answers(nn.Module):
    """A model whose answer depends on the first token only: row k of `answers` where it is k."""

    is_gradient_checkpointing = False

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        return self.answers[int(input_ids[0, 0])]


def fused(logps: Tensor, mask: Tensor) -> SimpleNamespace:
    """The outputs of TRL's fused head: log-probabilities, zero outside the mask, and what it logs beside them."""
    zeros = torch.zeros_like(logps).detach()
    return SimpleNamespace(log_probs=logps * mask, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def bare(trainer_class: type[T], **attributes: Any) -> T:
    trainer = trainer_class.__new__(trainer_class)
    common = {
        "accelerator": Accelerator(cpu=True),
        "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "model": Answers(),
    }
    vars(trainer).update(common | attributes)
    return trainer


def framed(mask: Tensor, first: int = 0) -> dict[str, Tensor]:
    """Token ids, attention and completion masks of rows with one prompt token `first`."""
    prompt = torch.ones_like(mask[:, :1])
    ids = torch.full((len(mask), mask.shape[1] + 1), first)
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([prompt, mask], 1).long(),
        "completion_mask": torch.cat([~prompt, mask], 1).long(),
    }
