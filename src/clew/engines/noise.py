"""Sampling noise as a function of (seed, step, prompt, sample, position): no state, nothing shared by neighbours."""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def stream_key(seed: int, step: int, prompt_id: str, sample: int) -> int:
    """64 bits that name one rollout's noise."""
    name = f"{seed}\x1f{step}\x1f{prompt_id}\x1f{sample}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each (key, position): uint64 [S], integer [S] -> float64 [S].

    SplitMix64 (Steele et al. 2014) at counter `position` of the stream that starts at `key`.
    """
    with np.errstate(over="ignore"):
        z = keys + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
