"""Split pieces into parts that kernels with only full, causal and windowed attention can compute, and merge outputs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Stretch(NamedTuple):
    """Consecutive queries row_start <= t < row_stop, each with at least one key, whose key ranges move uniformly.

    The first of them sees the keys key_start <= j < key_stop; from one query to the next, the start advances by one if
    `start_moves`, and the stop if `stop_moves`.
    """

    row_start: int
    row_stop: int
    key_start: int
    key_stop: int
    start_moves: bool
    stop_moves: bool

    @property
    def rows(self) -> int:
        return self.row_stop - self.row_start

    @property
    def last_key_stop(self) -> int:
        """The end (exclusive) of the last query's key range."""
        return self.key_stop + (self.rows - 1) * self.stop_moves


def stretches(start_T: Tensor, stop_T: Tensor) -> Iterator[Stretch]:
    """Split the key ranges start <= j < stop of the queries of a piece into stretches of maximal length.

    A query between two jumps is a stretch by itself. A query without keys belongs to no stretch.
    """
    last = len(start_T) - 1
    moves = torch.stack([start_T.diff(), stop_T.diff()])
    turns = ((moves[:, 1:] != moves[:, :-1]).any(0).nonzero().flatten() + 1).tolist()
    done = 0
    for first, end in pairwise([0, *turns, last] if last else []):  # the steps first..end - 1 are equal
        a = max(first, done)
        start_moves, stop_moves = moves[:, first].tolist()
        if {start_moves, stop_moves} <= {0, 1}:
            yield from _seen(Stretch(a, end + 1, int(start_T[a]), int(stop_T[a]), bool(start_moves), bool(stop_moves)))
            done = end + 1
        else:  # the step to the row `end` may be a jump, those after it not
            for row in range(a, end):
                yield from _seen(Stretch(row, row + 1, int(start_T[row]), int(stop_T[row]), False, False))
            done = end
    if done <= last:
        yield from _seen(Stretch(last, last + 1, int(start_T[last]), int(stop_T[last]), False, False))


def _seen(stretch: Stretch) -> Iterator[Stretch]:
    """The stretch without its queries that have no keys: at most the first one, or all after some query, or all."""
    a, b, start, stop, start_moves, stop_moves = stretch
    if stop == start and stop_moves and not start_moves:
        a, stop = a + 1, stop + 1
    elif start_moves and not stop_moves:
        b = min(b, a + stop - start)
    if a < b and start < stop:
        yield Stretch(a, b, start, stop, start_moves, stop_moves)


def merge(out_BHTD: Tensor, lse_BHT: Tensor, more_BHTD: Tensor, more_lse_BHT: Tensor) -> None:
    """Merge the output over further keys into `out` and `lse`, in place; lse is -inf for queries without keys so
    far."""
    if lse_BHT.device.type == "cpu" and lse_BHT.isneginf().all():  # on a GPU, to know it would cost a synchronisation
        out_BHTD.copy_(more_BHTD)
        lse_BHT.copy_(more_lse_BHT)
        return
    share = torch.sigmoid(more_lse_BHT - lse_BHT).nan_to_num_(0.0)  # nan: no key on either side
    out_BHTD.lerp_(more_BHTD.to(out_BHTD.dtype), share[..., None])
    torch.logaddexp(lse_BHT, more_lse_BHT, out=lse_BHT)
