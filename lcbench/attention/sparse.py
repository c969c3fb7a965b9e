"""Sparse prefill: for each block of queries and each head, attention over the keys that a method has selected.

Columns, which all queries see, are gathered once per head, in tiles of many queries; keys of selected blocks are
gathered for each block of queries, as many at a time as fit into a CPU's cache. Kernels thus get dense tiles without a
mask, and time is proportional to the pairs computed. At the edges of a piece, where the queries of a block see
different keys, the few remaining keys form one masked tile for all heads. Tiles are merged by log-sum-exp.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lcbench.attention.attend import with_sinks
from lcbench.attention.backends.bands import merge
from lcbench.attention.backends.call import Output
from lcbench.attention.backends.tiled import cpu_kernel
from lcbench.methods.content import Content, Selection
from lcbench.methods.pieces import Piece

KEYS_AT_ONCE = 2048  # gathered per step: keys and values of 128 channels in float32 are 2 MiB, about a CPU's cache
QUERIES_AT_ONCE = 1024  # queries in a tile of columns; the fused CPU kernel is fastest from 768 on


def sparse_attention(content: Content, selection: Selection) -> tuple[Tensor, int, int]:
    """The output [H, T, Dv] in the queries' dtype; the number of query-key pairs computed, over all heads; and the
    number in the method's pieces."""
    call = _Sparse(content, selection)
    read = sum(call.add(piece) for piece in content.pieces if int(piece.start[0]) < int(piece.stop[-1]))
    out = call.out if content.sinks_H is None else with_sinks(call.out, call.lse, content.sinks_H)
    return out[0].to(content.q_HTD.dtype), read, _shown(content)


@dataclass(frozen=True, eq=False)
class _Part:
    """A piece for the queries `rows` of a call, which are block `number`; all of them see the keys
    start <= j < stop."""

    number: int
    rows: slice
    piece: Piece
    start: int
    stop: int

    @property
    def edges(self) -> list[tuple[int, int]]:
        """The ranges of keys before and after these, which only some of the queries see."""
        ranges = (int(self.piece.start[0]), self.start), (self.stop, int(self.piece.stop[-1]))
        return [(a, b) for a, b in ranges if a < b]


