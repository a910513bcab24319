"""What a machine can hold and compute: GPUs from their makers' data sheets, this one measured."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from clew.config import ConfigError


@dataclass(frozen=True)
class Machine:
    """Example: `Machine("a100-80", 80e9, {"fp32": 19.5e12, "bf16": 312e12}, 2.04e12, 0.4, "data sheet")`"""

    name: str
    memory: float
    """Bytes."""
    flops: dict[str, float]
    """Matrix products a second at their best, by precision."""
    bandwidth: float
    """Bytes a second."""
    share: float
    """Of the best rate that training reaches."""
    source: str
    is_cpu: bool = False


SHEET_SHARE = 0.4
"""Of a data sheet's peak, assumed: what well-packed training of a transformer commonly reaches on one GPU."""
CPU_SHARE = 0.44
"""Of the measured rate of matrix products, as training of the model "small" reaches it (docs/performance.md)."""


def gpu(name: str) -> Machine:
    """By its short name. Memory is read as 10^9 bytes: what a card has beyond, CUDA itself takes."""
    if name.lower() not in GPUS:
        raise ConfigError(f"no GPU {name!r} here (GPUs: {', '.join(GPUS)})")
    memory, fp32, bf16, bandwidth, sheet = GPUS[name.lower()]
    rates = {"fp32": fp32 * 1e12, "bf16": bf16 * 1e12}
    return Machine(name.lower(), memory * 1e9, rates, bandwidth * 1e12, SHEET_SHARE, f"data sheet of {sheet}")


def this_machine(device: str = "auto") -> Machine:
    """The CUDA GPU where a run would take it, else the CPU; its rates measured in about a second."""
    import torch

    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        free, _ = torch.cuda.mem_get_info()
        rates = {"fp32": _products(torch.float32, "cuda", 4096), "bf16": _products(torch.bfloat16, "cuda", 8192)}
        name = torch.cuda.get_device_name()
        return Machine(name, free, rates, _copying("cuda", 1 << 30), SHEET_SHARE, "measured here; memory that is free")
    rates = {"fp32": _products(torch.float32, "cpu", 1024), "bf16": _products(torch.bfloat16, "cpu", 1024)}
    threads = torch.get_num_threads()
    name = f"this CPU, {threads} thread{'s' if threads > 1 else ''}"
    return Machine(name, _free_memory(), rates, _copying("cpu", 1 << 26), CPU_SHARE, "measured here", is_cpu=True)


def resident() -> int:
    """Bytes of memory that this process has now."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmRSS:\s+(\d+)", status.read_text())[0]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if os.uname().sysname == "Darwin" else most * 1024


def _free_memory() -> float:
    """What other processes leave, and the container allows."""
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if not meminfo.exists():
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    free = int(re.findall(r"MemAvailable:\s+(\d+)", meminfo.read_text())[0]) * 1024
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return float(free if allowed == "max" else min(free, int(allowed)))


def _products(dtype: object, device: str, size: int) -> float:
    """FLOPs a second of square matrix products, the best of a few."""
    import torch

    a = torch.ones(size, size, dtype=dtype, device=device)  # type: ignore[arg-type]
    return 2 * size**3 / _best(lambda: a @ a, device)


def _copying(device: str, num_bytes: int) -> float:
    """Bytes a second, read and written."""
    import torch

    a = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * num_bytes / _best(lambda: b.copy_(a), device)


def _best(work: object, device: str, times: int = 5) -> float:
    import torch

    took: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return min(took)


GPUS: dict[str, tuple[float, float, float, float, str]] = {
    # memory in GB, TFLOP/s in float32 and (dense) bfloat16, TB/s
    "h200": (141, 67, 989, 4.8, "NVIDIA H200 SXM"),
    "h100": (80, 67, 989, 3.35, "NVIDIA H100 SXM"),
    "h100-pcie": (80, 51, 756, 2.0, "NVIDIA H100 PCIe"),
    "a100-80": (80, 19.5, 312, 2.04, "NVIDIA A100 80GB SXM"),
    "a100-40": (40, 19.5, 312, 1.56, "NVIDIA A100 40GB SXM"),
    "l40s": (48, 91.6, 362, 0.864, "NVIDIA L40S"),
    "l4": (24, 30.3, 121, 0.3, "NVIDIA L4"),
    "a10": (24, 31.2, 125, 0.6, "NVIDIA A10"),
    "4090": (24, 82.6, 165, 1.01, "NVIDIA GeForce RTX 4090"),
    "3090": (24, 35.6, 71, 0.936, "NVIDIA GeForce RTX 3090"),
}
"""Makers' data sheets, without sparsity; bfloat16 with sums in float32."""
