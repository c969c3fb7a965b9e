"""Attention over pieces in tiles of PyTorch's fused CPU kernel, merged by log-sum-exp in float32.

A block of queries sees of each piece a rectangle of keys, which needs no mask, and at most two ragged edges. No n x n
matrix anywhere; the cost is that of causal attention plus the merges.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lcbench.attention.pieces import Piece
from lcbench.attention.rotation import Rope, RopeTables

BLOCK = 512  # queries a tile: large enough for the kernel, small enough that edges stay cheap


def tiled_attention(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    pieces: list[Piece],
    rope: Rope,
    tables: RopeTables,
    first_key: int,
    scale: float,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Softmax attention of un-rotated queries over the keys that the pieces show them -> [B, H, T, D].

    Arguments as in `joint_attention`; CPU only, no gradients.
    """
    parts = []
    for piece in pieces:
        low, high = int(piece.start[0]) - first_key, int(piece.stop[-1]) - first_key
        if low < high:
            q = tables.rotate(q_BHTD, piece.q_pos, rope)
            k = tables.rotate(k_BKSD[:, :, low:high], piece.k_pos[low:high], rope)
            parts.append((piece, low, q, k))
    out = torch.empty_like(q_BHTD)
    for a in range(0, q_BHTD.shape[2], BLOCK):
        b = min(a + BLOCK, q_BHTD.shape[2])
        merged = Merge()
        for piece, offset, q, k in parts:
            for low, high, mask in tiles(piece, a, b, first_key, q.dtype):
                keys, values = k[:, :, low - offset : high - offset], v_BKSD[:, :, low:high]
                merged.add(*_kernel(q[:, :, a:b], keys, values, mask, scale))
        out[:, :, a:b] = merged.result(sinks_H)
    return out


class Merge:
    """The softmax-weighted sum of attentions over disjoint sets of keys."""

    def __init__(self) -> None:
        self.out: Tensor | None = None

    def add(self, out_BHTD: Tensor, lse_BHT: Tensor) -> None:
        """Take in one more set: its answer, and the log of its softmax's denominator (-inf: an empty row)."""
        if self.out is None:
            self.out, self.lse = out_BHTD.to(lse_BHT.dtype), lse_BHT
            return
        lse = torch.logaddexp(self.lse, lse_BHT)
        finite = torch.where(lse == -math.inf, 0.0, lse)
        self.out = self.out * (self.lse - finite).exp()[..., None]
        self.out += out_BHTD * (lse_BHT - finite).exp()[..., None]
        self.lse = lse

    def result(self, sinks_H: Tensor | None) -> Tensor:
        """The merged answer; sink logits, if any, take their share of the softmax and add nothing."""
        assert self.out is not None
        if sinks_H is None:
            return self.out
        return self.out * torch.sigmoid(self.lse - sinks_H.to(self.lse.dtype)[:, None])[..., None]


def tiles(piece: Piece, a: int, b: int, first_key: int, dtype: torch.dtype) -> list[tuple[int, int, Tensor | bool]]:
    """Cut what queries a <= t < b see of a piece into (first, last, mask) over its keys, counted from `first_key`.

    mask False: every query sees every key; True: query n of the block sees keys 0..n of the tile; otherwise a tensor
    [b - a, keys] to be added to the scores.
    """
    start, stop = piece.start[a:b] - first_key, piece.stop[a:b] - first_key
    left, full, right, end = int(start[0]), int(start[-1]), int(stop[0]), int(stop[-1])
    diagonal = end - right == b - a - 1 and bool((stop.diff() == 1).all())
    if diagonal and full <= right - 1:
        edges = [(left, full), (full, right - 1), (right - 1, end)]
    elif full < right:
        edges = [(left, full), (full, right), (right, end)]
    else:
        edges = [(left, end)]
    cut: list[tuple[int, int, Tensor | bool]] = []
    for low, high in edges:
        if low >= high:
            continue
        if full <= low and high <= right:
            cut.append((low, high, False))
        elif diagonal and low == right - 1 and full <= low:
            cut.append((low, high, True))
        else:
            j = torch.arange(low, high)
            seen = (j >= start[:, None]) & (j < stop[:, None])
            if seen.any():
                cut.append((low, high, torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -math.inf)))
    return cut


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | bool, scale: float) -> tuple[Tensor, Tensor]:
    """One tile: answer [B, H, T, D] and log-sum-exp [B, H, T] of its scores.

    The one private call of lcbench: no public function of PyTorch answers a log-sum-exp on the CPU. Its causal mask is
    aligned at the upper left, and it answers 0, not -inf, for the log-sum-exp of a row that sees nothing.
    """
    explicit = mask if isinstance(mask, Tensor) else None
    causal = mask is True and q.shape[2] > 1
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=None if explicit is None else explicit[None, None], scale=scale
    )
    if explicit is not None:
        lse = lse.masked_fill((explicit == -math.inf).all(-1), -math.inf)
    return out, lse
