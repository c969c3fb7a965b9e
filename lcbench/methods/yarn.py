"""YaRN: interpolate the slow channels, leave the fast ones, and sharpen the softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, at_least
from lcbench.methods.scaling import Scaling, rope_theta

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class YaRN(Scaling):
    """f_m -> r_m f_m / factor + (1 - r_m) f_m, r_m a ramp over the channels; cos and sin times attention_factor.

    The ramp runs from the channel that turns `beta_fast` times within the pretraining length (r = 0) to the one that
    turns `beta_slow` times (r = 1), both rounded outwards to whole channels if `truncate`, the default.
    `factor`: default run length / pretraining length. `attention_factor`: default g(mscale) / g(mscale_all_dim) with
    g(a) = 0.1 a ln(factor) + 1; `mscale`: default 1; `mscale_all_dim`: default 0, so that its g is 1.
    Peng et al., https://arxiv.org/abs/2309.00071; `rope_type="yarn"` in transformers, which it equals. There `mscale`
    counts only beside `mscale_all_dim`; here as in DeepSeek's code. What DeepSeek-V3 adds, a softmax scale times
    g(mscale_all_dim)^2, is its model's.
    """

    name: ClassVar[str] = "yarn"
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float = 1.0
    mscale_all_dim: float = 0.0
    truncate: bool = True

    def resolve(self, lengths: Lengths) -> YaRN:
        if not 0 < self.beta_slow <= self.beta_fast:
            raise UserError(f"yarn: beta_slow must be above 0 and at most beta_fast ({self.beta_fast:g}).")
        at_least(self.name, "mscale", self.mscale, 0)
        at_least(self.name, "mscale_all_dim", self.mscale_all_dim, 0)
        resolved = super().resolve(lengths)
        if resolved.attention_factor is None:
            extent = 0.1 * math.log(resolved.resolved_factor)
            factor = (self.mscale * extent + 1) / (self.mscale_all_dim * extent + 1)
            return replace(resolved, attention_factor=factor)
        if not resolved.attention_factor > 0:
            raise UserError(f"yarn: attention_factor must be above 0, not {resolved.attention_factor:g}.")
        return resolved

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        assert self.attention_factor is not None
        if self.resolved_factor == 1:
            return inv_freq, self.attention_factor  # the sum below, without its rounding
        dim, theta = 2 * len(inv_freq), rope_theta(inv_freq)

        def channel(turns: float) -> float:
            """The (fractional) channel that makes `turns` full turns within the pretraining length."""
            return dim * math.log(lengths.pretraining / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = channel(self.beta_fast), channel(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        m = torch.arange(len(inv_freq), device=inv_freq.device, dtype=inv_freq.dtype)
        ramp = ((m - low) / max(high - low, 0.001)).clamp(0, 1)
        return inv_freq / self.resolved_factor * ramp + inv_freq * (1 - ramp), self.attention_factor
