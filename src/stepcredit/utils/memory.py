"""How much memory is used, how much is available, and whether it ran out."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")
_OUT_OF_MEMORY = ("not enough memory", "DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")


def peak_memory_bytes() -> int:
    """Peak memory of this process: allocated on the CUDA device if there is one, otherwise resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory_bytes(device: torch.device) -> int:
    """Memory that can still be allocated on the accelerator, or in main memory within the limit of the cgroup."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "xpu":
        return torch.xpu.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    available: int = psutil.virtual_memory().available
    limit, used = _read_number(_CGROUP / "memory.max"), _read_number(_CGROUP / "memory.current")
    return available if limit is None or used is None else min(available, max(limit - used, 0))


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` is what PyTorch, on any device, or Python raises when memory runs out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Collect garbage and return unused cached memory to the accelerator."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is no cgroup, or the file says "max"
        return None
