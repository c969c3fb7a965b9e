"""Position Interpolation: squeeze the positions into the trained range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.methods.base import Lengths
from lcbench.methods.scaling import Scaling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PositionInterpolation(Scaling):
    """f_m -> f_m / factor: position p is rotated as p / factor was.

    `factor`: how far the positions are squeezed; default run length / pretraining length.
    Chen et al., https://arxiv.org/abs/2306.15595; `rope_type="linear"` in transformers, which it equals.
    """

    name: ClassVar[str] = "pi"

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        return inv_freq / self.resolved_factor, 1.0
