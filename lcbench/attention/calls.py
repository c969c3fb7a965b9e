"""One attention call in a steered block: the queries, keys and values of one layer in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig

from lcbench.attention.attend import Scoring, attend
from lcbench.attention.backends.dispatch import BackendSelector
from lcbench.attention.cache.watch import CacheWatch, layer_index
from lcbench.attention.cache.window import Keys
from lcbench.attention.content import ContentCall, Row
from lcbench.attention.mask import Span
from lcbench.attention.reach import Reach
from lcbench.attention.rope import RopeTables
from lcbench.attention.views import View, Views
from lcbench.attention.weights import LastQuery, Observer
from lcbench.core.errors import UserError


@dataclass(eq=False)
class Calls:
    """Attention calls of one steered block. `chooses`: whether the method selects keys by content."""

    config: PretrainedConfig
    reach: Reach
    tables: RopeTables
    caches: CacheWatch
    selector: BackendSelector
    chooses: bool

    def __post_init__(self) -> None:
        self.method = self.reach.method
        self._layerwise, self._headwise, self._evicts = self.method.layerwise, self.method.headwise, self.method.evicts
        self.views = Views(self.reach.name, self.method, self.reach.lengths, self.tables.ways)

    def attend(
        self, module: nn.Module, span: Span, q: Tensor, k: Tensor, v: Tensor, observer: Observer | None, **scores: Any
    ) -> Tensor:
        """Un-rotated q [B, H, T, D], k and v [B, K, S, D] -> [B, T, H, D]; the output of padded queries is 0.

        `k` and `v` end with this call's tokens (a static cache may have unused rows after them); the cache may have
        dropped earlier tokens. `observer` is called with the last query if the batch is one row without padding.
        `scores` as in `Scoring`.
        """
        keys = self._keys(module, span, k, v)
        layer, index = self.reach.layers[module], layer_index(module) if self._layerwise else 0
        scoring = Scoring(layer.rope, self.tables, selector=self.selector, **scores)
        content = self._content(module, keys, scoring)
        if self._headwise:
            self._require_all_heads(k.shape[1])
        # If all rows are one slice without padded queries, as in decode, its output is the whole output.
        out = None if span.whole else q.new_zeros(*q.shape[:3], v.shape[-1])
        for rows, pad in span.rows:
            first_query = max(0, pad - span.q_offset)
            i0, i1 = span.q_offset + first_query - pad, span.q_offset + span.q_length - pad
            if i0 >= i1:
                continue
            prompt = self.caches.prompt(pad)
            view = self.views.of(i0, i1, keys.origin(pad), layer.window, index, prompt, q.device, q.dtype)
            queries = q if span.whole else q[rows, :, first_query:]
            if view.factor_T1 is not None:
                queries = queries * view.factor_T1
            if content is None:
                answer = attend(queries, keys, view.pieces, rows, pad, scoring, view.look)
            else:
                answer = content.attend(queries, Row(rows, pad, view, prompt))
            if observer is not None and len(q) == 1 and not pad:
                observer(_last(layer_index(module), i1 - 1, queries, keys, view, scoring, answer))
            if out is None:
                out = answer
            else:
                out[rows, :, first_query:] = answer
        if content is not None:
            content.end(span.pads)
        assert out is not None  # the one slice of a whole span has queries
        return out.transpose(1, 2).contiguous()

    def _keys(self, module: nn.Module, span: Span, k: Tensor, v: Tensor) -> Keys:
        """The keys of a call, with the stores of the layer's earlier keys."""
        total = span.q_offset + span.q_length
        computed_by = self.reach.layers[module].keys_of or module
        store, growing = self.caches.store(computed_by, k.shape[1]), self.caches.growing(computed_by)
        if k.shape[2] > total:
            k, v = k[:, :, :total], v[:, :, :total]
        # Eviction leaves gaps, so positions cannot be counted back from the last key: such a layer records each.
        first = 0 if self._evicts and growing is not None else total - k.shape[2]
        return Keys(k, v, first, store, growing)

    def _content(self, module: nn.Module, keys: Keys, scoring: Scoring) -> ContentCall | None:
        """The call for a method that selects keys by content; None in the model's own sliding-window layers."""
        if not self.chooses or module not in self.reach.full:
            return None
        return ContentCall(self.method, layer_index(module), keys, scoring, self.caches.cache)

    def _require_all_heads(self, kv_heads: int) -> None:
        """Raises: UserError if attention does not get exactly the model's KV heads: some are missing, or repeated."""
        expected = getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads
        if kv_heads != expected:
            raise UserError(
                f"{self.method.label} treats KV heads differently, and attention of {self.reach.name} gets {kv_heads} "
                f"of them here instead of {expected}; run the model on one device."
            )


def _last(
    layer: int, position: int, q_BHTD: Tensor, keys: Keys, view: View, scoring: Scoring, out_BHTD: Tensor
) -> LastQuery:
    """The last query of a call, at `position`, and the output computed for it."""
    last = slice(-1, None)
    shown = [piece.of_queries(last) for piece in view.pieces]
    return LastQuery(layer, position, q_BHTD[:, :, last], keys, shown, scoring, out_BHTD[:, :, last])
