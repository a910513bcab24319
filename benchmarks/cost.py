"""What a machine can do, and how many operations a batch asks of it."""

import time

import torch
from torch import nn

from clew.batch import Batch
from clew.models.policy import Policy
from clew.models.trunk import Trunk


def gemm_peak(device: str, dtype: torch.dtype, *, size: int | None = None, seconds: float = 0.3) -> float:
    """Floating-point operations a second of square matrix products, the best of as many as the seconds hold."""
    size = size or (2048 if device == "cpu" else 8192)
    a, b, out = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(3))
    best, until = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < until:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def forward_operations(model: nn.Module, trunk: Trunk, batch: Batch) -> float:
    """Of one forward pass that does nothing twice: 2 a parameter of a matrix and token, 4 a width and query-key pair.

    Prompts that the rows of an item share are counted once, attention is causal, and the head of a language model
    stands only on scored tokens. Norms, softmax and embeddings are left out. A backward pass costs twice as much.
    """
    config = trunk.module.config
    head = trunk.module.get_output_embeddings() if isinstance(model, Policy) else None
    tables = {
        id(p) for part in (trunk.module.get_input_embeddings(), head) if part is not None for p in part.parameters()
    }
    matrices = sum(p.numel() for p in trunk.module.parameters() if p.ndim == 2 and id(p) not in tables)
    tokens, attended = sizes(batch)
    scored = 0 if head is None else int(batch.mask.sum()) * config.vocab_size
    attention = 4 * config.hidden_size * config.num_hidden_layers * attended
    return 2.0 * matrices * tokens + attention + 2.0 * config.hidden_size * scored


def sizes(batch: Batch) -> tuple[int, int]:
    """Tokens, and causal query-key pairs."""
    tokens, attended = 0, 0
    lengths = batch.real.sum(1).tolist()
    prompts = (batch.real & (batch.mask.cumsum(1) == 0)).sum(1).tolist()
    for i, item in enumerate(batch.item.tolist()):
        prompt, answer = prompts[i], lengths[i] - prompts[i]
        if i == 0 or item != int(batch.item[i - 1]):
            tokens, attended = tokens + prompt, attended + prompt * (prompt + 1) // 2
        tokens, attended = tokens + answer, attended + answer * prompt + answer * (answer + 1) // 2
    return tokens, attended
