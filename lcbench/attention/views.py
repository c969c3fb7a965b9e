"""What the queries of a call see, worked out once for all layers that show them the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lcbench.attention.cache.ways import Look, Ways
from lcbench.methods.pieces import Piece


@dataclass(eq=False)
class View:
    """The pieces of the queries of a call, of keys from `first_key` on, and the factor [T, 1] on their scores or
    None."""

    pieces: list[Piece]
    factor_T1: Tensor | None
    first_key: int
    ways: Ways

    @cached_property
    def look(self) -> Look | None:
        """The look of a single query; None for several queries, and where there is none (`Look.of`)."""
        return Look.of(self.pieces, self.first_key, self.ways) if len(self.pieces[0].q_pos) == 1 else None
