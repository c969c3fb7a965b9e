"""Pieces: which keys each query sees, and the positions to which both are rotated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """How the keys of a piece are stored and searched, if not like the other keys of the cache.

    They are rounded to `dtype` and kept on `device`; None is the model's. At most `heads` heads and `queries` queries
    attend at a time, None for no bound. With `top_k`, each query and head attends only to the `top_k` keys with the
    highest scores, by exact (`flat`) or approximate (`ivf`) search with Faiss.
    """

    dtype: torch.dtype | None = None
    device: torch.device | None = None
    heads: int | None = None
    queries: int | None = None
    top_k: int | None = None
    index: Literal["flat", "ivf"] = "flat"


@dataclass(frozen=True, slots=True)
class Piece:
    """Query i sees the keys start[i] <= j < stop[i], with i rotated to q_pos[i] and j to k_pos[j].

    The pieces of one method are disjoint, and one softmax runs over all of them. Two rules let backends
    compute in tiles: `start` <= `stop` never decrease with i, and every query sees at least itself in some piece.

    Positions are counted in tokens, or in fractions of one if the method has a `position_unit` above 1.
    Shapes (all int64, on the CPU): q_pos, start, stop [T] for the T queries of this call; k_pos [S] for its S keys.
    With `heads`, the piece holds for these KV heads only, with `other_heads` for all but these; the rules above are
    then those of each KV head by itself.
    `start` and `stop` are absolute positions in the sequence, like i and j themselves. The keys of a
    piece with `memory` are stored as it says; they can be searched if k_pos is the same for all of them.
    """

    q_pos: Tensor
    k_pos: Tensor
    start: Tensor
    stop: Tensor
    memory: Memory | None = None
    heads: tuple[int, ...] | None = None
    other_heads: bool = False

    @property
    def empty(self) -> bool:
        return not bool((self.start < self.stop).any())

    def holds_for(self, head: int) -> bool:
        """Whether it holds for a KV head."""
        return self.heads is None or (head in self.heads) != self.other_heads

    def share(self, kv_heads: int) -> float:
        """The share of a layer's KV heads that it holds for."""
        return sum(map(self.holds_for, range(kv_heads))) / kv_heads

    def of_keys(self, start: int, stop: int, origin: int) -> Piece:
        """This piece restricted to the keys start <= j < stop, where k_pos[0] belongs to the key `origin`."""
        k_pos = self.k_pos[start - origin : stop - origin]
        return replace(self, k_pos=k_pos, start=self.start.clamp(start, stop), stop=self.stop.clamp(start, stop))

    def of_queries(self, rows: slice | Tensor) -> Piece:
        """This piece restricted to the queries in `rows`."""
        return replace(self, q_pos=self.q_pos[rows], start=self.start[rows], stop=self.stop[rows])
