"""Attention for methods that select keys by content: sparse prefill, KV cache eviction after the prompt, page selection
at decode, and block recall in both.

Queries before the end of the prompt are the prompt's, all later ones the answer's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from transformers import Cache

from lcbench.attention.attend import Scoring, attend
from lcbench.attention.cache.evicting import EvictingLayer
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.cache.observing import ObservingLayer
from lcbench.attention.cache.ways import Ways
from lcbench.attention.cache.window import Keys
from lcbench.attention.chosen import Gathered, attend_kept
from lcbench.attention.pages import attend_pages
from lcbench.attention.sparse import sparse_attention
from lcbench.attention.views import View
from lcbench.core.errors import UserError
from lcbench.methods.base import Method
from lcbench.methods.content import Content, Selection
from lcbench.methods.pieces import Piece

SPARSE = "sparse"  # the name of sparse prefill among the backends in records


@dataclass(frozen=True, eq=False)
class Row:
    """Batch rows with equal padding in one call: the pieces of their queries, and the length of their prompt in tokens,
    None if unknown."""

    rows: slice
    pad: int
    view: View
    prompt: int | None


@dataclass(eq=False)
class ContentCall:
    """One forward pass of one layer under a method that selects keys by content; `cache` is the KV cache or None."""

    method: Method
    layer: int
    keys: Keys
    scoring: Scoring
    cache: Cache | None
    kept: dict[int, Tensor] = field(default_factory=dict)  # positions of the keys that each row of the batch keeps

    def attend(self, q_BHTD: Tensor, of: Row) -> Tensor:
        """Attention of un-rotated queries of some rows [B, H, T, D], the last T tokens -> [B, H, T, Dv].

        Raises: UserError for gradients, for a prompt of unknown length or a pass beyond its end, and for a cache that
        cannot drop keys.
        """
        prompt = self._require_prompt(q_BHTD, of)
        evicting = self._evicting
        if evicting is not None and evicting.positions_BKN is not None:
            return attend_kept(q_BHTD, self.keys, evicting, of.view.pieces, of.rows, of.pad, self.scoring)
        end = self.keys.k_BKSD.shape[2] - of.pad
        asks = end - q_BHTD.shape[2] < prompt
        if asks and end > prompt:
            raise UserError(
                f"{self.method.label}: a forward pass has tokens before and after the end of the prompt, {prompt}; "
                "end a pass there."
            )
        if "recall" in self.method.hooks:
            rows = range(len(self.keys.k_BKSD))[of.rows]
            return torch.stack([self._recall(q, row, of, asks) for q, row in zip(q_BHTD, rows, strict=True)])
        if not asks and "rate_pages" in self.method.hooks:
            return attend_pages(q_BHTD, self.method, self.layer, self.keys, of.view, of.rows, of.pad, self.scoring)
        if not asks or not self.method.hooks & {"select", "evict"}:
            return self._attend_all(q_BHTD, of)
        return self._attend_prompt(q_BHTD, of, evicting)

    def _require_prompt(self, q_BHTD: Tensor, of: Row) -> int:
        """The length of the prompt. Raises: UserError if it is unknown, and for gradients."""
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHTD, self.keys.k_BKSD, self.keys.v_BKSD)):
            raise UserError(f"{self.method.label} selects keys, which has no gradient; use torch.no_grad().")
        if of.prompt is None:
            raise UserError(f"{self.method.label}: this KV cache's prompt length is unknown; use an empty cache.")
        return of.prompt

    def _attend_prompt(self, q_BHTD: Tensor, of: Row, evicting: EvictingLayer | None) -> Tensor:
        """Attention of a prompt's queries over the selected keys; what eviction needs of them is observed."""
        rows = range(len(self.keys.k_BKSD))[of.rows]
        contents = [self._content(q, row, of) for q, row in zip(q_BHTD, rows, strict=True)]
        if "select" in self.method.hooks:
            out = torch.stack([self._sparse(content, self.method.select(content, self.layer)) for content in contents])
        else:
            out = self._attend_all(q_BHTD, of)
        if evicting is not None:
            for row, content in zip(rows, contents, strict=True):
                seen = self.method.observe(content, self.layer, evicting.seen.get(row))
                evicting.seen[row] = seen
                if content.length == of.prompt:
                    self.kept[row] = self.method.evict(content, self.layer, seen)
        return out

    def _attend_all(self, q_BHTD: Tensor, of: Row) -> Tensor:
        """Attention over all keys that the pieces show, as for methods that do not select keys by content."""
        return attend(q_BHTD, self.keys, of.view.pieces, of.rows, of.pad, self.scoring, of.view.look)

    def end(self, pads: tuple[int, ...]) -> None:
        """Drop the keys that no row keeps, if the prompt ends with this call."""
        if self.kept and self._evicting is not None:
            self._evicting.evict([self.kept[row] for row in range(len(pads))], pads)

    @cached_property
    def _evicting(self) -> EvictingLayer | None:
        """The cache layer that evicts keys. Raises: UserError if the method evicts and the cache cannot."""
        if not self.method.evicts:
            return None
        if not isinstance(self.keys.layer, EvictingLayer):
            raise UserError(
                f"{self.method.label} drops keys from the KV cache after the prompt, which this one cannot; "
                "pass past_key_values=DynamicCache() from the first call on."
            )
        return self.keys.layer

    def _content(self, q_HTD: Tensor, row: int, of: Row) -> Content:
        k_KSD, v_KSD = (x[row, :, of.pad :] for x in (self.keys.k_BKSD, self.keys.v_BKSD))
        rope, tables = self.scoring.rope, self.scoring.tables
        turned, ways = RotatedKeyCache(k_KSD.shape[1]), Ways()

        def turned_keys(piece: Piece, start: int, stop: int) -> Tensor:
            if rope.rotary is None:
                return k_KSD[:, start:stop]
            way = ways.find(piece.k_pos, start, stop)
            return turned.keys(k_KSD[None], way, start, stop, partial(tables.rotate, rope=rope))[0]

        def plan(first: int, end: int) -> list[Piece]:
            method = self.method.for_prompt(of.prompt)
            return method.pieces(torch.arange(first, end), torch.arange(end), self.layer)

        return Content(
            q_HTD,
            k_KSD,
            v_KSD,
            of.view.pieces,
            plan,
            lambda x, positions: tables.rotate(x[None], positions, rope)[0],
            turned_keys,
            self.scoring.scale,
            self.scoring.softcap,
            self.scoring.sinks_H,
        )

    def _recall(self, q_HTD: Tensor, row: int, of: Row, asks: bool) -> Tensor:
        """Attention of one row's queries over the recalled blocks of keys; in the answer, each query has its own."""
        content = self._content(q_HTD, row, of)
        layer = self.keys.layer if isinstance(self.keys.layer, ObservingLayer) else None
        seen, outs = None if layer is None else layer.seen.get(row), []
        if asks:
            selection, seen = self.method.recall(content, self.layer, seen, answer=False)
            outs = [self._sparse(content, selection)]
        else:
            gathered = Gathered(self.keys, slice(row, row + 1), of.pad, self.scoring)
            content = replace(content, turned_keys=gathered.turned_keys)
            for t in range(q_HTD.shape[1]):
                query = content.only(slice(t, t + 1))
                selection, seen = self.method.recall(query, self.layer, seen, answer=True)
                outs.append(self._gather(query, selection, gathered))
        if layer is not None:
            layer.seen[row] = seen
        return torch.cat(outs, dim=1)

    def _gather(self, content: Content, selection: Selection, gathered: Gathered) -> Tensor:
        """Attention of one query over blocks that are the same for all heads."""
        j = torch.arange(content.length)
        at = j[selection.blocks_HMN[0, 0, j // selection.size]]
        shown = [piece for piece in content.pieces if not piece.empty]
        return gathered.read(content.q_HTD[None], at.expand(1, len(content.k_KSD), -1), shown)[0]

    def _sparse(self, content: Content, selection: Selection) -> Tensor:
        self.scoring.selector.note(SPARSE)
        out, read, shown = sparse_attention(content, selection)
        if self.cache is not None:
            before = getattr(self.cache, "pairs", (0, 0))
            self.cache.pairs = (before[0] + read, before[1] + shown)
        return out


def kept_keys(cache: Cache) -> float | None:
    """The mean number of prompt keys that a KV head of the cache keeps; None if no layer drops any."""
    kept = [layer.kept for layer in cache.layers if isinstance(layer, EvictingLayer) and layer.kept is not None]
    return round(sum(kept) / len(kept), 3) if kept else None


def density(cache: Cache) -> float | None:
    """The share (0 to 1) of query-key pairs in the method's pieces that was computed so far for a cache, over the
    layers that select keys; None if no layer did."""
    read, shown = getattr(cache, "pairs", (0, 0))
    return round(read / shown, 6) if shown else None
