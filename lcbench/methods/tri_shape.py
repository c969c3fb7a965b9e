"""Tri-shape: prefill sees the first keys and a window, the last queries of the prompt and the answer see every key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TriShape(Method):
    """rel(i, j) = i - j for the keys that are seen: j <= i with j < sinks, i - j < window or i >= n - dense, where n is
    the length of the prompt; all of them while decoding.

    `sinks`: default 128. `window`: default 3,968. `dense`: default 100. These are the released code's, for long models;
    at most 1/16, 1/2 and 1/8 of the pretraining length. `prompt_length` n: default the length of the first call;
    required for prefill in several calls outside lcbench.
    Li et al., https://arxiv.org/abs/2412.10319 (SCBench), code https://github.com/microsoft/MInference (`n_init`,
    `n_local`, `n_last`).
    """

    name: ClassVar[str] = "tri_shape"
    sinks: int | None = None
    window: int | None = None
    dense: int | None = None
    prompt_length: int | None = None

    def resolve(self, lengths: Lengths) -> TriShape:
        trained = lengths.pretraining
        sinks = min(128, trained // 16) if self.sinks is None else self.sinks
        window = max(1, min(3968, trained // 2)) if self.window is None else self.window
        dense = min(100, trained // 8) if self.dense is None else self.dense
        for option, value, least in (("sinks", sinks, 0), ("window", window, 1), ("dense", dense, 0)):
            at_least(self.name, option, value, least)
        if self.prompt_length is not None:
            at_least(self.name, "prompt_length", self.prompt_length, 1)
        return replace(self, sinks=sinks, window=window, dense=dense)

    def for_prompt(self, length: int | None) -> TriShape:
        if self.prompt_length is not None:
            return self
        if length is None:
            raise UserError(
                "tri_shape: this cache does not tell how long the prompt is; pass prompt_length=... (tokens)."
            )
        return replace(self, prompt_length=length)

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        assert self.sinks is not None and self.window is not None and self.dense is not None
        assert self.prompt_length is not None
        edge = (i - self.window + 1).clamp(min=0)
        first = edge.clamp(max=self.sinks)
        between = torch.where(i < self.prompt_length - self.dense, first, edge)
        ranges = [(edge, i + 1), (torch.zeros_like(i), first), (first, between)]
        return [Piece(q_pos=i, k_pos=j, start=start, stop=stop) for start, stop in ranges]

    @property
    def prefix_stable(self) -> bool:
        return self.prompt_length is not None
