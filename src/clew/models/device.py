"""Where a model runs. What was asked for and is not there is refused, never replaced."""

import ctypes
import platform
from typing import Literal

import torch

from clew.config import ConfigError
from clew.models.trunk import Precision

Device = Literal["auto", "cpu", "cuda", "mps"]


def pick_device(device: Device, precision: Precision = "fp32") -> torch.device:
    """`auto` is a CUDA GPU where there is one, else the CPU. Raises ConfigError for what this machine does not have."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda} but finds no GPU" if torch.version.cuda else "has no CUDA"
        raise ConfigError(f"device: cuda, but torch {torch.__version__} {built}; set device: cpu, or auto")
    if device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device: mps, but torch {torch.__version__} finds no Apple GPU; set device: cpu, or auto")
    if device == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"precision: bf16, but a {torch.cuda.get_device_name()} has no bfloat16; set precision: fp32")
    if device == "cpu":
        keep_memory()
    return torch.device(device)


def keep_memory() -> None:
    """Keep memory that tensors have left for the next ones, where the C library is glibc.

    It gives pieces back at once, and every step then gets them anew, zeroed page by page. Only large ones are still
    given back (32 MiB, more than it would learn by itself): kept, they would stay in pieces that nothing fits into.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""malloc.h"""
