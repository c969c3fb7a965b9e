"""ReRoPE: relative positions stop growing at a window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ReRoPE(Method):
    """rel(i, j) = min(i - j, window), over all j <= i.

    `window`: default half the pretraining length, as in the author's experiments.
    Su, https://kexue.fm/archives/9708, code https://github.com/bojone/rerope (its leaky variant is related to
    Self-Extend). The author adds log-length scaling: `rerope+logn`.
    """

    name: ClassVar[str] = "rerope"
    window: int | None = None

    def resolve(self, lengths: Lengths) -> ReRoPE:
        window = max(1, lengths.pretraining // 2) if self.window is None else self.window
        at_least(self.name, "window", window, 1)
        return replace(self, window=window)

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        return {"window": tuple(max(1, eighths * lengths.pretraining // 8) for eighths in (1, 2, 4, 6, 7))}

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        assert self.window is not None
        edge = (i - self.window + 1).clamp(min=0)
        near = Piece(q_pos=i, k_pos=j, start=edge, stop=i + 1)
        far = Piece(torch.full_like(i, self.window), torch.zeros_like(j), start=torch.zeros_like(i), stop=edge)
        return [near, far]
