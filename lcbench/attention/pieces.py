"""The one idea of lcbench: a method is a list of pieces."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Piece:
    """Query i sees the keys start[i] <= j < stop[i], with i rotated to q_pos[i] and j to k_pos[j].

    The pieces of one method are disjoint, and one softmax runs over all of them. Two rules make tiles possible:
    `start` <= `stop` never decrease with i, and every query sees at least itself in one of the pieces.

    Shapes (all int64, on the CPU): q_pos, start, stop [T] for the T queries of this call; k_pos [S] for its S keys.
    `start` and `stop` are absolute positions in the sequence, like i and j themselves.
    """

    q_pos: Tensor
    k_pos: Tensor
    start: Tensor
    stop: Tensor
