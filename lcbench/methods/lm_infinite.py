"""LM-Infinite: a window of exact positions, and the first tokens at a bounded distance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LMInfinite(Method):
    """rel(i, j) = i - j       i - j < window
                   window      i - j >= window and j < sinks
                   not seen    the others

    `sinks`: default 10; the authors find 10 to 100 alike. `window`: default the pretraining length.
    Han et al., https://arxiv.org/abs/2308.16137, code https://github.com/Glaciohound/LM-Infinite (a0ce64c:
    `global_branch`; `local_branch` and `limit_distance`, equal there), which it equals. What its authors add for
    passkeys is not here: five further keys with the highest scores, for the last query, from the fifth layer on.
    """

    name: ClassVar[str] = "lm_infinite"
    sinks: int = 10
    window: int | None = None

    def resolve(self, lengths: Lengths) -> LMInfinite:
        at_least(self.name, "sinks", self.sinks, 0)
        window = lengths.pretraining if self.window is None else self.window
        at_least(self.name, "window", window, 1)
        return replace(self, window=window)

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        assert self.window is not None
        edge = (i - self.window + 1).clamp(min=0)
        near = Piece(q_pos=i, k_pos=j, start=edge, stop=i + 1)
        kept = edge.clamp(max=self.sinks)
        first = Piece(torch.full_like(i, self.window), torch.zeros_like(j), start=torch.zeros_like(i), stop=kept)
        return [near, first]
