"""Decode over pages of keys: each query and KV head sees the pages that a method rates highest, and its own."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lcbench.attention.attend import Scoring, attend
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.cache.ways import ByWay, Way
from lcbench.attention.cache.window import Keys
from lcbench.attention.chosen import attend_chosen
from lcbench.attention.views import View
from lcbench.methods.base import Method
from lcbench.methods.pieces import Piece


def attend_pages(
    q_BHTD: Tensor, method: Method, layer: int, keys: Keys, view: View, rows: slice, pad: int, scoring: Scoring
) -> Tensor:
    """`lcbench.attention.attend.attend` for the last T keys' queries of an answer, each over pages of its own."""
    read, (_, _, T, _) = method.pages_read(layer), q_BHTD.shape
    length = keys.k_BKSD.shape[2] - pad
    if read is None or (length - 1) // read[0] <= read[1]:  # every query sees every page
        return attend(q_BHTD, keys, view.pieces, rows, pad, scoring, view.look)
    paged = _Paged(method, *read, keys, rows, pad, scoring)
    outs = []
    for t in range(T):
        of = slice(t, t + 1)
        outs.append(paged.attend(q_BHTD[:, :, of], length - T + t, [piece.of_queries(of) for piece in view.pieces]))
    return outs[0] if T == 1 else torch.cat(outs, dim=2)


class _Paged:
    """The keys and values of some rows in pages of `size`, of which `count` are read beside a query's own."""

    def __init__(
        self, method: Method, size: int, count: int, keys: Keys, rows: slice, pad: int, scoring: Scoring
    ) -> None:
        self.method, self.size, self.count, self.scoring = method, size, count, scoring
        self.k_BKSD, self.v_BKSD = (x[rows, :, pad:] for x in (keys.k_BKSD, keys.v_BKSD))
        cached = None if keys.layer is None else keys.layer.rotated_keys(keys.k_BKSD, rows, slice(None), pad)
        self.turned = RotatedKeyCache() if cached is None else cached
        beside = cached is not None and keys.layer is not None
        self.digests = keys.layer.beside(PageDigests, rows, pad) if beside and keys.layer else PageDigests()

    def attend(self, q_BH1D: Tensor, i: int, pieces: list[Piece]) -> Tensor:
        """Attention of the query at position i; with few keys, over all of them."""
        own, shown = i // self.size, [piece for piece in pieces if not piece.empty]
        B, K = self.k_BKSD.shape[:2]
        if own > self.count:
            rates = q_BH1D.new_full((B, K, own), -math.inf, dtype=torch.promote_types(q_BH1D.dtype, torch.float32))
            for piece in shown:
                self._rate(q_BH1D, piece, rates)
            pages = rates.topk(self.count, dim=-1).indices.sort(dim=-1).values.cpu()
            before = (pages[..., None] * self.size + torch.arange(self.size)).flatten(2)
        else:
            before = torch.arange(own * self.size).expand(B, K, -1)
        at_BKM = torch.cat([before, torch.arange(own * self.size, i + 1).expand(B, K, -1)], dim=-1)
        b, k = torch.arange(B)[:, None, None], torch.arange(K)[:, None]

        def turned(piece: Piece) -> Tensor:
            start, stop = int(piece.start[0]), int(piece.stop[0])
            k_BKND = self._turned(self._way(piece, start, stop), start, stop)
            return k_BKND[b, k, (at_BKM - start).clamp(0, stop - start - 1)]

        return attend_chosen(q_BH1D, turned, self.v_BKSD[b, k, at_BKM], at_BKM, shown, self.scoring)

    def _way(self, piece: Piece, start: int, stop: int) -> Way:
        return self.scoring.tables.ways.find(piece.k_pos, start, stop)

    def _turned(self, way: Way, start: int, stop: int) -> Tensor:
        """The keys start <= j < stop at their positions in a way."""
        rope, tables = self.scoring.rope, self.scoring.tables
        if rope.rotary is None:
            return self.k_BKSD[:, :, start:stop]
        return self.turned.keys(self.k_BKSD, way, start, stop, partial(tables.rotate, rope=rope))

    def _rate(self, q_BH1D: Tensor, piece: Piece, rates_BKN: Tensor) -> None:
        """Raise the rates of the pages that have keys of a piece to those that they have in it."""
        size, own = self.size, rates_BKN.shape[2]
        first, end = int(piece.start[0]) // size, min(-(-int(piece.stop[0]) // size), own)
        if first >= end:
            return
        way = self._way(piece, first * size, end * size)

        def made(begin: int, stop: int) -> Tensor:
            k = self._turned(way, begin * size, stop * size).flatten(0, 1)
            return self.method.digest_pages(k.view(len(k), stop - begin, size, -1))[None]

        digest = self.digests.rows(way, first, end, made, size)[0]
        q = self.scoring.tables.rotate(q_BH1D, piece.q_pos, self.scoring.rope).flatten(0, 2)
        found = self.method.rate_pages(q, digest).view(*rates_BKN.shape[:2], -1).to(rates_BKN.dtype)
        for head in range(rates_BKN.shape[1]) if piece.heads is not None else [slice(None)]:
            if not isinstance(head, int) or piece.holds_for(head):
                rates_BKN[:, head, first:end] = rates_BKN[:, head, first:end].maximum(found[:, head])


class PageDigests(ByWay):
    """Digests of whole pages of keys [1, K, N, E]."""
