"""Split the pieces of attention into tiles: rectangles of queries and keys that a kernel computes whole.

A kernel computes every pair of a tile, masked ones too, so tiles are small where the key range changes from query to
query: along a causal edge or the edges of a window. Tiles that repeat along such an edge, or from chunk to chunk, are
one tile with `repeats`, and one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lcbench.attention.backends.bands import Stretch, stretches

BLOCK = 512  # queries per masked tile, at most: masked keys cost as much as visible ones
SMALL = 128  # queries, below which a separate call costs more than a mask
FINE = 64  # queries of a tile along both edges of a window: with fewer, products are slow; with more, more is masked
TRIANGLE = 128  # queries of a tile along a causal edge: two of half the size and a square cost as much


class Tile(NamedTuple):
    """Queries row_start <= t < row_stop and keys key_start <= j < key_stop, relative to the call; repeated `repeats`
    times in all, each time `row_step` queries and `key_step` keys further on.

    `mask` False: every query sees every key; True: query n of the tile sees keys 0..n, of equally many; otherwise a
    boolean mask [rows, keys] of visible keys.
    """

    row_start: int
    row_stop: int
    key_start: int
    key_stop: int
    mask: Tensor | bool
    repeats: int = 1
    row_step: int = 0
    key_step: int = 0

    @property
    def rows(self) -> int:
        return self.row_stop - self.row_start

    @property
    def keys(self) -> int:
        return self.key_stop - self.key_start


def cut(start_T: Tensor, stop_T: Tensor) -> Iterator[Tile]:
    """Split the key ranges start <= j < stop of the queries of a piece into disjoint tiles that cover them.

    Long stretches of queries whose ranges move uniformly become tiles according to their shape. The rest (pieces of
    short chunks) is split into blocks with masked edges.
    """
    done = int((stop_T > start_T).int().argmax())
    for run in _runs(stretches(start_T, stop_T)):
        first = run.first
        if first.rows >= SMALL and first.start_moves <= first.stop_moves:
            yield from _blocks(start_T, stop_T, done, first.row_start)
            yield from _tiles(run, int(start_T[0]))
            done = run.row_stop
    yield from _blocks(start_T, stop_T, done, len(start_T))


@dataclass(frozen=True)
class _Run:
    """`count` adjacent stretches of equal size, such as the chunks of DCA. From one to the next, the key range advances
    by `step`; or, if `stairs`, only its end does, by the number of rows."""

    first: Stretch
    count: int = 1
    step: int = 0
    stairs: bool = False

    @property
    def row_stop(self) -> int:
        return self.first.row_start + self.count * self.first.rows

    def joined(self, other: Stretch) -> _Run | None:
        """This run with one more stretch; None if the stretch does not continue it."""
        first, n = self.first, self.count
        moves = (first.start_moves, first.stop_moves)
        stairs = self.stairs if n > 1 else other.key_start == first.key_start and not any(moves)
        step = self.step if n > 1 else other.key_start - first.key_start
        end_step = first.rows if stairs else step
        row, start, stop = self.row_stop, first.key_start + n * step, first.key_stop + n * end_step
        expected = Stretch(row, row + first.rows, start, stop, *moves)
        return _Run(first, n + 1, step, stairs) if other == expected else None


def _runs(of_piece: Iterator[Stretch]) -> Iterator[_Run]:
    run: _Run | None = None
    for stretch in of_piece:
        longer = run and run.joined(stretch)
        if run and not longer:
            yield run
        run = longer or _Run(stretch)
    if run:
        yield run


def _tiles(run: _Run, first_key: int) -> Iterator[Tile]:
    """The tiles of a run whose key ranges begin at one key, or move as windows do, in a piece from `first_key` on."""
    (a, b, start, stop, start_moves, stop_moves), n, step = run.first, run.count, run.step
    rows = b - a
    if run.stairs:
        yield Tile(a, run.row_stop, start, stop, False)
        yield from _stairs(a, stop, rows, n)
        return
    repeated = (n, rows, step)
    if not stop_moves:
        yield Tile(a, b, start, stop, False, *repeated)
    elif start_moves:
        for m in range(n):
            yield from _window(a + m * rows, rows, start + m * step, stop - start, first_key)
    else:
        if start < stop - 1:
            yield Tile(a, b, start, stop - 1, False, *repeated)
        if rows < 2 * TRIANGLE:
            yield Tile(a, b, stop - 1, stop - 1 + rows, True, *repeated)
        else:
            for m in range(n):
                yield from _triangle(a + m * rows, stop - 1 + m * step, rows)


def _triangle(row: int, key: int, size: int) -> Iterator[Tile]:
    """The causal triangle of `size` queries from `row` on and equally many keys from `key` on."""
    blocks, rest = divmod(size, TRIANGLE)
    end = size - rest
    if blocks:
        yield Tile(row, row + TRIANGLE, key, key + TRIANGLE, True, blocks, TRIANGLE, TRIANGLE)
        yield from _stairs(row, key, TRIANGLE, blocks)
    if rest:
        yield Tile(row + end, row + size, key + end, key + size, True)
    if blocks and rest:
        yield Tile(row + end, row + size, key, key + end, False)


def _stairs(row: int, key: int, size: int, steps: int) -> Iterator[Tile]:
    """The n-th of `steps` blocks of `size` queries sees n x size keys from `key` on.

    Computed by recursive halving: the later half of the blocks sees all keys of the earlier half, and each half is
    stairs again. All halves of equal width are one tile.
    """
    width, total = size, size * steps
    while width < total:
        pairs, rest = divmod(total, 2 * width)
        if pairs:
            yield Tile(row + width, row + 2 * width, key, key + width, False, pairs, 2 * width, 2 * width)
        if rest > width:
            done = total - rest
            yield Tile(row + done + width, row + total, key + done, key + done + width, False)
        width *= 2


def _window(row: int, rows: int, key: int, width: int, first_key: int) -> Iterator[Tile]:
    """A window: the n-th of `rows` queries from `row` on sees the keys key + n <= j < key + n + width."""
    before = int(key > first_key)  # one more (masked) key if possible: an even number is faster
    key -= before
    blocks, rest = divmod(rows, FINE)
    for first, size, count in ((0, FINE, blocks), (blocks * FINE, rest, 1)):
        if not size * count:
            continue
        sees = torch.arange(size)[:, None] + before
        j = torch.arange(before + size - 1 + width)
        mask = (j >= sees) & (j < sees + width)
        yield Tile(row + first, row + first + size, key + first, key + first + len(j), mask, count, FINE, FINE)


def _blocks(start_T: Tensor, stop_T: Tensor, row_start: int, row_stop: int) -> Iterator[Tile]:
    """Tiles of blocks of queries: one of the keys that all of them see, and masked ones of the keys on both sides."""
    if row_start >= row_stop:
        return
    widest = int((stop_T - start_T)[row_start:row_stop].max())
    size = min(BLOCK, max(SMALL, 1 << (widest - 1).bit_length()))  # no wide mask for a narrow window
    for a in range(row_start, row_stop, size):
        b = min(a + size, row_stop)
        start, stop = start_T[a:b], stop_T[a:b]
        left, inner_left, inner_right, right = int(start[0]), int(start[-1]), int(stop[0]), int(stop[-1])
        if left >= right:  # no query has a key, for which the kernel would return lse 0, not -inf
            continue
        causal = right - inner_right == b - a - 1 and bool((stop.diff() == 1).all())
        inner_right -= causal
        if inner_left > inner_right:
            yield _masked(a, b, left, right, start, stop)
            continue
        if left < inner_left:
            yield _masked(a, b, left, inner_left, start, stop)
        if inner_left < inner_right:
            yield Tile(a, b, inner_left, inner_right, False)
        if causal:
            yield Tile(a, b, inner_right, right, True)
        elif inner_right < right:
            yield _masked(a, b, inner_right, right, start, stop)


def _masked(a: int, b: int, key_start: int, key_stop: int, start_T: Tensor, stop_T: Tensor) -> Tile:
    j = torch.arange(key_start, key_stop)
    return Tile(a, b, key_start, key_stop, (j >= start_T[:, None]) & (j < stop_T[:, None]))
