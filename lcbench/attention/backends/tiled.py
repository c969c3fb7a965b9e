"""Attention over pieces in tiles of PyTorch's fused CPU kernel, merged by log-sum-exp in float32.

Each piece is split into rectangles of queries and keys: full ones, causal ones, and masked ones where the edge of the
piece is neither. There is no n x n matrix; the cost is that of causal attention plus the merges.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lcbench.attention.backends.bands import merge
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.tiles import cut
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.cache.ways import Ways

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def tiled_attention(call: Call) -> Output:
    """The output [B, H, T, D] and the log-sum-exp [B, H, T], both in at least float32; CPU only, no gradients."""
    dtype = torch.promote_types(call.q_BHTD.dtype, torch.float32)
    B, H, T, D = call.q_BHTD.shape
    # Laid out as the model takes the output, and as the kernel returns the log-sum-exp.
    out = torch.zeros(B, T, H, D, dtype=dtype).transpose(1, 2)
    lse = torch.full((B, T, H), -math.inf, dtype=dtype).transpose(1, 2)
    shown = call.shown()
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
            # Repeated tiles use the batch dimension.
            for row in [slice(None)] if tile.repeats == 1 else [slice(b, b + 1) for b in range(B)]:
                queries = _repeated(q[row], tile.row_start - first_row, tile.rows, tile.repeats, tile.row_step)
                keys = _repeated(k[row], tile.key_start - start, tile.keys, tile.repeats, tile.key_step)
                values = _repeated(call.v_BKSD[row], tile.key_start, tile.keys, tile.repeats, tile.key_step)
                more, more_lse = cpu_kernel(queries, keys, values, tile.mask, call.scale)
                of_rows = (tile.row_start, tile.rows, tile.repeats, tile.row_step)
                so_far, lse_so_far = _repeated(out[row], *of_rows), _repeated(lse[row, ..., None], *of_rows)
                merge(so_far, lse_so_far[..., 0], more, more_lse)
    return out, lse


def _repeated(x_BHND: Tensor, first: int, size: int, count: int, step: int) -> Tensor:
    """The rows first <= n < first + size [B, H, size, D]; for a batch of one, `count` such ranges, each `step` rows
    after the one before, as a batch [count, H, size, D]. A view."""
    if count == 1:
        return x_BHND.narrow(2, first, size)
    _, of_head, of_row, of_channel = x_BHND.stride()
    shape = (count, x_BHND.shape[1], size, x_BHND.shape[3])
    return x_BHND.as_strided(
        shape, (step * of_row, of_head, of_row, of_channel), x_BHND.storage_offset() + first * of_row
    )


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