class _Sparse:
    """The output of a call, accumulated piece by piece: `out` [1, H, T, Dv] and log-sum-exps `lse` [1, H, T]."""

    def __init__(self, content: Content, selection: Selection) -> None:
        (H, T, D), Dv = content.q_HTD.shape, content.v_KSD.shape[-1]
        dtype = torch.promote_types(content.q_HTD.dtype, torch.float32)
        self.out = content.q_HTD.new_zeros(1, H, T, Dv, dtype=dtype)
        self.lse = content.q_HTD.new_full((1, H, T), -math.inf, dtype=dtype)
        self._content, self._size = content, selection.size
        self._blocks = selection.blocks_HMN.cpu().clone()
        m = torch.arange(self._blocks.shape[1])
        self._blocks[:, m, content.first // selection.size + m] = True  # a query's own block
        columns = selection.columns_HS
        self._columns = torch.zeros(1, content.length, dtype=torch.bool) if columns is None else columns.cpu()
        self._columns = self._columns.expand(H, -1)
        at_once = KEYS_AT_ONCE if self.out.device.type == "cpu" else content.length
        self._gathered = content.k_KSD.new_empty(at_once, D), content.v_KSD.new_empty(at_once, Dv)

    def add(self, piece: Piece) -> int:
        """Add the selected keys of a piece; returns the number of query-key pairs."""
        content, begin, end = self._content, int(piece.start[0]), int(piece.stop[-1])
        q_HTD, k_KND = content.turn(content.q_HTD, piece.q_pos), content.turned_keys(piece, begin, end)
        v_KND = content.v_KSD[:, begin:end]
        parts = [self._part(n, rows, piece) for n, rows in enumerate(blocks(content, self._size))]
        read = sum(self._add_edge(part, a, b, q_HTD, k_KND, v_KND, begin) for part in parts for a, b in part.edges)
        together = max(1, QUERIES_AT_ONCE // self._size)
        groups = [parts[n : n + together] for n in range(0, len(parts), together)]
        for head in range(len(q_HTD)):
            if piece.holds_for(head // content.group):
                k_ND, v_ND = k_KND[head // content.group], v_KND[head // content.group]
                read += self._add_inner(head, groups, q_HTD, k_ND, v_ND, begin)
        return read

    def _part(self, number: int, rows: slice, piece: Piece) -> _Part:
        of = piece.of_queries(rows)
        start, stop = int(of.start[-1]), int(of.stop[0])
        if start >= stop:  # no key is seen by all
            start = stop = int(of.stop[-1])
        return _Part(number, rows, of, start, stop)

    def _add_edge(self, part: _Part, a: int, b: int, q_HTD: Tensor, k_KND: Tensor, v_KND: Tensor, begin: int) -> int:
        """Add the keys a <= j < b, of which each query of a part sees its own range."""
        j = torch.arange(a, b)
        selected_HN = self._blocks[:, part.number, j // self._size] | self._columns[:, a:b]
        if part.piece.heads is not None:
            holds = [part.piece.holds_for(head // self._content.group) for head in range(len(selected_HN))]
            selected_HN &= torch.tensor(holds)[:, None]
        seen_HRN = selected_HN[:, None] & (j >= part.piece.start[:, None]) & (j < part.piece.stop[:, None])
        if pairs := int(seen_HRN.sum()):
            k, v = (x[:, a - begin : b - begin] for x in (k_KND, v_KND))
            self._merge(slice(None), part.rows, _attend(q_HTD[:, part.rows], k, v, seen_HRN, self._content))
        return pairs

    def _add_inner(
        self, head: int, groups: Sequence[list[_Part]], q_HTD: Tensor, k_ND: Tensor, v_ND: Tensor, begin: int
    ) -> int:
        """Add the keys of a head that all queries of a part see; k and v start at key `begin`."""
        of, read = slice(head, head + 1), 0
        columns = self._columns[head].nonzero()[:, 0]
        first, last = torch.searchsorted(columns, torch.tensor([begin, begin + len(k_ND)])).tolist()
        at = (columns[first:last] - begin).to(k_ND.device)
        k_CD, v_CD = k_ND.index_select(0, at)[None], v_ND.index_select(0, at)[None]
        for parts in groups:
            rows = slice(parts[0].rows.start, parts[-1].rows.stop)
            shared = parts[-1].start, max(parts[-1].start, parts[0].stop)  # seen by all queries of all parts
            a, b = (torch.searchsorted(columns, torch.tensor(shared)) - first).tolist()
            if a < b:
                self._merge(of, rows, _attend(q_HTD[of, rows], k_CD[:, a:b], v_CD[:, a:b], None, self._content))
            others = self._others(head, parts, *shared)
            read += (b - a) * (rows.stop - rows.start)
            read += sum(len(at) * (part.rows.stop - part.rows.start) for part, at in zip(parts, others, strict=True))
            q_HRD = q_HTD[of, rows]
            for n in range(0, max(map(len, others)), len(self._gathered[0])):
                some = [(at[n : n + len(self._gathered[0])] - begin).to(k_ND.device) for at in others]
                self._merge(of, rows, self._gather(parts, some, q_HRD, k_ND, v_ND))
        return read

    def _gather(self, parts: list[_Part], some: list[Tensor], q_HRD: Tensor, k_ND: Tensor, v_ND: Tensor) -> Output:
        """Attention of the queries of some parts in a head, each part over its own rows `some` of k and v."""
        R, first = q_HRD.shape[1], parts[0].rows.start
        out, lse = self.out.new_zeros(1, 1, R, v_ND.shape[1]), self.lse.new_full((1, 1, R), -math.inf)
        for part, at in zip(parts, some, strict=True):
            if len(at):
                rows = slice(part.rows.start - first, part.rows.stop - first)
                k, v = (
                    torch.index_select(x, 0, at, out=y[: len(at)])[None]
                    for x, y in zip((k_ND, v_ND), self._gathered, strict=True)
                )
                out[:, :, rows], lse[:, :, rows] = _attend(q_HRD[:, rows], k, v, None, self._content)
        return out, lse

    def _others(self, head: int, parts: list[_Part], start: int, stop: int) -> list[Tensor]:
        """The keys [n] of each part that all its queries see in a head, columns among start <= j < stop left out."""
        a, b = min(part.start for part in parts), parts[-1].stop
        j, columns = torch.arange(a, b), self._columns[head]
        seen_MN = self._blocks[head, parts[0].number : parts[-1].number + 1][:, j // self._size] | columns[a:b]
        seen_MN[:, start - a : stop - a] &= ~columns[start:stop]
        starts, stops = (torch.tensor([[getattr(part, name)] for part in parts]) for name in ("start", "stop"))
        seen_MN &= (j >= starts) & (j < stops)
        at, counts = seen_MN.nonzero()[:, 1] + a, seen_MN.sum(1).tolist()
        return list(at.split_with_sizes(counts))

    def _merge(self, heads: slice, rows: slice, found: Output) -> None:
        merge(self.out[:, heads, rows], self.lse[:, heads, rows], *found)


def blocks(content: Content, size: int) -> Iterator[slice]:
    """The queries of a call in blocks of `size` positions, counted from position 0."""
    first, T = content.first, content.q_HTD.shape[1]
    edges = [0, *range(size - first % size, T, size), T]
    return (slice(a, b) for a, b in pairwise(edges))


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
    """The number of query-key pairs in the method's pieces, over all query heads."""
    heads = content.q_HTD.shape[0] / content.k_KSD.shape[0]
    counts = (
        int((piece.stop - piece.start).clamp(min=0).sum()) * piece.share(content.k_KSD.shape[0])
        for piece in content.pieces
    )
    return round(sum(counts) * heads * content.k_KSD.shape[0])
