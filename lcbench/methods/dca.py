"""Dual Chunk Attention: positions restart in every chunk."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DualChunkAttention(Method):
    """With s = chunk_size, c = max_position and d = i//s - j//s, over all j <= i:

        rel(i, j) = i%s - j%s             d = 0, the same chunk
                    min(i%s + s, c) - j%s d = 1, the chunk before
                    min(2s - 1, c) - j%s  d >= 2

    `pretraining_length` P: default the model's. `variant` gives the other defaults:
      paper       s = 3P/4, c = P - 1, mscale 0: the same as vanilla up to P tokens
      chunkllama  c = 3P/4, s = c - P/8, mscale 0.05: the released code, not vanilla between c and P
    `mscale` a: scores times max(1, 1 + a ln(n / M))^2 for a run of n tokens, M = P in the paper variant and the
    model's `max_position_embeddings` in the other; 0 = off.
    An et al., https://arxiv.org/abs/2402.17463, code https://github.com/HKUNLP/ChunkLlama (2add4d7c). The released
    code takes n from the longest input so far, so one long prompt changes all later ones, and keys keep the scale of
    the step that wrote them; here n is the length of the run, whatever ran before and however prefill is chunked.
    """

    name: ClassVar[str] = "dca"
    pretraining_length: int | None = None
    chunk_size: int | None = None
    max_position: int | None = None
    mscale: float | None = None
    variant: Literal["paper", "chunkllama"] = "paper"

    def resolve(self, lengths: Lengths) -> DualChunkAttention:
        trained = lengths.pretraining if self.pretraining_length is None else self.pretraining_length
        at_least(self.name, "pretraining_length", trained, 2)
        paper = self.variant == "paper"
        clamp = (trained - 1 if paper else 3 * trained // 4) if self.max_position is None else self.max_position
        chunk = (3 * trained // 4 if paper else clamp - trained // 8) if self.chunk_size is None else self.chunk_size
        mscale = (0.0 if paper else 0.05) if self.mscale is None else self.mscale
        at_least(self.name, "chunk_size", chunk, 1)
        at_least(self.name, "mscale", mscale, 0)
        if clamp < chunk - 1:
            raise UserError(f"dca: max_position={clamp} is below the last position of a chunk of {chunk} tokens.")
        if mscale:
            lengths.need_run(self.name, "the factor of mscale", "mscale=0 or ")
        return replace(self, pretraining_length=trained, chunk_size=chunk, max_position=clamp, mscale=mscale)

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        trained = lengths.pretraining if self.pretraining_length is None else self.pretraining_length
        return {
            "chunk_size": tuple(max(1, eighths * trained // 8) for eighths in (4, 5, 6, 7)),
            "mscale": (0.05, 0.1, 0.15, 0.2),
        }

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        s, c = self.chunk_size, self.max_position
        assert s is not None and c is not None
        here = i - i % s
        before = (here - s).clamp(min=0)
        within, k_pos = i - here, j % s
        same = Piece(q_pos=within, k_pos=k_pos, start=here, stop=i + 1)
        successive = Piece(q_pos=(within + s).clamp(max=c), k_pos=k_pos, start=before, stop=here)
        earlier = Piece(torch.full_like(i, min(2 * s - 1, c)), k_pos, start=torch.zeros_like(i), stop=before)
        return [same, successive, earlier]

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        if not self.mscale:
            return None
        start = self.pretraining_length if self.variant == "paper" else lengths.pretraining
        assert start is not None
        factor = max(1.0, 1 + self.mscale * math.log(lengths.need_run(self.name, "mscale") / start))
        return torch.full(i.shape, factor**2, dtype=torch.float64)

    @property
    def hooks(self) -> frozenset[str]:
        scaled = self.mscale or (self.mscale is None and self.variant == "chunkllama")
        return frozenset({"pieces", "score_scale"} if scaled else {"pieces"})

    @property
    def prefix_stable(self) -> bool:
        return "score_scale" not in self.hooks
