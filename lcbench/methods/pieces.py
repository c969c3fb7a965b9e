"""The one idea of lcbench: a method is a list of pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """How the keys of a piece are held and looked up, where that differs from the other keys.

    They are rounded to `dtype` and kept on `device`; None is the model's. At most `heads` heads and `queries` queries
    attend at once, None for no bound. With `top_k`, each query and head sees only its so many best keys: all of them
    found (`flat`) or most of them (`ivf`).
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

    The pieces of one method are disjoint, and one softmax runs over all of them. Two rules make tiles possible:
    `start` <= `stop` never decrease with i, and every query sees at least itself in one of the pieces.

    Shapes (all int64, on the CPU): q_pos, start, stop [T] for the T queries of this call; k_pos [S] for its S keys.
    `start` and `stop` are absolute positions in the sequence, like i and j themselves. A piece with `memory` is held
    in a way of its own; rotated to one position, its keys can be searched.
    """

    q_pos: Tensor
    k_pos: Tensor
    start: Tensor
    stop: Tensor
    memory: Memory | None = None

    @property
    def empty(self) -> bool:
        return not bool((self.start < self.stop).any())

    def of_keys(self, start: int, stop: int, origin: int) -> Piece:
        """What the queries see of the keys start <= j < stop, where k_pos[0] belongs to the key `origin`."""
        k_pos = self.k_pos[start - origin : stop - origin]
        return replace(self, k_pos=k_pos, start=self.start.clamp(start, stop), stop=self.stop.clamp(start, stop))

    def of_queries(self, rows: slice) -> Piece:
        """What some of the queries see."""
        return replace(self, q_pos=self.q_pos[rows], start=self.start[rows], stop=self.stop[rows])
