"""Attention over pieces by plain matrix products: one row of scores over all pieces, one softmax.

Exact on any device and dtype, with gradients, soft caps and sinks; used for decode, where it is also fast
(`one_query`). Scores are computed for a few queries at a time, so that memory is linear in the number of keys, and in
at least float32: products of half precision are not rounded before the softmax, except where gradients are needed, as
in eager attention.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.one_query import one_query
from lcbench.attention.backends.products import products, weighted
from lcbench.methods.pieces import Piece

SCORES_AT_ONCE = {"cpu": 2**24, "cuda": 2**26}  # elements: 64 and 256 MiB of float32


def matmul_attention(call: Call) -> Output:
    """The output [B, H, T, Dv] in the dtype of the queries, and the log-sum-exp [B, H, T] of the scores in at least
    float32; 0 and -inf for a query without keys; as `one_query` for one whose keys were worked out."""
    if call.look is not None and not call.needs_gradient:
        return one_query(call, call.look)
    B, H, T = call.q_BHTD.shape[:3]
    S = call.k_BKSD.shape[2]
    parts = [
        _Part(piece, start, call.rotated_queries(piece), call.rotated_to(piece, start, stop))
        for start, stop, piece in call.shown()
    ]
    out = call.q_BHTD.new_zeros(B, H, T, call.v_BKSD.shape[-1])
    lse = call.q_BHTD.new_full((B, H, T), -math.inf, dtype=torch.promote_types(call.q_BHTD.dtype, torch.float32))
    rows = max(1, SCORES_AT_ONCE.get(call.q_BHTD.device.type, 2**24) // (B * H * S))
    for first in range(0, T, rows):
        of_rows = slice(first, min(first + rows, T))
        output = _attend_rows(call, parts, of_rows)
        if output is not None:
            out[:, :, of_rows], lse[:, :, of_rows] = output
    return out, lse


class _Part(NamedTuple):
    """A piece with its rotated queries, and its rotated keys, which start at key `first` of the call."""

    piece: Piece
    first: int
    q_BHTD: Tensor
    k_BKND: Tensor


def _attend_rows(call: Call, parts: list[_Part], rows: slice) -> Output | None:
    """The output for the queries `rows`; None if they have no keys."""
    spans = [call.key_range(part.piece, rows) for part in parts]
    shown = [(start, stop) for start, stop in spans if start < stop]
    if not shown:
        return None
    first, end = min(start for start, _ in shown), max(stop for _, stop in shown)
    scores_BKGTS = _scores(call, parts, spans, rows, first, end)
    B, K, G, T, _ = scores_BKGTS.shape
    # Softmax by hand: the output is divided instead of the weights, and the log-sum-exp needs no further pass.
    tiny = torch.finfo(scores_BKGTS.dtype).tiny
    most = scores_BKGTS.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(scores_BKGTS.dtype).min)
    weights = scores_BKGTS.sub_(most).exp_()
    total = weights.sum(-1, keepdim=True)
    values = call.v_BKSD[:, :, first:end].flatten(0, 1)
    out = weighted(weights.view(B * K, G * T, end - first), values, of_gradients=call.needs_gradient)
    out = out.view(B, K, G, T, -1) / total.clamp(min=tiny)
    total, most = total.squeeze(-1), most.squeeze(-1)
    lse = torch.where(total > 0, total.clamp(min=tiny).log() + most, -math.inf)
    return out.view(B, K * G, T, -1), lse.view(B, K * G, T)


def _scores(call: Call, parts: list[_Part], spans: list[tuple[int, int]], rows: slice, first: int, end: int) -> Tensor:
    """Scores [B, K, G, rows, end - first] of the queries `rows` over the keys first <= j < end of the call, in at
    least float32; -inf for keys in no piece of the query. The queries of a group are contiguous, so that one product
    computes all heads that share a key head."""
    B, H, _, D = parts[0].q_BHTD.shape
    K, T = call.v_BKSD.shape[1], rows.stop - rows.start
    G = H // K
    dtype = torch.promote_types(parts[0].q_BHTD.dtype, torch.float32)
    scores = call.v_BKSD.new_full((B, K, G, T, end - first), -math.inf, dtype=dtype)
    for (piece, offset, q, k), (start, stop) in zip(parts, spans, strict=True):
        if start >= stop:
            continue
        keys = k[:, :, start - offset : stop - offset].flatten(0, 1)
        product = products(q[:, :, rows].reshape(B * K, G * T, D), keys, of_gradients=call.needs_gradient)
        product = product.view(B, K, G, T, stop - start).mul_(call.scale)
        if call.softcap is not None:
            product = torch.tanh(product / call.softcap) * call.softcap
        region = scores[..., start - first : stop - first]
        if T == 1:
            region.copy_(product)
            continue
        j = torch.arange(start, stop) + call.first_key
        seen = (j >= piece.start[rows, None]) & (j < piece.stop[rows, None])
        # Pieces are disjoint: keep the scores of other pieces where this one is not visible.
        region.copy_(product if seen.all() else torch.where(seen.to(region.device), product, region))
    return scores
