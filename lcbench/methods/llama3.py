"""Llama 3.1's scaling: by wavelength, with a smooth transition between kept and interpolated channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, at_least
from lcbench.methods.scaling import Scaling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Llama3(Scaling):
    """f_m -> (1 - s_m) f_m / factor + s_m f_m, s_m = clamp((P / wavelength_m - low) / (high - low), 0, 1).

    P is the pretraining length; low and high are `low_freq_factor` and `high_freq_factor`.
    `factor`: default run length / pretraining length.
    Grattafiori et al., https://arxiv.org/abs/2407.21783; `rope_type="llama3"` in transformers, which it equals.
    """

    name: ClassVar[str] = "llama3"
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def resolve(self, lengths: Lengths) -> Llama3:
        at_least(self.name, "low_freq_factor", self.low_freq_factor, 0)
        if self.high_freq_factor <= self.low_freq_factor:
            raise UserError(f"{self.name}: high_freq_factor must be above low_freq_factor ({self.low_freq_factor:g}).")
        return super().resolve(lengths)

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        turns = lengths.pretraining * inv_freq / (2 * math.pi)
        kept = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return torch.lerp(inv_freq / self.resolved_factor, inv_freq, kept), 1.0
