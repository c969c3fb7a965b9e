"""Decode over pages of keys: each query and KV head attends to the pages that a method rates highest, and to its
own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lcbench.attention.attend import Scoring, attend
from lcbench.attention.cache.ways import ByWay
from lcbench.attention.cache.window import Keys
from lcbench.attention.chosen import Gathered
from lcbench.attention.views import View
from lcbench.methods.base import Method
from lcbench.methods.pieces import Piece


def attend_pages(
    q_BHTD: Tensor, method: Method, layer: int, keys: Keys, view: View, rows: slice, pad: int, scoring: Scoring
) -> Tensor:
    """`lcbench.attention.attend.attend` for T queries of an answer, the last tokens, each over its own pages."""
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


class _Paged(Gathered):
    """The keys and values of some rows in pages of `size` keys; a query reads its own page and `count` others."""

    def __init__(
        self, method: Method, size: int, count: int, keys: Keys, rows: slice, pad: int, scoring: Scoring
    ) -> None:
        super().__init__(keys, rows, pad, scoring)
        self.method, self.size, self.count = method, size, count
        layer = keys.layer if self.cached else None
        self.digests = PageDigests() if layer is None else layer.beside(PageDigests, rows, pad)

    def attend(self, q_BH1D: Tensor, i: int, pieces: list[Piece]) -> Tensor:
        """Attention of the query at position i; over all keys if they are no more than it may read."""
        own = i // self.size
        # By their first keys: pieces that share positions then add to the same digests, instead of beginning them anew.
        shown = sorted((piece for piece in pieces if not piece.empty), key=lambda piece: int(piece.start[0]))
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
        return self.read(q_BH1D, at_BKM, shown)

    def _rate(self, q_BH1D: Tensor, piece: Piece, rates_BKN: Tensor) -> None:
        """Raise the rates [B, K, N] of the pages with keys of a piece to their rates in this piece, where higher."""
        size, own = self.size, rates_BKN.shape[2]
        first, end = int(piece.start[0]) // size, min(-(-int(piece.stop[0]) // size), own)
        if first >= end:
            return
        way = self.way(piece, first * size, end * size)

        def made(begin: int, stop: int) -> Tensor:
            k = self.turned(way, begin * size, stop * size).flatten(0, 1)
            return self.method.digest_pages(k.view(len(k), stop - begin, size, -1))[None]

        digest = self.digests.rows(way, first, end, made, size)[0]
        q = self.scoring.tables.rotate(q_BH1D, piece.q_pos, self.scoring.rope).flatten(0, 2)
        found = self.method.rate_pages(q, digest).view(*rates_BKN.shape[:2], -1).to(rates_BKN.dtype)
        for head in range(rates_BKN.shape[1]) if piece.heads is not None else [slice(None)]:
            if not isinstance(head, int) or piece.holds_for(head):
                rates_BKN[:, head, first:end] = rates_BKN[:, head, first:end].maximum(found[:, head])


class PageDigests(ByWay):
    """Digests [1, K, N, E] of complete pages of keys."""
