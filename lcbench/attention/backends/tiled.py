"""Attention over pieces in tiles of PyTorch's fused CPU kernel, merged by log-sum-exp in float32.

Each piece is cut into rectangles of queries and keys, as large as they come: full ones, causal ones, and masked ones
where the edge of the piece is neither. No n x n matrix anywhere; the cost is that of causal attention plus the merges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lcbench.attention.backends.bands import Stretch, merge, stretches
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.rope import Rope, RopeTables
from lcbench.methods.pieces import Piece

BLOCK = 512  # queries of a masked tile, at most: its edges cost as much as its inside
SMALL = 128  # queries below which a tile of its own costs more in calls than a mask costs in work


class Tile(NamedTuple):
    """Queries first_row <= t < last_row and keys first <= j < last, both counted within the call.

    `mask` False: every query sees every key; True: query n of the tile sees keys 0..n, of equally many; otherwise a
    boolean [rows, keys] of what is seen.
    """

    first_row: int
    last_row: int
    first: int
    last: int
    mask: Tensor | bool


def tiled_attention(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    pieces: list[Piece],
    rope: Rope,
    tables: RopeTables,
    first_key: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of un-rotated queries over the keys that the pieces show them.

    Arguments and answer as in `matmul_attention`, but in float32 at least; CPU only, no gradients.
    """
    dtype = torch.promote_types(q_BHTD.dtype, torch.float32)
    out = torch.zeros(q_BHTD.shape, dtype=dtype)
    lse = torch.full(q_BHTD.shape[:3], -math.inf, dtype=dtype)
    seen = [(int(piece.start[0]) - first_key, int(piece.stop[-1]) - first_key, piece) for piece in pieces]
    # From the earliest keys on, so that pieces which give their keys the same positions share the rotated ones.
    seen = sorted((entry for entry in seen if entry[0] < entry[1]), key=lambda entry: entry[0])
    rotated_keys = RotatedKeyCache(k_BKSD.shape[2]) if len(seen) > 1 and rope.rotary is not None else None
    for low, high, piece in seen:
        first_row = int((piece.start < piece.stop).int().argmax())
        q = tables.rotate(q_BHTD[:, :, first_row:], piece.q_pos[first_row:], rope)
        if rotated_keys is None:
            k = tables.rotate(k_BKSD[:, :, low:high], piece.k_pos[low:high], rope)
        else:
            k = rotated_keys.keys(k_BKSD, piece.k_pos, low, high, partial(tables.rotate, rope=rope))
        for tile in cut(piece.start - first_key, piece.stop - first_key):
            rows = slice(tile.first_row, tile.last_row)
            queries = q[:, :, tile.first_row - first_row : tile.last_row - first_row]
            keys = k[:, :, tile.first - low : tile.last - low]
            answer = _kernel(queries, keys, v_BKSD[:, :, tile.first : tile.last], tile.mask, scale)
            merge(out[:, :, rows], lse[:, :, rows], *answer)
    return out, lse


def cut(start_T: Tensor, stop_T: Tensor) -> Iterator[Tile]:
    """Cut what queries see of a piece, start <= j < stop, into disjoint tiles that cover it.

    Stretches of queries with a fixed `start` are tiles of their own, however long. The rest (windows; pieces of short
    chunks) is cut into blocks with masked edges.
    """
    done = int((stop_T > start_T).int().argmax())
    for stretch in stretches(start_T, stop_T):
        if stretch.rows >= SMALL and not stretch.start_moves:
            yield from _blocks(start_T, stop_T, done, stretch.first_row)
            yield from _tiles(stretch)
            done = stretch.last_row
    yield from _blocks(start_T, stop_T, done, len(start_T))


def _tiles(stretch: Stretch) -> Iterator[Tile]:
    """Of a stretch with a fixed start: the keys that all its queries see, and those of which the next sees one more."""
    a, b, first, stop = stretch[:4]
    square = stop - 1 if stretch.stop_moves else stop
    if first < square:
        yield Tile(a, b, first, square, False)
    if stretch.stop_moves:
        yield Tile(a, b, square, stretch.last, True)


def _blocks(start_T: Tensor, stop_T: Tensor, first_row: int, last_row: int) -> Iterator[Tile]:
    """Blocks of rows: the keys that all of them see, and on both sides those that only some see."""
    if first_row >= last_row:
        return
    widest = int((stop_T - start_T)[first_row:last_row].max())
    size = min(BLOCK, max(SMALL, 1 << (widest - 1).bit_length()))  # a narrow window is not worth a wide mask
    for a in range(first_row, last_row, size):
        b = min(a + size, last_row)
        start, stop = start_T[a:b], stop_T[a:b]
        left, inner_left, inner_right, right = int(start[0]), int(start[-1]), int(stop[0]), int(stop[-1])
        if left >= right:  # nobody sees anything: the kernel must not be asked
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


def _masked(a: int, b: int, first: int, last: int, start: Tensor, stop: Tensor) -> Tile:
    j = torch.arange(first, last)
    return Tile(a, b, first, last, (j >= start[:, None]) & (j < stop[:, None]))


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | bool, scale: float) -> tuple[Tensor, Tensor]:
    """One tile: answer [B, H, T, D] and log-sum-exp [B, H, T] of its scores.

    A private operator of PyTorch, called here and nowhere else: no public function answers a log-sum-exp on the CPU.
    Its causal mask is aligned at the upper left, and it answers 0, not -inf, for a row that sees nothing.
    """
    bias = None
    if isinstance(mask, Tensor):
        bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -math.inf)[None, None]
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, mask is True, attn_mask=bias, scale=scale
    )
    if isinstance(mask, Tensor):
        lse = lse.masked_fill(~mask.any(-1), -math.inf)
    return out, lse
