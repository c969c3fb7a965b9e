"""Position Interpolation: squeeze the positions into the trained range."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lcbench.methods.base import Lengths, Method, at_least


@dataclass(frozen=True)
class PositionInterpolation(Method):
    """f_m -> f_m / factor: position p is rotated as p / factor was.

    `factor`: how far the positions are squeezed; default run length / pretraining length.
    Chen et al., https://arxiv.org/abs/2306.15595; `rope_type="linear"` in transformers, which it equals.
    """

    name: ClassVar[str] = "pi"
    factor: float | None = None

    def resolve(self, lengths: Lengths) -> PositionInterpolation:
        factor = lengths.stretch(self.name) if self.factor is None else self.factor
        at_least(self.name, "factor", factor, 1)
        return replace(self, factor=factor)

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        assert self.factor is not None
        return inv_freq / self.factor, 1.0
