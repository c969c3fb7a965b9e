"""Attention over keys that a method has chosen for each KV head: the keys it kept, or some pages or blocks of keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lcbench.attention.attend import Scoring, with_sinks
from lcbench.attention.cache.evicting import EvictingLayer
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.cache.ways import Way
from lcbench.attention.cache.window import Keys
from lcbench.methods.pieces import Piece

CHOSEN = "chosen keys"  # the name of this code among the backends in records
SCORES_AT_ONCE = 2**24  # elements: 64 MiB of float32
Turned = Callable[[Piece], Tensor]


def attend_kept(
    q_BHTD: Tensor,
    keys: Keys,
    layer: EvictingLayer,
    pieces: list[Piece],
    rows: slice,
    pad: int,
    scoring: Scoring,
) -> Tensor:
    """`lcbench.attention.attend.attend` over the keys that were not evicted, at their original positions."""
    k_BKMD, v_BKMD = keys.k_BKSD[rows], keys.v_BKSD[rows]
    at_BKM, cache = layer.positions(rows, pad), layer.turned_keys(rows)
    known = at_BKM.clamp(min=0)

    def turn(x_BKND: Tensor, positions_BKN: Tensor) -> Tensor:
        flat = scoring.tables.rotate(x_BKND.flatten(0, 2)[None, None], positions_BKN.flatten(), scoring.rope)
        return flat.view_as(x_BKND)

    def turned(piece: Piece) -> Tensor:
        if scoring.rope.rotary is None:
            return k_BKMD
        way = scoring.tables.ways.find(piece.k_pos, 0, len(piece.k_pos))
        return cache.keys(k_BKMD, known, way, turn)

    return attend_chosen(q_BHTD, turned, v_BKMD, at_BKM, pieces, scoring)


class Gathered:
    """The keys and values of some rows, from which a query reads the keys at given positions."""

    def __init__(self, keys: Keys, rows: slice, pad: int, scoring: Scoring) -> None:
        self.scoring = scoring
        self.k_BKSD, self.v_BKSD = (x[rows, :, pad:] for x in (keys.k_BKSD, keys.v_BKSD))
        kept = None if keys.layer is None else keys.layer.rotated_keys(keys.k_BKSD, rows, slice(None), pad)
        self.cached = kept is not None  # rotated keys are kept for later queries
        self._rotated = RotatedKeyCache() if kept is None else kept

    def read(self, q_BH1D: Tensor, at_BKM: Tensor, shown: list[Piece]) -> Tensor:
        """Attention of one query over those of the keys at positions `at` that these non-empty pieces show it."""
        B, K, _ = at_BKM.shape
        b, k = torch.arange(B)[:, None, None], torch.arange(K)[:, None]

        def turned(piece: Piece) -> Tensor:
            start, stop = int(piece.start[0]), int(piece.stop[0])
            k_BKND = self.turned(self.way(piece, start, stop), start, stop)
            return k_BKND[b, k, (at_BKM - start).clamp(0, stop - start - 1)]

        return attend_chosen(q_BH1D, turned, self.v_BKSD[b, k, at_BKM], at_BKM, shown, self.scoring)

    def turned_keys(self, piece: Piece, start: int, stop: int) -> Tensor:
        """The keys start <= j < stop [K, n, D] of the only row, rotated to their positions in a piece."""
        return self.turned(self.way(piece, start, stop), start, stop)[0]

    def way(self, piece: Piece, start: int, stop: int) -> Way:
        return self.scoring.tables.ways.find(piece.k_pos, start, stop)

    def turned(self, way: Way, start: int, stop: int) -> Tensor:
        """The keys start <= j < stop, rotated to their positions in a way."""
        rope, tables = self.scoring.rope, self.scoring.tables
        if rope.rotary is None:
            return self.k_BKSD[:, :, start:stop]
        return self._rotated.keys(self.k_BKSD, way, start, stop, partial(tables.rotate, rope=rope))


def attend_chosen(
    q_BHTD: Tensor, turned: Turned, v_BKMD: Tensor, at_BKM: Tensor, pieces: list[Piece], scoring: Scoring
) -> Tensor:
    """Softmax attention of un-rotated queries over those of the keys at positions `at` (int64, CPU) that the pieces
    show them -> [B, H, T, Dv] in the queries' dtype. `turned(piece)` returns these keys [B, K, M, D] rotated to their
    positions in a piece."""
    scoring.selector.note(CHOSEN)
    B, H, T, _ = q_BHTD.shape
    rows = max(1, SCORES_AT_ONCE // (B * H * max(1, at_BKM.shape[-1])))
    blocks = [slice(a, min(a + rows, T)) for a in range(0, T, rows)]
    outs = [
        _attend(q_BHTD[:, :, of], turned, v_BKMD, at_BKM, [piece.of_queries(of) for piece in pieces], scoring)
        for of in blocks
    ]
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)


def _attend(
    q_BHTD: Tensor, turned: Turned, v_BKMD: Tensor, at_BKM: Tensor, pieces: list[Piece], scoring: Scoring
) -> Tensor:
    B, H, T, D = q_BHTD.shape
    K, M = at_BKM.shape[1:]
    G = H // K
    dtype = torch.promote_types(q_BHTD.dtype, torch.float32)
    scores = None
    for piece in pieces:
        seen = visible(piece, at_BKM)
        if not seen.any():
            continue
        q = scoring.tables.rotate(q_BHTD, piece.q_pos, scoring.rope).reshape(B, K, G * T, D)
        product = (q @ turned(piece).transpose(-1, -2)).view(B, K, G, T, M).to(dtype).mul_(scoring.scale)
        if scoring.softcap is not None:
            product = torch.tanh(product / scoring.softcap) * scoring.softcap
        if not seen.all():
            others = product.new_full((), -math.inf) if scores is None else scores
            product = torch.where(seen[:, :, None].to(product.device), product, others)
        scores = product
    if scores is None:
        raise AssertionError("a query sees no key, not even its own")
    out = (scores.softmax(-1).to(v_BKMD.dtype).view(B, K, G * T, M) @ v_BKMD).view(B, H, T, -1)
    if scoring.sinks_H is not None:
        out = with_sinks(out, scores.logsumexp(-1).view(B, H, T), scoring.sinks_H)
    return out.to(q_BHTD.dtype)


def visible(piece: Piece, at_BKM: Tensor) -> Tensor:
    """Mask [B, K, T, M]: which of the keys at these positions each query sees in a piece."""
    at = at_BKM[:, :, None]
    seen = (at >= piece.start[:, None]) & (at < piece.stop[:, None])
    if piece.heads is not None:
        seen &= torch.tensor([piece.holds_for(head) for head in range(at_BKM.shape[1])])[:, None, None]
    return seen
