"""The dtype that a model computes in: the requested one, or the best for the checkpoint and the device."""

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
    """Raises: UserError for a dtype that is not in `DTYPES`."""
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)


def best_dtype(own: torch.dtype | None, device: torch.device, *, dequantized: bool) -> torch.dtype:
    """The dtype for a checkpoint whose config names `own` (None: none): that, else float32.

    16-bit and dequantized weights lose little or nothing in bfloat16, and use it where the device is fast in it;
    float32 weights keep their precision.
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
    """Whether this CPU has bfloat16 matrix instructions, some 1.7 times as fast as float32."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # younger than the oldest PyTorch
    return any(capabilities.get(unit, False) for unit in BFLOAT16_UNITS)
