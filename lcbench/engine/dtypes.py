"""The type that a model computes in: as asked, or the best that the checkpoint and the device allow."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from lcbench.core.errors import unknown

if TYPE_CHECKING:
    import torch

AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16", "float16", "float64")
# Instructions that multiply matrices of bfloat16, as torch names them; without them, a CPU is faster in float32.
BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16")


def check_dtype(name: str) -> None:
    """Raises: UserError for a dtype that is none of `DTYPES`."""
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)


def best_dtype(own: torch.dtype | None, device: torch.device, *, dequantized: bool) -> torch.dtype:
    """The type for a checkpoint whose config says `own` (None: nothing): that, else float32.

    Weights of 16 bits and dequantized ones lose little or nothing in bfloat16, and take it where the device is fast in
    it; weights of float32 keep all their digits.
    """
    import torch

    halves = dequantized or own in (torch.float16, torch.bfloat16)
    if device.type == "cpu" and halves and cpu_multiplies_bfloat16():
        return torch.bfloat16
    if device.type == "cuda" and dequantized and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return own or torch.float32


@cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 itself, some 1.7 times as fast as in float32."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # younger than the oldest PyTorch
    return any(capabilities.get(unit, False) for unit in BFLOAT16_UNITS)
