"""Attention over pieces in plain matrix products: one row of scores over all pieces, one softmax.

Exact on any device and dtype, with gradients, soft caps and sinks; the choice for decode, where it is also fast.
Scores are made for a few queries at a time, so memory grows with the number of keys, not with its square.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.rope import Rope, RopeTables
from lcbench.methods.pieces import Piece

SCORES_AT_ONCE = {"cpu": 2**24, "cuda": 2**26}  # elements: 64 and 256 MiB of float32


def matmul_attention(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    pieces: list[Piece],
    rope: Rope,
    tables: RopeTables,
    first_key: int,
    scale: float,
    softcap: float | None = None,
    rotated_keys: RotatedKeyCache | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of un-rotated queries over the keys that the pieces show them.

    `first_key` is the position of k[:, :, 0]. `softcap` c bounds the scores to c tanh(s / c) (Gemma 2). H is a
    multiple of K: grouped queries. `rotated_keys` remember keys that were rotated before. Returns the answer [B, H, T, Dv]
    and the log-sum-exp [B, H, T] of the scores; a query that sees nothing answers 0 and -inf.
    """
    B, H, T = q_BHTD.shape[:3]
    S = k_BKSD.shape[2]
    parts = []
    for piece in pieces:
        low, high = int(piece.start[0]) - first_key, int(piece.stop[-1]) - first_key
        if low < high:
            if rotated_keys is not None and rope.rotary is not None:
                k = rotated_keys.keys(k_BKSD, piece.k_pos, low, high, partial(tables.rotate, rope=rope))
            else:
                k = tables.rotate(k_BKSD[:, :, low:high], piece.k_pos[low:high], rope)
            parts.append(_Part(piece, low, tables.rotate(q_BHTD, piece.q_pos, rope), k.transpose(-1, -2)))
    out = q_BHTD.new_zeros(B, H, T, v_BKSD.shape[-1])
    lse = q_BHTD.new_full((B, H, T), -math.inf, dtype=torch.promote_types(q_BHTD.dtype, torch.float32))
    rows = max(1, SCORES_AT_ONCE.get(q_BHTD.device.type, 2**24) // (B * H * S))
    for first in range(0, T, rows):
        of_rows = slice(first, min(first + rows, T))
        answer = _answer(parts, v_BKSD, of_rows, first_key, scale, softcap)
        if answer is not None:
            out[:, :, of_rows], lse[:, :, of_rows] = answer
    return out, lse


class _Part(NamedTuple):
    """A piece with its rotated queries and keys; the first of these is the key `first` of the call."""

    piece: Piece
    first: int
    q_BHTD: Tensor
    k_BKDS: Tensor


def _answer(
    parts: list[_Part], v_BKSD: Tensor, rows: slice, first_key: int, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor] | None:
    """What `matmul_attention` answers to some of the queries; None if they see nothing."""
    a, b = rows.start, rows.stop
    spans = [(int(piece.start[a]) - first_key, int(piece.stop[b - 1]) - first_key) for piece, *_ in parts]
    if all(low >= high for low, high in spans):
        return None
    first = min(low for low, high in spans if low < high)
    last = max(high for low, high in spans if low < high)
    B, H, _, D = parts[0].q_BHTD.shape
    K = v_BKSD.shape[1]
    G = H // K
    dtype = torch.promote_types(parts[0].q_BHTD.dtype, torch.float32)
    scores = v_BKSD.new_full((B, K, G, b - a, last - first), -math.inf, dtype=dtype)
    for (piece, offset, q, k), (low, high) in zip(parts, spans, strict=True):
        if low >= high:
            continue
        product = q[:, :, rows].reshape(B, K, G * (b - a), D) @ k[..., low - offset : high - offset]
        product = product.view(B, K, G, b - a, high - low).to(dtype).mul_(scale)
        if softcap is not None:
            product = torch.tanh(product / softcap) * softcap
        j = torch.arange(low, high) + first_key
        seen = (j >= piece.start[rows, None]) & (j < piece.stop[rows, None])
        region = scores[..., low - first : high - first]
        region.copy_(product if seen.all() else torch.where(seen.to(region.device), product, region))
    # The softmax by hand: it divides the answer, not the weights, and its log-sum-exp comes for nothing.
    most = scores.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(dtype).min)
    weights = scores.sub_(most).exp_()
    total = weights.sum(-1, keepdim=True)
    answer = weights.to(v_BKSD.dtype).view(B, K, G * (b - a), last - first) @ v_BKSD[:, :, first:last]
    answer = answer.view(B, K, G, b - a, -1) / total.clamp(min=torch.finfo(dtype).tiny)
    total, most = total.squeeze(-1), most.squeeze(-1)
    lse = torch.where(total > 0, total.clamp(min=torch.finfo(dtype).tiny).log() + most, -math.inf)
    return answer.view(B, H, b - a, -1), lse.view(B, H, b - a)
