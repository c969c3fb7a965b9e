"""What a method sees that decides by content: the queries and keys of a layer, and the scores between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lcbench.core.lazy import torch
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor

SCORES_AT_ONCE = {"cpu": 2**20}  # elements: 4 MiB of float32, which stay near a core through several passes
MOST_SCORES_AT_ONCE = 2**24  # elsewhere: 64 MiB


@dataclass(frozen=True, eq=False)
class Content:
    """One row of a batch in one layer: its queries of this call, and all keys and values so far, padding left out.

    q [H, T, D] are the last T positions, k [K, S, D] and v [K, S, Dv] the positions 0 <= j < S, all un-rotated; H is a
    multiple of K, and the query heads of a KV head stand side by side. `pieces` are the plan's for these queries,
    `plan(first, end)` those for the queries first <= i < end and the keys before `end`. `turn(x, positions)` rotates
    x [N, P, D] to positions [P]; `turned_keys(piece, start, stop)` are the keys start <= j < stop [K, n, D] at their
    positions in a piece. `scale`, `softcap` and `sinks_H` are those of the layer's scores.
    """

    q_HTD: Tensor
    k_KSD: Tensor
    v_KSD: Tensor
    pieces: list[Piece]
    plan: Callable[[int, int], list[Piece]]
    turn: Callable[[Tensor, Tensor], Tensor]
    turned_keys: Callable[[Piece, int, int], Tensor]
    scale: float
    softcap: float | None = None
    sinks_H: Tensor | None = None

    @property
    def first(self) -> int:
        """Position of the first query."""
        return self.length - self.q_HTD.shape[1]

    @property
    def length(self) -> int:
        """Number of keys, the query's own included."""
        return self.k_KSD.shape[1]

    @property
    def group(self) -> int:
        """Number of query heads of a KV head."""
        return self.q_HTD.shape[0] // self.k_KSD.shape[0]

    def ending(self, q_HTD: Tensor) -> Content:
        """The same keys, looked at by the last T queries [H, T, D]; some of them may be of earlier calls."""
        return replace(self, q_HTD=q_HTD, pieces=self.plan(self.length - q_HTD.shape[1], self.length))

    def only(self, rows: slice) -> Content:
        """The queries `rows` alone, and the keys up to the last one's own."""
        end = self.first + rows.stop
        pieces = [piece.of_queries(rows) for piece in self.pieces]
        return replace(
            self, q_HTD=self.q_HTD[:, rows], k_KSD=self.k_KSD[:, :end], v_KSD=self.v_KSD[:, :end], pieces=pieces
        )

    def row_blocks(self) -> Iterator[slice]:
        """All queries in slices, so few at a time that the scores of a slice have SCORES_AT_ONCE elements at most."""
        H, T, _ = self.q_HTD.shape
        rows = max(1, SCORES_AT_ONCE.get(self.q_HTD.device.type, MOST_SCORES_AT_ONCE) // (H * self.length))
        yield from (slice(a, min(a + rows, T)) for a in range(0, T, rows))

    def scores(self, rows: slice = slice(None)) -> Tensor:
        """Scores [H, R, S] of the queries `rows` as attention computes them, in at least float32: positions, scale and
        soft cap as the method's plan and the model have them; -inf for keys that a query does not see."""
        q_HRD = self.q_HTD[:, rows]
        H, R, D = q_HRD.shape
        K, G = self.k_KSD.shape[0], self.group
        dtype = torch.promote_types(q_HRD.dtype, torch.float32)
        scores = q_HRD.new_full((K, G * R, self.length), -math.inf, dtype=dtype)
        for piece in (piece.of_queries(rows) for piece in self.pieces):
            start, stop = int(piece.start[0]), int(piece.stop[-1])
            if start >= stop:
                continue
            q = self.turn(q_HRD, piece.q_pos).reshape(K, G * R, D)
            product = (q @ self.turned_keys(piece, start, stop).transpose(-1, -2)).to(dtype).mul_(self.scale)
            if self.softcap is not None:
                product = torch.tanh(product / self.softcap) * self.softcap
            seen = self.seen(piece, torch.arange(start, stop)).to(q.device)
            region = scores.view(K, G, R, -1)[..., start:stop]
            torch.where(seen, product.view_as(region), region, out=region)
        return scores.view(H, R, -1)

    def seen(self, piece: Piece, j: Tensor) -> Tensor:
        """Which of the keys j [N] the queries of a piece see in it [1 or K, 1, R, N]."""
        seen_RN = (j >= piece.start[:, None]) & (j < piece.stop[:, None])
        if piece.heads is None:
            return seen_RN[None, None]
        holds_K = torch.tensor([piece.holds_for(head) for head in range(self.k_KSD.shape[0])])
        return seen_RN & holds_K[:, None, None, None]

    def weights(self, rows: slice = slice(None)) -> Tensor:
        """Attention weights [H, R, S] of the queries `rows`: the softmax of their scores, and of sinks that the model
        has."""
        scores = self.scores(rows)
        if self.sinks_H is None:
            return scores.softmax(-1)
        column = self.sinks_H.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]


