"""NTK-aware scaling: a larger base, which keeps fast channels and interpolates slow ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths
from lcbench.methods.scaling import Scaling

if TYPE_CHECKING:
    from torch import Tensor


def raise_base(inv_freq: Tensor, factor: float) -> Tensor:
    """Inverse frequencies [M] of base * factor^(d / (d - 2)), d = 2M: the slowest is divided by `factor` exactly."""
    if len(inv_freq) < 2:
        raise UserError("this RoPE has a single frequency; a scaling needs at least two.")
    m = torch.arange(len(inv_freq), device=inv_freq.device, dtype=inv_freq.dtype)
    return inv_freq * factor ** (-m / (len(inv_freq) - 1))


@dataclass(frozen=True)
class NTK(Scaling):
    """f_m -> f_m * factor^(-2m / (d - 2)), that is base -> base * factor^(d / (d - 2)).

    `factor`: default run length / pretraining length.
    bloc97, https://www.reddit.com/r/LocalLLaMA/comments/14lz7j5; section 3.1 of https://arxiv.org/abs/2309.00071.
    """

    name: ClassVar[str] = "ntk"

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        return raise_base(inv_freq, self.resolved_factor), 1.0
