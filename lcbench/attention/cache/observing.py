"""KV cache layers for methods that look at the queries of one call to choose keys for later ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lcbench.attention.cache.growing import GrowingLayer


class ObservingLayer(GrowingLayer):
    """All keys and values, and what the method has `seen` of each row of the batch."""

    def __init__(self, size: int = 0) -> None:
        super().__init__(size)
        self.seen: dict[int, Any] = {}

    def reset(self) -> None:
        super().reset()
        self.seen = {}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        assert self.keys is not None
        self._select(torch.arange(len(self.keys)).repeat_interleave(repeats))
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        assert self.keys is not None
        self._select(torch.arange(len(self.keys))[indices.cpu()])
        super().batch_select_indices(indices)

    def _select(self, rows: Tensor) -> None:
        """Reorder `seen`: row n becomes the former row `rows[n]`."""
        self.seen = {n: self.seen[row] for n, row in enumerate(rows.tolist()) if row in self.seen}
