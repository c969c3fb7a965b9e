"""The KV caches of several prompts as one, so that their answers are decoded as one batch.

A decode step reads all weights for one token per row: many rows cost little more than one. Prefill gains nothing from
a batch, and prompts with a common prefix share its prefill only if they are processed one after another.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, cat, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lcbench.attention.cache.evicting import EvictingLayer
from lcbench.attention.cache.growing import GrowingLayer
from lcbench.attention.cache.observing import ObservingLayer
from lcbench.attention.cache.window import MemoryStore, WindowLayer
from lcbench.engine.new_cache import with_lengths

WHOLE = (DynamicLayer, GrowingLayer, ObservingLayer, EvictingLayer)  # rows can be padded at the left
WINDOWS = (WindowLayer, DynamicSlidingWindowLayer)  # one position in the sequence for all rows


def batches(cache: DynamicCache, lengths: Sequence[int]) -> list[list[int]]:
    """Split prompts, given by their lengths, into batches (lists of indices) that can share a cache of this type: all
    in one; one per length; or, for layers with other states than keys and values, one prompt per batch."""
    types = {type(layer) for layer in cache.layers}
    if types.issubset(WHOLE):
        return [list(range(len(lengths)))]
    if types.issubset(WHOLE + WINDOWS):
        return [[n for n, length in enumerate(lengths) if length == one] for one in dict.fromkeys(lengths)]
    return [[n] for n in range(len(lengths))]


def snapshot(cache: DynamicCache) -> DynamicCache:
    """A copy of a cache that keeps every key; later updates of the original do not change it."""
    kept = copy.copy(cache)
    kept.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in kept.layers:
        if isinstance(layer, GrowingLayer):
            layer.leave_buffers()
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
    return kept


def join_caches(caches: Sequence[DynamicCache], lengths: Sequence[int]) -> DynamicCache:
    """One cache [B, K, S, D] of caches [1, K, n, D] that hold prompts of these lengths n <= S; rows are padded
    at the left. The given caches are emptied layer by layer, so that at most one layer is in memory twice."""
    if len(caches) == 1:
        return caches[0]
    size = max(cache.expected_length for cache in caches)
    whole = with_lengths(copy.copy(caches[0]), max(lengths), size)
    pads = [max(lengths) - length for length in lengths]
    whole.layers = []
    while caches[0].layers:
        whole.layers.append(_join_layers([cache.layers.pop(0) for cache in caches], pads, max(lengths), size))
    return whole


def _join_layers(layers: list[Any], pads: Sequence[int], length: int, size: int) -> Any:
    first = layers[0]
    if not first.is_initialized:  # this layer uses the keys of another one
        return first
    if isinstance(first, EvictingLayer):
        return EvictingLayer.stack(layers, length, size)
    keys, values = (_stacked([getattr(layer, name) for layer in layers], pads) for name in ("keys", "values"))
    if isinstance(first, ObservingLayer):
        observing = ObservingLayer(size)
        observing.update(keys, values)
        observing.seen = {n: layer.seen[0] for n, layer in enumerate(layers)}
        return observing
    if isinstance(first, GrowingLayer):
        growing = GrowingLayer(size, first.storage)
        growing.update(keys, values)
        return growing
    layer = copy.copy(first)
    layer.keys, layer.values = keys, values
    if isinstance(layer, WindowLayer) and layer.store is not None:
        layer.store = MemoryStore.stack([other.store for other in layers])
    return layer


def _stacked(rows: Sequence[Tensor], pads: Sequence[int]) -> Tensor:
    """Rows [1, K, n, D], each with its number of padding positions -> [B, K, S, D], left-padded."""
    return cat([nn.functional.pad(row, (0, 0, pad, 0)) for row, pad in zip(rows, pads)])
