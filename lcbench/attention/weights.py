"""The attention weights of one query over all keys, which backends compute but do not return.

Only the last query of a call has them, so that memory is linear in the number of keys, not quadratic.
Letters of the shape suffixes: `lcbench.attention.rope`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lcbench.attention.attend import Scoring, stored
from lcbench.attention.cache.buffer import rounded
from lcbench.attention.cache.window import Keys
from lcbench.attention.rope import ROWS_AT_ONCE
from lcbench.methods.pieces import Piece


@dataclass(frozen=True, eq=False)
class LastQuery:
    """The last query of an attention call, at `position` of the sequence: un-rotated q [1, H, 1, D] with the score
    factor applied; the keys, and the pieces that show them; and the output [1, H, 1, Dv] that was computed for it.

    The batch is one row without padding.
    """

    layer: int
    position: int
    q_BHTD: Tensor
    keys: Keys
    pieces: list[Piece]
    scoring: Scoring
    out_BHTD: Tensor

    @property
    def kv_heads(self) -> int:
        return self.keys.k_BKSD.shape[1]

    @torch.no_grad()
    def weights(self) -> Tensor:
        """The weights [H, n] of all n = position + 1 keys, in float64, from scores in at least float32.

        A row sums to 1, or to less in a layer whose softmax has a sink of its own (GPT-OSS).
        """
        H, n = self.q_BHTD.shape[1], self.position + 1
        scores_KGS = self.q_BHTD.new_full((self.kv_heads, H // self.kv_heads, n), -torch.inf, dtype=torch.float64)
        for piece, first, k_BKSD, _ in self._shown():
            heads = [head for head in range(self.kv_heads) if piece.holds_for(head)]
            rope, tables = self.scoring.rope, self.scoring.tables
            q = tables.rotate(self.q_BHTD.to(k_BKSD.dtype), piece.q_pos, rope)[0]
            k = tables.rotate(k_BKSD, piece.k_pos, rope)[0]
            products = q.reshape(self.kv_heads, -1, q.shape[-1]) @ k.transpose(-1, -2) * self.scoring.scale
            if (softcap := self.scoring.softcap) is not None:
                products = torch.tanh(products / softcap) * softcap
            scores_KGS[heads, :, first : first + k.shape[1]] = products[heads].double()
        scores_HS = scores_KGS.view(H, n)
        if (sinks_H := self.scoring.sinks_H) is not None:
            scores_HS = torch.cat([scores_HS, sinks_H.double()[:, None]], dim=-1)
        return scores_HS.softmax(-1)[:, :n]

    @torch.no_grad()
    def output(self, weights_HS: Tensor) -> Tensor:
        """The weighted sum [H, Dv] of the values: the output of attention for the query."""
        out_KGD = weights_HS.new_zeros(self.kv_heads, len(weights_HS) // self.kv_heads, self.out_BHTD.shape[-1])
        weights_KGS = weights_HS.view(self.kv_heads, -1, weights_HS.shape[-1])
        for piece, first, _, v_BKSD in self._shown():
            heads = [head for head in range(self.kv_heads) if piece.holds_for(head)]
            shown = weights_KGS[heads, :, first : first + v_BKSD.shape[2]]
            out_KGD[heads] += (shown.to(v_BKSD.dtype) @ v_BKSD[0, heads]).double()
        return out_KGD.view(len(weights_HS), -1)

    def distances(self, keys: range, kv_head: int) -> Tensor:
        """The distances in tokens, float64, from the query back to each of the keys, by the positions to which a KV
        head rotates both; keys that the query does not see are left out."""
        unit, found = self.scoring.tables.method.position_unit, []
        origin = self.keys.origin(0)
        for piece in self.pieces:
            start, stop = max(int(piece.start), keys.start), min(int(piece.stop), keys.stop)
            if start < stop and piece.holds_for(kv_head):
                found.append((piece.q_pos - piece.k_pos[start - origin : stop - origin]).double() / unit)
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def _shown(self) -> Iterator[tuple[Piece, int, Tensor, Tensor]]:
        """Every piece with its keys and values in at least float32, un-rotated, in steps of ROWS_AT_ONCE, and the
        position of the first key of each step."""
        wide, device = torch.promote_types(self.q_BHTD.dtype, torch.float32), self.q_BHTD.device
        for k_BKSD, v_BKSD, first, _ in stored(self.keys, slice(0, 1), 0):
            for begin in range(first, first + k_BKSD.shape[2], ROWS_AT_ONCE):
                end = min(begin + ROWS_AT_ONCE, first + k_BKSD.shape[2])
                for piece in self.pieces:
                    start, stop = max(int(piece.start), begin), min(int(piece.stop), end)
                    if start >= stop:
                        continue
                    dtype = piece.memory.dtype if piece.memory else None
                    k, v = (
                        rounded(x[:, :, start - first : stop - first], dtype).to(device, wide) for x in (k_BKSD, v_BKSD)
                    )
                    yield piece.of_keys(start, stop, self.keys.origin(0)), start, k, v


Observer = Callable[[LastQuery], None]
