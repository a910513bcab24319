"""The inputs of the golden vectors, drawn from a seed."""

from typing import Any

import torch
from torch import Generator, Tensor

SEED = 20260801


def grid(x: Tensor) -> Any:
    """Multiples of 1/1024: exact in float32 too, and short to write."""
    return ((x * 1024).round() / 1024).tolist()


def draw_inputs(seed: int) -> dict[str, dict[str, Any]]:
    """Sets of inputs, named kind/shape."""
    noise = torch.Generator().manual_seed(seed)
    sets: dict[str, dict[str, Any]] = {}
    for num, width in ((2, 4), (5, 6)):
        sets[f"pairs/{num}x{width}"] = draw_pairs(num, width, noise)
    for num, width, shift in ((4, 5, 0.5), (5, 6, -0.5)):
        sets[f"singles/{num}x{width}"] = draw_singles(num, width, shift, noise)
    for prompts, group, width in ((2, 3, 4), (2, 4, 7)):
        sets[f"rollouts/{prompts}x{group}x{width}"] = draw_rollouts(prompts, group, width, noise)
    sets["logits/4x7x5"] = draw_logits(4, 7, 5, noise)
    sets["ties/2x8"] = {**draw_rollouts(2, 8, 2, noise), "outcomes": [[0.1] * 8] * 2}
    sets["extreme/1"] = {"scores": [0.0, 800.0], "logps": [[-14.0, -1.0]], "ref_logps": [[-1.0, -0.5]]}
    return sets


def ragged(rows: int, width: int, noise: Generator) -> Tensor:
    """Masks of different lengths; the first row is full."""
    lengths = torch.randint(1, width, (rows,), generator=noise)
    lengths[0] = width
    return torch.arange(width) < lengths[:, None]


def draw_logps(rows: int, width: int, noise: Generator) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and those of a policy nearby."""
    logps = -0.05 - 3 * torch.rand(rows, width, generator=noise)
    return logps, (logps + 0.3 * torch.randn(rows, width, generator=noise)).clamp(max=-0.01)


def draw_pairs(num: int, width: int, noise: Generator) -> dict[str, Any]:
    """Rows are all chosen answers, then all rejected ones."""
    logps, ref = draw_logps(2 * num, width, noise)
    return {
        "logps": grid(logps),
        "ref_logps": grid(ref),
        "mask": ragged(2 * num, width, noise).tolist(),
        "scores": grid(torch.randn(2 * num, generator=noise)),
        "margin": grid(torch.rand(num, generator=noise)),
    }


def draw_singles(num: int, width: int, shift: float, noise: Generator) -> dict[str, Any]:
    """`shift` moves the mismatched log-ratios, so that their mean is positive in one set and negative in another."""
    logps, ref = draw_logps(num, width, noise)
    other, other_ref = draw_logps(num, width, noise)
    return {
        "logps": grid(logps),
        "ref_logps": grid(ref),
        "mask": ragged(num, width, noise).tolist(),
        "desirable": [i % 3 != 1 for i in range(num)],
        "mismatched_logps": grid(other),
        "mismatched_ref_logps": grid(other_ref - shift),
        "mismatched_mask": ragged(num, width, noise).tolist(),
    }


def draw_rollouts(prompts: int, group: int, width: int, noise: Generator) -> dict[str, Any]:
    """Rows are the rollouts of the first prompt, then the next; `turns` is a mask with a tool's answer in it."""
    rows = prompts * group
    logps, ref = draw_logps(rows, width, noise)
    mask = ragged(rows, width, noise)
    turns = mask.clone()
    turns[:, 1] &= mask.sum(1) < 3
    return {
        "logps": grid(logps),
        "old_logps": grid(logps + 0.3 * torch.randn(rows, width, generator=noise)),
        "ref_logps": grid(ref),
        "mask": mask.tolist(),
        "turns": turns.tolist(),
        **{
            key: grid(torch.randn(rows, width, generator=noise))
            for key in ("advantages", "values", "old_values", "returns", "rewards")
        },
        "outcomes": grid(torch.randn(prompts, group, generator=noise)),
    }


def draw_logits(rows: int, width: int, vocabulary: int, noise: Generator) -> dict[str, Any]:
    """Prompts of two tokens; `mask` is the completion, `real` prompt and completion."""
    completion = ragged(rows, width - 2, noise)
    prompt = torch.ones(rows, 2, dtype=torch.bool)
    real = torch.cat([prompt, completion], 1)
    tokens = torch.randint(1, vocabulary, (rows, width), generator=noise) * real
    tokens[:, 0] = 0
    return {
        "logits": grid(torch.randn(rows, width, vocabulary, generator=noise)),
        "tokens": tokens.tolist(),
        "real": real.tolist(),
        "mask": torch.cat([~prompt, completion], 1).tolist(),
    }
