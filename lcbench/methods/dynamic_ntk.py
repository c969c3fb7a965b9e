"""Dynamic NTK: the base follows the length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.methods.base import Lengths
from lcbench.methods.ntk import raise_base
from lcbench.methods.scaling import Scaling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DynamicNTK(Scaling):
    """NTK with the factor s = factor * n / P - (factor - 1), n the run's length, P the pretraining length; 1 if n <= P.

    `factor`: default run length / pretraining length; with factor=1 it is `ntk` at exactly n / P.
    `rope_type="dynamic"` in transformers, which it equals for an input of n tokens. There n grows with every token
    while the cache keeps keys of older frequencies, so decoding disagrees with prefill; here n is fixed for the run.
    emozilla, https://www.reddit.com/r/LocalLLaMA/comments/14mrgpr.
    """

    name: ClassVar[str] = "dynamic_ntk"

    def resolve(self, lengths: Lengths) -> DynamicNTK:
        lengths.need_run(self.name, "its base")
        return super().resolve(lengths)

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        return raise_base(inv_freq, self.resolved_factor * lengths.stretch(self.name) - (self.resolved_factor - 1)), 1.0

    @property
    def prefix_stable(self) -> bool:
        return False
