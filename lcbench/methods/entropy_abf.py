"""Entropy-ABF: another base of RoPE, and log-length scaling of the scores from the third layer on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lcbench.methods.abf import rebase, require_base
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.logn import log_length_scale

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EntropyABF(Method):
    """f_m -> base^(-m / M); scores of query i times max(1, ln(i + 1) / ln(length)) from layer `unscaled_layers` on.

    `base`: default 500,000, the released code's. `length`: default the pretraining length, 4,096 in that code.
    `unscaled_layers`: default 2, in which the authors find attention spread out as it is.
    Zhang et al., https://arxiv.org/abs/2401.07004, code https://github.com/GAIR-NLP/Entropy-ABF (a5e9107), for a model
    that is tuned so. That code sets the unscaled layers an attribute that attention does not read: as it stands it
    computes `unscaled_layers=0`.
    """

    name: ClassVar[str] = "entropy_abf"
    base: float = 500_000.0
    length: int | None = None
    unscaled_layers: int = 2

    def resolve(self, lengths: Lengths) -> EntropyABF:
        require_base(self.name, self.base)
        length = lengths.pretraining if self.length is None else self.length
        at_least(self.name, "length", length, 2)
        at_least(self.name, "unscaled_layers", self.unscaled_layers, 0)
        return replace(self, length=length)

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        return rebase(inv_freq, self.base), 1.0

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        assert self.length is not None
        return log_length_scale(i, self.length) if layer >= self.unscaled_layers else None

    @property
    def layerwise(self) -> bool:
        return self.unscaled_layers > 0
