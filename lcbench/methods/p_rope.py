"""p-RoPE: the fast channels rotate, the slow ones do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PartialRoPE(Method):
    """f_m -> f_m for the floor(p M) fastest of M channels, 0 for the others.

    `p`: default 0.75, the paper's best; 0 is no rotation at all, 1 changes nothing.
    Barbero et al., https://arxiv.org/abs/2410.06205, who train so from the start: a model that was not needs tuning.
    """

    name: ClassVar[str] = "p_rope"
    p: float = 0.75

    def resolve(self, lengths: Lengths) -> PartialRoPE:
        if not 0 <= self.p <= 1:
            raise UserError(f"p_rope: p must be 0 to 1, not {self.p:g}.")
        return self

    def frequencies(self, inv_freq: Tensor, lengths: Lengths) -> tuple[Tensor, float]:
        kept = torch.arange(len(inv_freq), device=inv_freq.device) < int(self.p * len(inv_freq))
        return torch.where(kept, inv_freq, 0), 1.0
