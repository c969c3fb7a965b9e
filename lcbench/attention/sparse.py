"""Sparse prefill: for each block of queries and each head, attention over the keys that a method has selected.

The keys are gathered, so that time is that of the pairs that are computed, and kernels see plain dense tiles; those
that only some queries of a block see are a tile of their own, with a mask. Tiles are merged by log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lcbench.attention.attend import with_sinks
from lcbench.attention.backends.bands import merge
from lcbench.attention.backends.call import Output
from lcbench.attention.backends.tiled import cpu_kernel
from lcbench.methods.content import Content, Selection
from lcbench.methods.pieces import Piece


class Tile(NamedTuple):
    """Some of the selected keys, at places [n] of the piece's turned keys, and which of them each query sees [R, n];
    None: all."""

    at_N: Tensor
    seen_RN: Tensor | None


def sparse_attention(content: Content, selection: Selection) -> tuple[Tensor, int, int]:
    """The output [H, T, Dv] in the queries' dtype; how many pairs of query and key, over all heads, were seen, and how
    many the plan shows."""
    H, T, _ = content.q_HTD.shape
    dtype = torch.promote_types(content.q_HTD.dtype, torch.float32)
    out = content.q_HTD.new_zeros(1, H, T, content.v_KSD.shape[-1], dtype=dtype)
    lse = content.q_HTD.new_full((1, H, T), -math.inf, dtype=dtype)
    read, places = 0, _Places(selection, content)
    for piece in content.pieces:
        begin, end = int(piece.start[0]), int(piece.stop[-1])
        if begin >= end:
            continue
        q_HTD, k_KND = content.turn(content.q_HTD, piece.q_pos), content.turned_keys(piece, begin, end)
        for number, rows in enumerate(blocks(content, selection.size)):
            part = piece.of_queries(rows)
            for head in range(H):
                kv_head = head // content.group
                if not piece.holds_for(kv_head):
                    continue
                for tile in _tiles(part, places(head, number, begin, end), begin):
                    at = tile.at_N.to(k_KND.device)
                    k, v = k_KND[kv_head, at], content.v_KSD[kv_head, at + begin]
                    found = _attend(q_HTD[head, rows], k, v, tile.seen_RN, content)
                    merge(out[:, head : head + 1, rows], lse[:, head : head + 1, rows], *found)
                    read += (rows.stop - rows.start) * len(at) if tile.seen_RN is None else int(tile.seen_RN.sum())
    if content.sinks_H is not None:
        out = with_sinks(out, lse, content.sinks_H)
    return out[0].to(content.q_HTD.dtype), read, _shown(content)


def blocks(content: Content, size: int) -> Iterator[slice]:
    """The queries of a call in blocks of `size` positions, counted from position 0."""
    first, T = content.first, content.q_HTD.shape[1]
    edges = [0, *range(size - first % size, T, size), T]
    return (slice(a, b) for a, b in pairwise(edges))


class _Places:
    """The positions of the selected keys."""

    def __init__(self, selection: Selection, content: Content) -> None:
        self._size, self._first = selection.size, content.first // selection.size
        self._columns = None if selection.columns_HS is None else selection.columns_HS.cpu()
        self._blocks = selection.blocks_HMN.cpu()

    def __call__(self, head: int, number: int, begin: int, end: int) -> Tensor:
        """Those that the queries of block `number` see of begin <= j < end, ascending, counted from `begin`."""
        seen_N = self._blocks[head, number].clone()
        seen_N[self._first + number] = True
        seen_S = seen_N.repeat_interleave(self._size)[begin:end]
        if self._columns is not None:
            seen_S = seen_S | self._columns[head, begin:end]
        return seen_S.nonzero()[:, 0]


def _tiles(piece: Piece, at_N: Tensor, begin: int) -> Iterator[Tile]:
    """The keys among `at` (from key `begin` on) that these queries see: first those that all of them see."""
    left, inner, right, last = (
        int(edge) - begin for edge in (piece.start[0], piece.start[-1], piece.stop[0], piece.stop[-1])
    )
    if inner >= right:  # none is seen by all
        inner = right = last
    a, b, c, d = torch.searchsorted(at_N, torch.tensor([left, inner, right, last])).tolist()
    if b < c:
        yield Tile(at_N[b:c], None)
    for some in (at_N[a:b], at_N[c:d]):
        seen_RN = (some + begin >= piece.start[:, None]) & (some + begin < piece.stop[:, None])
        if seen_RN.any():
            yield Tile(some, seen_RN)


def _attend(q_RD: Tensor, k_ND: Tensor, v_ND: Tensor, seen_RN: Tensor | None, content: Content) -> Output:
    """One tile of one head: output [1, 1, R, Dv] and log-sum-exp [1, 1, R]."""
    q, k, v = (x[None, None] for x in (q_RD, k_ND, v_ND))
    if q.device.type == "cpu" and content.softcap is None and k.shape[-1] == v.shape[-1]:
        return cpu_kernel(q, k, v, False if seen_RN is None else seen_RN, content.scale)
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores = (q @ k.transpose(-1, -2)).to(dtype) * content.scale
    if content.softcap is not None:
        scores = torch.tanh(scores / content.softcap) * content.softcap
    if seen_RN is not None:
        scores = scores.masked_fill(~seen_RN.to(scores.device), -math.inf)
    return scores.softmax(-1).nan_to_num(0.0).to(v.dtype) @ v, scores.logsumexp(-1)  # nan: a query without keys here


def _shown(content: Content) -> int:
    """Pairs of query and key that the plan shows, over all query heads."""
    heads = content.q_HTD.shape[0] / content.k_KSD.shape[0]
    counts = (
        int((piece.stop - piece.start).clamp(min=0).sum()) * piece.share(content.k_KSD.shape[0])
        for piece in content.pieces
    )
    return round(sum(counts) * heads * content.k_KSD.shape[0])
