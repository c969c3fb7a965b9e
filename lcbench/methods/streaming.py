"""StreamingLLM: the first tokens and a sliding window, nothing between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Streaming(Method):
    """Query i sees the last `window` keys, itself included, and the first `sinks` keys; positions are counted
    among the keys that it sees. With edge = max(i - window + 1, 0), the first key of the window:

        rel(i, j) = i - j                               j >= edge
                    min(edge, sinks) + (i - edge) - j   j < min(edge, sinks)

    `sinks`: default 4. `window`: default pretraining length - sinks. `sinks=0` is a sliding window.
    Xiao et al., https://arxiv.org/abs/2309.17453, code https://github.com/mit-han-lab/streaming-llm.
    """

    name: ClassVar[str] = "streaming"
    sinks: int = 4
    window: int | None = None

    def resolve(self, lengths: Lengths) -> Streaming:
        at_least(self.name, "sinks", self.sinks, 0)
        window = max(1, lengths.pretraining - self.sinks) if self.window is None else self.window
        at_least(self.name, "window", window, 1)
        return replace(self, window=window)

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        assert self.window is not None
        edge = (i - self.window + 1).clamp(min=0)
        kept = edge.clamp(max=self.sinks)
        recent = Piece(q_pos=i, k_pos=j, start=edge, stop=i + 1)
        sinks = Piece(q_pos=i - edge + kept, k_pos=j, start=torch.zeros_like(i), stop=kept)
        return [recent, sinks]
