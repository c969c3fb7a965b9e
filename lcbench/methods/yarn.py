"""YaRN: interpolate the slow channels, leave the fast ones, and sharpen the softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Scaling, rope_theta

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class YaRN(Scaling):
    """f_m -> r_m f_m / factor + (1 - r_m) f_m, r_m a ramp over the channels; cos and sin times 0.1 ln(factor) + 1.

    The ramp runs from the channel that turns `beta_fast` times within the pretraining length (r = 0) to the one that
    turns `beta_slow` times (r = 1). `factor`: default run length / pretraining length.
    Peng et al., https://arxiv.org/abs/2309.00071; `rope_type="yarn"` in transformers, which it equals.
    """

    name: ClassVar[str] = "yarn"
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def resolve(self, lengths: Lengths) -> YaRN:
        if not 0 < self.beta_slow <= self.beta_fast:
            raise UserError(f"yarn: beta_slow must be above 0 and at most beta_fast ({self.beta_fast:g}).")
        return super().resolve(lengths)

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        if self.resolved_factor == 1:
            return inv_freq, 1.0  # which the sum below is up to rounding
        dim, theta = 2 * len(inv_freq), rope_theta(inv_freq)

        def channel(turns: float) -> float:
            """The (fractional) channel that makes `turns` full turns within the pretraining length."""
            return dim * math.log(lengths.pretraining / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(channel(self.beta_fast)), 0)
        high = min(math.ceil(channel(self.beta_slow)), dim - 1)
        m = torch.arange(len(inv_freq), device=inv_freq.device, dtype=inv_freq.dtype)
        ramp = ((m - low) / max(high - low, 0.001)).clamp(0, 1)
        return inv_freq / self.resolved_factor * ramp + inv_freq * (1 - ramp), 0.1 * math.log(self.resolved_factor) + 1
