"""The KV cache of the current forward pass."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lcbench.attention.cache.evicting import EvictingLayer
from lcbench.attention.cache.growing import GrowingLayer
from lcbench.attention.cache.observing import ObservingLayer
from lcbench.attention.cache.window import MemoryStore, WindowLayer
from lcbench.attention.mask import Span
from lcbench.core.errors import UserError
from lcbench.methods import Method
from lcbench.methods.pieces import Memory, Piece

logger = logging.getLogger("lcbench")


class CacheWatch:
    """The KV cache of the current forward pass in a steered block.

    A cache has attributes, which its copies keep: `unrotated_keys`, and the length of its prompt, `prompt_length` if
    the caller set it (prefill in several calls), else `first_call`.
    """

    def __init__(
        self, method: Method, layers: list[nn.Module], config: PretrainedConfig, storage: Memory | None = None
    ) -> None:
        """`layers` are those with full attention; sliding-window layers keep the model's own cache layers. `storage` is
        the dtype and device of the keys of `layers`, None for the model's.

        Raises: UserError for a `storage` with a method that drops keys.
        """
        if storage is not None and method.forgets:
            raise UserError(
                f"{method.label} drops keys and does not support a KV cache in another dtype or place; for a "
                "method with memory, set mem_dtype or mem_device."
            )
        self.method, self.layers, self.config, self.storage = method, layers, config, storage
        self.cache: Cache | None = None
        self.span: Span | None = None
        self.positions_given = True  # by the caller of the forward pass, as far as it is known
        self._warned = False

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Before a forward pass: drop keys from its cache that no later query sees, if the method `forgets`.

        They are dropped only here, so that a cache can still be cropped after a pass (rejected drafts).

        Raises: UserError for a cache that was filled outside of a block, with rotated keys.
        """
        kwargs = {**dict(zip(_names(type(model).forward), args, strict=False)), **kwargs}
        cache = kwargs.get("past_key_values")
        self.positions_given = kwargs.get("position_ids") is not None
        if isinstance(cache, Cache) and not _is_empty(cache) and not getattr(cache, "unrotated_keys", False):
            raise UserError("this KV cache was filled outside the block, with rotated keys; start with an empty one.")
        if isinstance(cache, Cache):
            self.cache = cache
            if _is_empty(cache):
                cache.first_call = None
            self._take_over(cache)
            if self.method.forgets:
                self._let_forget(cache)
        return (), kwargs

    def end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """After a forward pass: set the attributes of its cache."""
        cache, span = getattr(output, "past_key_values", None), self.span
        if isinstance(cache, Cache) and span is not None:
            cache.unrotated_keys = True
            cache.first_call = getattr(cache, "first_call", None) or span.q_offset + span.q_length
            cache.pads = set(span.pads)
            if self.cache is None:
                self._replace_layers(cache)
        self.cache = self.span = None
        self.positions_given = True

    def store(self, module: nn.Module, heads: int) -> MemoryStore | None:
        """The memory of a layer, if any. Raises: UserError if its number of heads is not that of attention."""
        layer = self._window_layer(self.cache, module) if self.cache is not None else None
        store = None if layer is None else layer.store
        if store is not None and store.length and store.keys.shape[1] != heads:
            raise UserError(
                "this model changes the number of key heads after the KV cache; pass past_key_values=StaticCache(...)."
            )
        return store

    def growing(self, module: nn.Module) -> GrowingLayer | None:
        """The cache layer of a layer, if it is a `GrowingLayer`.

        Raises: UserError if it stores keys in another dtype or on another device than this block.
        """
        index = layer_index(module)
        layer = self.cache.layers[index] if self.cache is not None and index < len(self.cache.layers) else None
        growing = layer if isinstance(layer, GrowingLayer) else None
        if layer is not None and self.span is not None and self.span.q_offset:
            self._warn_once(layer, module)
        if module in self.layers and (growing.storage if growing else None) != self.storage:
            raise UserError(
                "this KV cache cannot store keys as this block does, or was filled by one that stores them otherwise; "
                "pass past_key_values=DynamicCache()."
            )
        return growing

    def _warn_once(self, layer: Any, module: nn.Module) -> None:
        """Warn once per block about a cache that is slow."""
        if not self._warned and module in self.layers and not isinstance(layer, GrowingLayer | WindowLayer):
            self._warned = True
            logger.warning(
                "this %s keeps no rotated keys, so that all of them are rotated for every token; "
                "past_key_values=DynamicCache() is faster.",
                type(self.cache).__name__,
            )

    def prompt(self, pad: int) -> int | None:
        """Length in tokens of the prompt of a row with `pad` padding positions, None if unknown."""
        known = getattr(self.cache, "prompt_length", None) or getattr(self.cache, "first_call", None)
        if known is None and self.span is not None and self.span.q_offset == 0:
            known = self.span.q_length
        return None if known is None else max(known - pad, 0)

    def memory(self, module: nn.Module) -> Memory | None:
        """The memory for keys of a layer that leave its window, None if there is none."""
        memories = [piece.memory for piece in self._pieces(module, position=0, prompt=1) if piece.memory is not None]
        return memories[0] if memories else None

    def _take_over(self, cache: Cache) -> None:
        """Replace the layers of an empty `DynamicCache`: by `WindowLayer` if the method drops keys by their place, by
        `EvictingLayer` if it drops some after the prompt, by `ObservingLayer` if it recalls some, else by
        `GrowingLayer`.
        """
        if type(cache) is not DynamicCache or not _is_empty(cache):
            return
        if not cache.layers:
            cache.layers, cache.layer_class_to_replicate = DynamicCache(config=self.config).layers, None
        self._replace_layers(cache)

    def _replace_layers(self, cache: Cache) -> None:
        """Replace the layers of a `DynamicCache`, with the keys in them: it is empty, or the model made it itself in
        its first forward pass. `cache.expected_length`, if set, is the size of their buffers.

        Static, quantised and offloaded caches stay as they are, which costs time and memory but changes no result.
        """
        if type(cache) is not DynamicCache or cache.offloading:
            return
        size = getattr(cache, "expected_length", 0)
        # A window that hides no key of the run is full attention, but the model's own cache layer would drop keys.
        no_more_than_keys = (
            DynamicLayer, DynamicSlidingWindowLayer, WindowLayer, EvictingLayer, ObservingLayer, GrowingLayer,
        )  # fmt: skip
        for module in self.layers:
            index = layer_index(module)
            # Gemma 3n's last layers use the keys of others: in transformers 5.17 they have no cache layers.
            if index < len(cache.layers) and type(cache.layers[index]) in no_more_than_keys:
                layer, held = self._new_layer(module, size), cache.layers[index]
                if held.is_initialized and held.get_seq_length():
                    if held.keys.shape[2] < held.get_seq_length():
                        continue  # some keys were dropped already: the run has reached the window
                    layer.lazy_initialization(held.keys, held.values)
                    layer.keys, layer.values = held.keys, held.values
                cache.layers[index] = layer

    def _new_layer(self, module: nn.Module, size: int) -> DynamicLayer:
        if self.method.forgets:
            return WindowLayer(self.memory(module), size)
        if "recall" in self.method.hooks:
            return ObservingLayer(size)
        return EvictingLayer(size) if self.method.evicts else GrowingLayer(size, self.storage)

    def _let_forget(self, cache: Cache) -> None:
        """Drop keys that no later query sees. Raises: UserError for a cache with another memory."""
        for module in self.layers:
            layer = self._window_layer(cache, module)
            if layer is not None and (layer.store and layer.store.memory) != self.memory(module):
                raise UserError("this KV cache was filled under other memory options; start with an empty one.")
            if layer is not None and layer.is_initialized:
                layer.release(
                    min(self._first_needed(module, layer.get_seq_length(), pad) for pad in getattr(cache, "pads", {0}))
                )

    def _window_layer(self, cache: Cache, module: nn.Module) -> WindowLayer | None:
        index = layer_index(module)
        layer = cache.layers[index] if self.method.forgets and index < len(cache.layers) else None
        return layer if isinstance(layer, WindowLayer) else None

    def _first_needed(self, module: nn.Module, position: int, pad: int) -> int:
        """The first key that queries from `position` on see and that is not in memory; positions include padding."""
        pieces = self._pieces(module, max(position - pad, 0), self.prompt(pad))
        return pad + min(int(piece.start) for piece in pieces if piece.memory is None and not piece.empty)

    def _pieces(self, module: nn.Module, position: int, prompt: int | None) -> list[Piece]:
        """The pieces of the query at one position."""
        i = torch.tensor([position])
        return self.method.for_prompt(prompt).pieces(i, i, layer_index(module))


@cache
def _names(method: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the arguments of a method of a class, in order."""
    return tuple(inspect.signature(method).parameters)[1:]


def layer_index(module: nn.Module) -> int:
    """The number of an attention layer in its model."""
    return int(str(module.layer_idx))


def _is_empty(cache: Cache) -> bool:
    """Whether no layer has tokens; layers with other states, or that share another's keys, are ignored."""
    return not any(layer.is_initialized and layer.get_seq_length() for layer in cache.layers if _counts(layer))


def _counts(layer: Any) -> bool:
    return hasattr(layer, "keys") and hasattr(layer, "get_seq_length")
