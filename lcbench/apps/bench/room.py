"""Whether a length fits: a process that takes all RAM is killed without a word, so it is asked before."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from lcbench.apps.bench.target import Target
from lcbench.methods import Method


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device has free; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def need(target: Target, what: str, method: Method, length: int) -> int:
    """Bytes that a measurement takes beside the weights, roughly: all tensors of a layer live, each as often as some
    implementation is known to hold it."""
    size = max(target.dtype.itemsize, 4)  # answers are put together in float32
    attention = length * target.head_dim * (6 * target.heads + 4 * target.kv_heads) * size
    if what == "attention":
        return attention
    block = attention + length * (6 * target.hidden + 3 * target.intermediate) * target.dtype.itemsize
    return block if what == "block" else block + target.footprint.kv_cache(method, length)


def give_back_freed_memory() -> None:
    """Let the system have the memory that is free in this process: the peak of what comes next is then its own."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
