"""Leaky ReRoPE: relative positions grow more slowly beyond a window."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LeakyReRoPE(Method):
    """rel(i, j) = i - j if i - j < window, else window + (i - j - window) / k, over all j <= i.

    `window`: default half the pretraining length P. `k`: default the smallest whole number that keeps every position
    of the run below P. `k=1` is vanilla.
    Su, https://kexue.fm/archives/9708, code https://github.com/bojone/rerope (acfe788), where window is 512 and k 16
    for a model of 4,096 tokens. The author adds log-length scaling: `leaky_rerope+logn`.
    """

    name: ClassVar[str] = "leaky_rerope"
    window: int | None = None
    k: int | None = None

    def resolve(self, lengths: Lengths) -> LeakyReRoPE:
        trained = lengths.pretraining
        window = max(1, trained // 2) if self.window is None else self.window
        at_least(self.name, "window", window, 1)
        k = self.k
        if k is None:
            run = lengths.need_run(self.name, "k", "k=... or ")
            k = max(1, math.ceil((run - window) / max(1, trained - window)))
        at_least(self.name, "k", k, 1)
        return replace(self, window=window, k=k)

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        stretch = lengths.stretch(self.name)
        return {
            "window": tuple(max(1, eighths * lengths.pretraining // 8) for eighths in (1, 2, 4, 6)),
            "k": tuple(math.ceil(times * stretch) for times in (1, 1.5, 2, 3, 4)),
        }

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        assert self.window is not None and self.k is not None
        edge = (i - self.window + 1).clamp(min=0)
        near = Piece(q_pos=i * self.k, k_pos=j * self.k, start=edge, stop=i + 1)
        far = Piece(q_pos=i + (self.k - 1) * self.window, k_pos=j, start=torch.zeros_like(i), stop=edge)
        return [near, far]

    @property
    def position_unit(self) -> int:
        return self.k or 1
