"""Ways: positions that a method gives to keys, shared by all layers and computed once per forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lcbench.attention.cache.buffer import Buffer
from lcbench.methods.pieces import Piece

WAYS = 4  # kept at a time; the oldest is dropped first


class Way:
    """One assignment of positions to the keys first <= j < end. Positions never change; keys are added at the end.

    Rotated copies of keys are cached per way: rotated to its positions.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self._positions = Buffer()
        self._slices: dict[tuple[int, int], Tensor] = {}

    @property
    def end(self) -> int:
        return self.first + self._positions.length

    def fits(self, k_pos_S: Tensor, start: int, stop: int) -> bool:
        """Whether it covers or adjoins `start`, and gives its keys from there on these positions [S]."""
        known = min(stop, self.end)
        return self.first <= start <= known and torch.equal(self.between(start, known), k_pos_S[start:known])

    def extend(self, k_pos_S: Tensor, stop: int) -> None:
        """Add the keys before `stop` that it does not have yet."""
        if self.end < stop:
            self._positions.append(k_pos_S[self.end : stop].view(1, 1, -1, 1))
        self._slices.clear()

    def between(self, start: int, stop: int) -> Tensor:
        """The positions of the keys start <= j < stop; the same tensor for every layer."""
        if (start, stop) not in self._slices:
            self._slices[start, stop] = self._positions.between(start - self.first, stop - self.first).view(-1)
        return self._slices[start, stop]


class Ways:
    """The ways of one steered block."""

    def __init__(self) -> None:
        self._ways: list[Way] = []

    def find(self, k_pos_S: Tensor, start: int, stop: int) -> Way:
        """The way of the keys start <= j < stop at these positions, extended to `stop`; a new one if none fits."""
        way = next((way for way in self._ways if way.fits(k_pos_S, start, stop)), None)
        if way is None:
            way = Way(start)
            self._ways = [*self._ways[1 - WAYS :], way]
        way.extend(k_pos_S, stop)
        return way


class ByWay:
    """Tensors derived from keys and their positions, one row per `size` keys, in one buffer [B, K, n, D] per way; a
    buffer is dropped when nothing else refers to its way."""

    def __init__(self, expected: int = 0) -> None:
        """`expected` is the number of rows to come."""
        self._expected = expected
        self._end = 0  # of all keys that rows were made of
        self._kept: WeakKeyDictionary[Way, _Kept] = WeakKeyDictionary()

    def rows(self, way: Way, start: int, stop: int, made: Callable[[int, int], Tensor], size: int = 1) -> Tensor:
        """The rows start <= n < stop; `made(start, stop)` is called for new ones only."""
        kept = self._kept.get(way)
        if kept is None or not kept.first <= start <= kept.end:
            kept = self._kept[way] = _Kept(start, size, Buffer(max(0, self._expected - start)))
        if kept.end < stop:
            kept.buffer.append(made(kept.end, stop))
            self._end = max(self._end, stop * size)
        return kept.buffer.between(start - kept.first, stop - kept.first)

    def truncate(self, length: int) -> None:
        """Drop the rows that have keys from `length` on, after the cache was cropped."""
        if length >= self._end:
            return
        self._end = length
        for kept in self._kept.values():
            kept.buffer.length = min(kept.buffer.length, max(0, length // kept.size - kept.first))


class _Kept(NamedTuple):
    """Rows from the row `first` on, each of `size` keys."""

    first: int
    size: int
    buffer: Buffer

    @property
    def end(self) -> int:
        return self.first + self.buffer.length


@dataclass(frozen=True, eq=False)
class Look:
    """What a single query sees, as integers. For each piece that shows it keys, in the order of the keys: its position
    in `q_pos_P`, and start and stop of the keys, counted from the first available one, with their way. `runs`: the
    ranges of all these keys, adjacent ones joined."""

    q_pos_P: Tensor
    shown: tuple[tuple[int, int, Way], ...]
    runs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, pieces: Sequence[Piece], first_key: int, ways: Ways) -> Look | None:
        """None for pieces that hold for some heads only, or whose keys are stored in their own way, and for a query
        that sees nothing."""
        if any(piece.heads is not None or piece.memory is not None for piece in pieces):
            return None
        bounds = torch.cat([bound for piece in pieces for bound in (piece.start, piece.stop)]) - first_key
        ranges = bounds.view(-1, 2).tolist()
        seen = [(start, stop, piece) for (start, stop), piece in zip(ranges, pieces, strict=True) if start < stop]
        if not seen:
            return None
        seen.sort(key=lambda entry: entry[0])
        shown = tuple(cls._with_ways(seen, ways))
        breaks = [(end, start) for (_, end, _), (start, _, _) in pairwise(shown) if end != start]
        borders = [shown[0][0], *chain.from_iterable(breaks), shown[-1][1]]
        runs = tuple(zip(borders[::2], borders[1::2], strict=True))
        return cls(torch.cat([piece.q_pos for *_, piece in seen]), shown, runs)

    @staticmethod
    def _with_ways(seen: list[tuple[int, int, Piece]], ways: Ways) -> list[tuple[int, int, Way]]:
        """The ranges of keys, in order, with their ways: one way for neighbours whose keys have the same tensor of
        positions."""
        runs: list[list[tuple[int, int, Piece]]] = []
        for entry in seen:
            before = runs[-1][-1] if runs else None
            if before and before[1] == entry[0] and before[2].k_pos is entry[2].k_pos:
                runs[-1].append(entry)
            else:
                runs.append([entry])
        # Later keys first: a way of earlier ones would go on into these, where it ends as they begin.
        found = [ways.find(run[0][2].k_pos, run[0][0], run[-1][1]) for run in reversed(runs)]
        return [(start, stop, way) for run, way in zip(runs, reversed(found), strict=True) for start, stop, _ in run]
