"""Attention over pieces in tiles of PyTorch's fused CPU kernel, merged by log-sum-exp in float32.

Each piece is split into maximal rectangles of queries and keys: full ones, causal ones, and masked ones where the edge
of the piece is neither. There is no n x n matrix; the cost is that of causal attention plus the merges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lcbench.attention.backends.bands import Stretch, merge, stretches
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.cache.ways import Ways

BLOCK = 512  # queries per masked tile, at most: masked keys cost as much as visible ones
SMALL = 128  # queries, below which a separate call costs more than a mask


_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class Tile(NamedTuple):
    """Queries row_start <= t < row_stop and keys key_start <= j < key_stop, relative to the call.

    `mask` False: every query sees every key; True: query n of the tile sees keys 0..n, of equally many; otherwise a
    boolean mask [rows, keys] of visible keys.
    """

    row_start: int
    row_stop: int
    key_start: int
    key_stop: int
    mask: Tensor | bool


def tiled_attention(call: Call) -> Output:
    """The output [B, H, T, D] and the log-sum-exp [B, H, T], both in at least float32; CPU only, no gradients."""
    dtype = torch.promote_types(call.q_BHTD.dtype, torch.float32)
    out = torch.zeros(call.q_BHTD.shape, dtype=dtype)
    lse = torch.full(call.q_BHTD.shape[:3], -math.inf, dtype=dtype)
    shown = [(*call.key_range(piece), piece) for piece in call.pieces]
    # In order of their first key, so that pieces with equal key positions share rotated keys.
    shown = sorted((entry for entry in shown if entry[0] < entry[1]), key=lambda entry: entry[0])
    share = len(shown) > 1 and call.rope.rotary is not None
    rotated_keys, ways = RotatedKeyCache(call.k_BKSD.shape[2]), Ways()
    rotate = partial(call.tables.rotate, rope=call.rope)
    for start, stop, piece in shown:
        first_row = int((piece.start < piece.stop).int().argmax())
        q = call.tables.rotate(call.q_BHTD[:, :, first_row:], piece.q_pos[first_row:], call.rope)
        if call.rotated_keys is not None:
            k = call.rotated_to(piece, start, stop)
        elif share:
            k = rotated_keys.keys(call.k_BKSD, ways.find(piece.k_pos, start, stop), start, stop, rotate)
        else:
            k = rotate(call.k_BKSD[:, :, start:stop], piece.k_pos[start:stop])
        for tile in cut(*call.borders(piece)):
            rows = slice(tile.row_start, tile.row_stop)
            queries = q[:, :, tile.row_start - first_row : tile.row_stop - first_row]
            keys = k[:, :, tile.key_start - start : tile.key_stop - start]
            values = call.v_BKSD[:, :, tile.key_start : tile.key_stop]
            merge(out[:, :, rows], lse[:, :, rows], *cpu_kernel(queries, keys, values, tile.mask, call.scale))
    return out, lse


def cut(start_T: Tensor, stop_T: Tensor) -> Iterator[Tile]:
    """Split the key ranges start <= j < stop of the queries of a piece into disjoint tiles that cover them.

    Stretches of queries with a constant `start` become tiles, whatever their length. The rest (windows; pieces of short
    chunks) is split into blocks with masked edges.
    """
    done = int((stop_T > start_T).int().argmax())
    for stretch in stretches(start_T, stop_T):
        if stretch.rows >= SMALL and not stretch.start_moves:
            yield from _blocks(start_T, stop_T, done, stretch.row_start)
            yield from _tiles(stretch)
            done = stretch.row_stop
    yield from _blocks(start_T, stop_T, done, len(start_T))


def _tiles(stretch: Stretch) -> Iterator[Tile]:
    """The tiles of a stretch with a constant start: keys that all its queries see, and a causal tile."""
    a, b, start, stop = stretch.row_start, stretch.row_stop, stretch.key_start, stretch.key_stop
    square = stop - 1 if stretch.stop_moves else stop
    if start < square:
        yield Tile(a, b, start, square, False)
    if stretch.stop_moves:
        yield Tile(a, b, square, stretch.last_key_stop, True)


def _blocks(start_T: Tensor, stop_T: Tensor, row_start: int, row_stop: int) -> Iterator[Tile]:
    """Tiles of blocks of rows: keys that all of them see, and on both sides keys that only some see."""
    if row_start >= row_stop:
        return
    widest = int((stop_T - start_T)[row_start:row_stop].max())
    size = min(BLOCK, max(SMALL, 1 << (widest - 1).bit_length()))  # no wide mask for a narrow window
    for a in range(row_start, row_stop, size):
        b = min(a + size, row_stop)
        start, stop = start_T[a:b], stop_T[a:b]
        left, inner_left, inner_right, right = int(start[0]), int(start[-1]), int(stop[0]), int(stop[-1])
        if left >= right:  # no query has a key, and the kernel would return 0 for lse
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


def cpu_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | bool, scale: float) -> Output:
    """One tile: output [B, H, T, D] and log-sum-exp [B, H, T] of its scores. A tensor `mask` is [T, S] or [H, T, S].

    A private operator of PyTorch, called only here: no public function returns a log-sum-exp on the CPU. Its causal
    mask is aligned at the upper left, and its log-sum-exp is 0, not -inf, for a row without keys.
    """
    bias = None
    if isinstance(mask, Tensor):
        shape = (1, *[1] * (3 - mask.ndim), *mask.shape)
        bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf).view(shape)
    out, lse = _FLASH(q, k, v, 0.0, mask is True, attn_mask=bias, scale=scale)
    if isinstance(mask, Tensor):
        lse = lse.masked_fill(~mask.any(-1), -math.inf)
    return out, lse