@dataclass(frozen=True, eq=False)
class Selection:
    """The keys that each query of a call sees, of those that the plan shows it.

    Positions are cut into blocks of `size`, from 0 on. `blocks` [H, M, N] bool: whether the queries of each block see
    the keys of each block; the first of the M blocks has the call's first query. `columns` [H, S] bool: keys that all
    queries see besides. A query's own block is seen in any case.
    """

    size: int
    blocks_HMN: Tensor
    columns_HS: Tensor | None = None


class ContentHooks:
    """The hooks of a method that look at content; by default none does."""

    def select(self, content: Content, layer: int) -> Selection:
        """Which blocks of keys the queries of a call see; called for the prompt, once a call, layer and row."""
        raise NotImplementedError

    def digest_pages(self, k_KNPD: Tensor) -> Tensor:
        """Whole pages of P keys, at the positions of a piece -> what `rate_pages` needs of each page [K, N, ...]; it is
        computed once a page."""
        raise NotImplementedError

    def rate_pages(self, q_HD: Tensor, digest_KN: Tensor) -> Tensor:
        """A query at its position in a piece, and the digests of pages -> a number for each page [K, N]: of those
        before the query's own page, the `pages_read` highest are seen."""
        raise NotImplementedError

    def pages_read(self, layer: int) -> tuple[int, int] | None:
        """The number of keys of a page, and of pages that a query sees in a layer; None: all keys."""
        return None

    def observe(self, content: Content, layer: int, seen: Any) -> Any:
        """What `evict` needs to know of a prompt that is read in several calls: called for each, with what the call
        before returned, None at first."""
        return None

    def evict(self, content: Content, layer: int, seen: Any) -> Tensor:
        """The positions [K, n] of the keys that each KV head keeps, ascending; called once, after the whole prompt,
        with what `observe` returned last."""
        raise NotImplementedError

    def recall(self, content: Content, layer: int, seen: Any, answer: bool) -> tuple[Selection, Any]:
        """Which blocks of keys the queries of a call see, the same for all heads, and what later calls need to know of
        these queries: called for each call of the prompt, and with `answer` for each query behind it, with what the
        call before returned, None at first."""
        raise NotImplementedError


def last_queries(content: Content, before: Tensor | None, count: int) -> Tensor:
    """The last `count` queries [H, n, D] of what was read so far: those `before` this call, and this call's."""
    own = content.q_HTD[:, -count:]
    if before is None or own.shape[1] == count:
        return own.clone()  # a slice would keep all queries of the call alive
    return torch.cat([before, own], dim=1)[:, -count:]


def of_kv_heads(content: Content, x_HS: Tensor) -> Tensor:
    """Numbers [H, S] of query heads, averaged over those of each KV head: [K, S]."""
    return x_HS.view(-1, content.group, x_HS.shape[1]).mean(1)


def best(scores_KS: Tensor, count: int) -> Tensor:
    """The positions [K, count] of the highest scores, ascending; of equal ones the first."""
    order = scores_KS.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    return order.sort(dim=-1).values
