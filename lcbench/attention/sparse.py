"""Sparse prefill: for each block of queries and each head, attention over the keys that a method has selected.

Keys that all queries of a block can see are gathered head by head, so that time is that of the pairs that are
computed, and kernels see plain dense tiles. At the edges of a piece, where queries differ, few keys are left: they are
one tile of all heads, with a mask. Tiles are merged by log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from lcbench.attention.attend import with_sinks
from lcbench.attention.backends.bands import merge
from lcbench.attention.backends.call import Output
from lcbench.attention.backends.tiled import cpu_kernel
from lcbench.methods.content import Content, Selection
from lcbench.methods.pieces import Piece


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
        v_KND = content.v_KSD[:, begin:end]
        for number, rows in enumerate(blocks(content, selection.size)):
            part = piece.of_queries(rows)
            last = int(part.stop[-1])
            if int(part.start[0]) >= last:
                continue
            selected_HN = places(piece, number, begin, last)
            for *found, pairs in _tiles(part, begin, selected_HN, q_HTD[:, rows], k_KND, v_KND, content):
                merge(out[:, :, rows], lse[:, :, rows], *found)
                read += pairs
    if content.sinks_H is not None:
        out = with_sinks(out, lse, content.sinks_H)
    return out[0].to(content.q_HTD.dtype), read, _shown(content)


def blocks(content: Content, size: int) -> Iterator[slice]:
    """The queries of a call in blocks of `size` positions, counted from position 0."""
    first, T = content.first, content.q_HTD.shape[1]
    edges = [0, *range(size - first % size, T, size), T]
    return (slice(a, b) for a, b in pairwise(edges))


class _Places:
    """Which keys are selected."""

    def __init__(self, selection: Selection, content: Content) -> None:
        self._size, self._first = selection.size, content.first // selection.size
        self._columns = None if selection.columns_HS is None else selection.columns_HS.cpu()
        self._blocks, self._group = selection.blocks_HMN.cpu(), content.group

    def __call__(self, piece: Piece, number: int, begin: int, end: int) -> Tensor:
        """Of the keys begin <= j < end, those [H, n] that the queries of block `number` see in a piece, by head."""
        seen_HN = self._blocks[:, number].clone()
        seen_HN[:, self._first + number] = True
        seen_HS = seen_HN.repeat_interleave(self._size, dim=1)[:, begin:end]
        if self._columns is not None:
            seen_HS = seen_HS | self._columns[:, begin:end]
        if piece.heads is not None:
            holds = [piece.holds_for(head // self._group) for head in range(len(seen_HS))]
            seen_HS = seen_HS & torch.tensor(holds)[:, None]
        return seen_HS


def _tiles(
    piece: Piece, begin: int, selected_HN: Tensor, q_HRD: Tensor, k_KND: Tensor, v_KND: Tensor, content: Content
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Outputs [1, H, R, Dv] and log-sum-exps [1, H, R] of the queries of a block over the selected keys, from key
    `begin` on, and the number of pairs in each."""
    left, inner, right, last = (
        int(edge) - begin for edge in (piece.start[0], piece.start[-1], piece.stop[0], piece.stop[-1])
    )
    if inner >= right:  # no key is seen by all
        inner = right = last
    for a, b in ((left, inner), (right, last)):
        j = torch.arange(a, b) + begin
        seen_HRN = selected_HN[:, None, a:b] & (j >= piece.start[:, None]) & (j < piece.stop[:, None])
        if pairs := int(seen_HRN.sum()):
            yield *_attend(q_HRD, k_KND[:, a:b], v_KND[:, a:b], seen_HRN, content), pairs
    counts = selected_HN[:, inner:right].sum(1).tolist()
    if any(counts):
        yield *_gathered(q_HRD, k_KND, v_KND, selected_HN, inner, right, content), sum(counts) * q_HRD.shape[1]


def _gathered(
    q_HRD: Tensor, k_KND: Tensor, v_KND: Tensor, selected_HN: Tensor, start: int, stop: int, content: Content
) -> Output:
    """Attention of each head over its selected keys among start <= n < stop, which all queries see."""
    outs, lses = [], []
    for head, selected_N in enumerate(selected_HN[:, start:stop]):
        at = (selected_N.nonzero()[:, 0] + start).to(k_KND.device)
        k, v = (x[head // content.group].index_select(0, at)[None] for x in (k_KND, v_KND))
        if len(at):
            out, lse = _attend(q_HRD[head : head + 1], k, v, None, content)
        else:
            out = q_HRD.new_zeros(1, 1, q_HRD.shape[1], v.shape[-1])
            lse = out.new_full(out.shape[:3], -math.inf, dtype=torch.promote_types(out.dtype, torch.float32))
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs, dim=1), torch.cat(lses, dim=1)


def _attend(q_HRD: Tensor, k_KND: Tensor, v_KND: Tensor, seen_HRN: Tensor | None, content: Content) -> Output:
    """One tile: output [1, H, R, Dv] and log-sum-exp [1, H, R]."""
    q, k, v = q_HRD[None], k_KND[None], v_KND[None]
    if q.device.type == "cpu" and content.softcap is None and k.shape[-1] == v.shape[-1]:
        return cpu_kernel(q, k, v, False if seen_HRN is None else seen_HRN, content.scale)
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32)) * content.scale
    if content.softcap is not None:
        scores = torch.tanh(scores / content.softcap) * content.softcap
    if seen_HRN is not None:
        scores = scores.masked_fill(~seen_HRN.to(scores.device), -math.inf)
    return scores.softmax(-1).nan_to_num(0.0).to(v.dtype) @ v, scores.logsumexp(-1)  # nan: a query without keys here


def _shown(content: Content) -> int:
    """Pairs of query and key that the plan shows, over all query heads."""
    heads = content.q_HTD.shape[0] / content.k_KSD.shape[0]
    counts = (
        int((piece.stop - piece.start).clamp(min=0).sum()) * piece.share(content.k_KSD.shape[0])
        for piece in content.pieces
    )
    return round(sum(counts) * heads * content.k_KSD.shape[0])
