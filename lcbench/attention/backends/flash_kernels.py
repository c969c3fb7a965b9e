"""The FlashAttention that computes the `flash` backend's calls: 3 or 4 if the GPU has it and it is installed, else
PyTorch's own, which is FlashAttention-2.

FlashAttention 3 and 4 are called through their own packages: `torch.nn.attention.activate_flash_attention_impl` would
use them for every SDPA call in the process, and so change the model's own attention.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import attention

UNBOUNDED = -1
LSE_OPTIONS = ("return_lse", "return_softmax_lse", "return_attn_probs")  # in different releases


Run = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Kernel:
    """A FlashAttention by name. `run` is None for PyTorch's own; it takes packed sequences as `varlen_attn` does:
    q [queries, H, D], k and v [keys, K, D], the sequences' start offsets and largest lengths, `scale` and
    `window_size`; it returns the output [queries, H, D] and the log-sum-exp [H, queries]."""

    name: str
    run: Run | None = None


# Name, module and major compute capabilities of each, the fastest first.
PACKAGES = (("FA3", "flash_attn_interface", (9,)), ("FA4", "flash_attn.cute.interface", (9, 10)))


@cache
def fastest_kernel() -> Kernel:
    """The kernel for the first GPU. An implementation that the user activated in PyTorch takes precedence."""
    if active := attention.current_flash_attention_impl():
        return Kernel(active)
    capability = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
    for name, path, capabilities in PACKAGES:
        if capability in capabilities and (function := _function(path)):
            return Kernel(name, by_package(function))
    return Kernel("FA2")


def _function(path: str) -> Callable[..., Any] | None:
    """`flash_attn_varlen_func` of a module, None if it is not installed or does not import here."""
    try:
        if importlib.util.find_spec(path) is None:
            return None
        function: Callable[..., Any] | None = getattr(importlib.import_module(path), "flash_attn_varlen_func", None)
    except (ImportError, OSError, RuntimeError):  # another package of this name, or built for another CUDA
        return None
    return function


def by_package(function: Callable[..., Any]) -> Run:
    """`flash_attn_varlen_func` of FlashAttention 3 or 4 as a `Kernel` runs it. Releases differ in the option that
    returns the log-sum-exp, have none and always return it, or return more after it."""
    known = inspect.signature(function).parameters
    wanted = {name: True for name in LSE_OPTIONS if name in known}
    unbounded = known["window_size"].default[0]  # -1, or None

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        begins_q: Tensor,
        begins_k: Tensor,
        most_q: int,
        most_k: int,
        scale: float,
        window_size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        causal = window_size == (UNBOUNDED, 0)
        window = tuple(unbounded if causal or side == UNBOUNDED else side for side in window_size)
        out, lse, *_ = function(
            q,
            k,
            v,
            cu_seqlens_q=begins_q,
            cu_seqlens_k=begins_k,
            max_seqlen_q=most_q,
            max_seqlen_k=most_k,
            softmax_scale=scale,
            causal=causal,
            window_size=window,
            **wanted,
        )
        return out, lse

    return run
