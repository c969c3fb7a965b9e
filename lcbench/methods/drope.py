"""DroPE: no rotation at all, once training is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DroPE(Method):
    """f_m -> 0, and scores times `scale`.

    `scale`: default 1; the released code's `softmax_scale` is scale d^(-1/2) for heads of d channels.
    Gelberg et al., https://arxiv.org/abs/2512.12167, code https://github.com/SakanaAI/DroPE (260a8bb). The weights are
    to be recalibrated without positions, for which the paper gives a share of the pretraining tokens; a model that was
    not (`lcbench train lm --method drope`) loses its order of words. Its variant with norms of queries and keys is
    another architecture.
    """

    name: ClassVar[str] = "drope"
    scale: float = 1.0

    def resolve(self, lengths: Lengths) -> DroPE:
        if not self.scale > 0:
            raise UserError(f"drope: scale must be above 0, not {self.scale:g}.")
        return self

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        return torch.zeros_like(inv_freq), 1.0

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        return None if self.scale == 1 else torch.full(i.shape, self.scale, dtype=torch.float64)

    @property
    def hooks(self) -> frozenset[str]:
        return frozenset({"frequencies", "score_scale"} if self.scale != 1 else {"frequencies"})
