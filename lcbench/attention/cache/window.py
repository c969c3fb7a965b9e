"""KV cache layers for methods that drop keys: a local window, and an optional memory.

`transformers` keeps every key of every layer; these drop keys that no later query sees. They replace the layers of an
empty `DynamicCache`, so that `generate()` and every other caller uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from lcbench.attention.cache.buffer import Buffer
from lcbench.attention.cache.growing import GrowingLayer, drop_keys
from lcbench.core.errors import UserError
from lcbench.methods.pieces import Memory

CONVERTED_AT_ONCE = 2**28  # bytes of keys and values converted from another dtype per step; at least one head
EVERY_HEAD = slice(None)
GONE = "this KV cache has dropped keys that these queries need and cannot be cropped so far; start a new one."


class MemoryStore:
    """Keys and values [B, K, length, D] that left the window, in the memory's dtype on its device."""

    def __init__(self, memory: Memory, size: int = 0) -> None:
        """`size` is the expected number of keys."""
        self.memory, self.size = memory, size
        self._keys, self._values = Buffer(size, memory), Buffer(size, memory)
        self.searches: dict[int, Any] = {}  # one search index per row of the batch

    @property
    def length(self) -> int:
        return self._keys.length

    @property
    def keys(self) -> Tensor:
        return self._keys.rows

    @property
    def values(self) -> Tensor:
        return self._values.rows

    def take(self, k_BKSD: Tensor, v_BKSD: Tensor, first: int, stop: int) -> None:
        """Append the keys before position `stop` that are not stored yet; those given start at position `first`."""
        for buffer, x in ((self._keys, k_BKSD), (self._values, v_BKSD)):
            if stop > buffer.length:
                buffer.append(x[:, :, buffer.length - first : stop - first])

    def truncate(self, length: int) -> None:
        """Drop keys and values from position `length` on."""
        if length < self.length:
            self._keys.length = self._values.length = length
            self.searches.clear()

    @classmethod
    def stack(cls, stores: Sequence[MemoryStore]) -> MemoryStore:
        """One store for the rows of several stores of equal length and options."""
        whole = cls(stores[0].memory, stores[0].size)
        if stores[0].length:
            whole._keys.append(torch.cat([store.keys for store in stores]))
            whole._values.append(torch.cat([store.values for store in stores]))
        whole.searches = {row: store.searches[0] for row, store in enumerate(stores) if store.searches}
        return whole

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may occur several times."""
        self._keys.select(rows)
        self._values.select(rows)
        # An index grows in place and cannot be shared: rows that occur twice build new ones.
        kept = rows.tolist()
        self.searches = {n: self.searches[row] for n, row in enumerate(kept) if row in self.searches}
        if len(set(kept)) < len(kept):
            self.searches.clear()


@dataclass(frozen=True)
class Keys:
    """All keys of a call: k [B, K, S, D] and v [B, K, S, Dv] of the KV cache, the first at position `first` of the
    sequence, padding included; before them those in the layer's memory `store`, if any. `layer` is their cache layer,
    if it can cache rotated keys. Attention uses the KV heads `heads`."""

    k_BKSD: Tensor
    v_BKSD: Tensor
    first: int
    store: MemoryStore | None = None
    layer: GrowingLayer | None = None
    heads: slice = field(default_factory=lambda: EVERY_HEAD)

    def storage(self, q_BHTD: Tensor) -> Memory | None:
        """Dtype and device of the layer's keys, and the heads to convert at a time; None if those of the queries."""
        storage = None if self.layer is None else self.layer.storage
        if storage is None:
            return None
        K, S = self.k_BKSD[:, self.heads].shape[1:3]
        of_a_head = 2 * len(q_BHTD) * S * q_BHTD.shape[-1] * q_BHTD.itemsize
        # One head of a buffer is contiguous, several are not and would be copied in RAM before a transfer to the GPU.
        at_once = 1 if storage.device is not None else max(1, min(K, CONVERTED_AT_ONCE // of_a_head))
        return replace(storage, heads=at_once * (q_BHTD.shape[1] // K))

    def origin(self, pad: int) -> int:
        """The first key that is available to a row with `pad` padding positions."""
        return max(self.first - pad, 0) if self.store is None else 0


class WindowLayer(DynamicLayer):  # type: ignore[misc]
    """The keys of one layer from position `first` on, and earlier keys in `store` if the layer has a memory."""

    keys: Tensor
    values: Tensor

    def __init__(self, memory: Memory | None = None, size: int = 0) -> None:
        """`size` is the expected number of keys."""
        super().__init__()
        self.first = 0
        self.store = None if memory is None else MemoryStore(memory, size)

    def get_seq_length(self) -> int:
        """Number of tokens so far, dropped ones included."""
        return self.first + int(super().get_seq_length())

    def release(self, first: int) -> None:
        """Drop the keys before position `first` of the sequence (padding included), or move them to the store."""
        if first <= self.first:
            return
        gone = first - self.first
        if self.store is not None:
            self.store.take(self.keys, self.values, self.first, first)
        # A copy, since a view would keep the whole tensor alive.
        self.keys, self.values = self.keys[:, :, gone:].clone(), self.values[:, :, gone:].clone()
        self.first = first

    def crop(self, tokens_to_remove: int) -> None:
        """Raises: UserError for tokens that were dropped already."""
        if self.is_initialized and -tokens_to_remove > self.keys.shape[2]:
            raise UserError(
                f"this KV cache keeps the last {self.keys.shape[2]} tokens of a layer and cannot be cropped by "
                f"{-tokens_to_remove}; start a new one."
            )
        super().crop(tokens_to_remove)
        if self.store is not None:
            self.store.truncate(self.get_seq_length())

    def reset(self) -> None:
        drop_keys(self)
        super().reset()
        self.first = 0
        self.store = None if self.store is None else MemoryStore(self.store.memory, self.store.size)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._select(torch.arange(len(self.keys)).repeat_interleave(repeats))
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._select(torch.arange(len(self.keys))[indices.cpu()])
        super().batch_select_indices(indices)

    def _select(self, rows: Tensor) -> None:
        if self.store is not None and self.store.length:
            self.store.select(rows)
