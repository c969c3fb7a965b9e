"""Whether a length fits into memory; checked first, since a process that takes all RAM is killed without a message."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from lcbench.apps.bench.target import Target
from lcbench.methods import Method


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None where the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def needed_memory(target: Target, what: str, method: Method, length: int) -> int:
    """A rough estimate of the bytes that a measurement needs in addition to the weights: all tensors of a layer at
    once, times the largest number of copies that any implementation keeps."""
    size = max(target.dtype.itemsize, 4)  # answers are put together in float32
    attention = length * target.head_dim * (6 * target.heads + 4 * target.kv_heads) * size
    if what == "attention":
        return attention
    block = attention + length * (6 * target.hidden + 3 * target.intermediate) * target.dtype.itemsize
    return block if what in ("block", "score") else block + target.footprint.kv_cache(method, length)


def release_freed_memory() -> None:
    """Return this process's freed memory to the system, so that the next measurement's peak is its own."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
