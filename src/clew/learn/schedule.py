"""Learning rates as a function of the step: no state to save."""

import math
from typing import Literal, Protocol

Schedule = Literal["constant", "linear", "cosine"]


class Scheduled(Protocol):
    lr: float
    schedule: Schedule
    warmup: float
    floor: float


def rate_at(step: int, total: int, options: Scheduled) -> float:
    """Rate of step `step` (from 0) of `total`: a linear warm-up, then constant, or down to floor * lr."""
    warmup = round(options.warmup * total)
    if step < warmup:
        return options.lr * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    match options.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1 - done
        case "cosine":
            share = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return options.lr * (options.floor + (1 - options.floor) * max(share, 0.0))
