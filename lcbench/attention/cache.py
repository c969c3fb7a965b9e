"""KV cache layers for methods that forget: a local window, and a memory beside it.

`transformers` keeps every key of every layer; these let go of what no later query sees. They take the place of the
layers of an empty `DynamicCache`, so that `generate()` and every other caller gets them without asking.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

from lcbench.attention.mask import Span
from lcbench.attention.pieces import Memory, Piece
from lcbench.attention.room import GrowingLayer, Room
from lcbench.errors import UserError
from lcbench.methods import Method

CONVERTED_AT_ONCE = 2**28  # bytes of keys and values that are held in another dtype, at least those of one head
GONE = "this KV cache let go of keys that these queries need, it cannot go back so far; start a new one."


class MemoryStore:
    """Keys and values that left the window: keys, values [B, K, length, D], in the memory's dtype on its device."""

    def __init__(self, memory: Memory, size: int = 0) -> None:
        """`size` is how many keys are expected."""
        self.memory, self.size = memory, size
        self._keys, self._values = Room(size, memory), Room(size, memory)
        self.searches: dict[int, Any] = {}  # a search index a row of the batch

    @property
    def length(self) -> int:
        return self._keys.length

    @property
    def keys(self) -> Tensor:
        return self._keys.rows

    @property
    def values(self) -> Tensor:
        return self._values.rows

    def take(self, k_BKSD: Tensor, v_BKSD: Tensor, first: int, last: int) -> None:
        """Take in what is not here yet before position `last`; the given keys and values begin at position `first`."""
        for room, x in ((self._keys, k_BKSD), (self._values, v_BKSD)):
            if last > room.length:
                room.append(x[:, :, room.length - first : last - first])

    def truncate(self, length: int) -> None:
        """Forget what is at position `length` and behind it."""
        if length < self.length:
            self._keys.length = self._values.length = length
            self.searches.clear()

    @classmethod
    def joined(cls, stores: Sequence[MemoryStore]) -> MemoryStore:
        """One for the rows of several of equal length that hold alike."""
        whole = cls(stores[0].memory, stores[0].size)
        if stores[0].length:
            whole._keys.append(torch.cat([store.keys for store in stores]))
            whole._values.append(torch.cat([store.values for store in stores]))
        whole.searches = {row: store.searches[0] for row, store in enumerate(stores) if store.searches}
        return whole

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order, some perhaps several times."""
        self._keys.select(rows)
        self._values.select(rows)
        # An index grows in place: a row that is there twice makes its own anew.
        kept = rows.tolist()
        self.searches = {n: self.searches[row] for n, row in enumerate(kept) if row in self.searches}
        if len(set(kept)) < len(kept):
            self.searches.clear()


@dataclass(frozen=True)
class Keys:
    """All keys of a call: live ones k [B, K, S, D] and v [B, K, S, Dv], the first at position `first` of the sequence,
    padding counted; before them those that the layer's memory took in, if it has one. `layer` is the cache layer that
    keeps all of them, if it may keep them rotated too."""

    k_BKSD: Tensor
    v_BKSD: Tensor
    first: int
    store: MemoryStore | None = None
    layer: GrowingLayer | None = None

    def held(self, q_BHTD: Tensor) -> Memory | None:
        """How the layer holds its keys, if not as queries are: converted for these a few heads at a time."""
        held = None if self.layer is None else self.layer.held
        if held is None:
            return None
        K, S = self.k_BKSD.shape[1:3]
        of_a_head = 2 * len(q_BHTD) * S * q_BHTD.shape[-1] * q_BHTD.itemsize
        # One head of a room is contiguous, several are not: only one goes over to the GPU without a copy in RAM.
        at_once = 1 if held.device is not None else max(1, min(K, CONVERTED_AT_ONCE // of_a_head))
        return replace(held, heads=at_once * (q_BHTD.shape[1] // K))

    def origin(self, pad: int) -> int:
        """The first key that a row with so much padding can still see."""
        return max(self.first - pad, 0) if self.store is None else 0


class WindowLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys from `first` on, and what went before in `store`, if the layer has a memory."""

    keys: Tensor
    values: Tensor

    def __init__(self, memory: Memory | None = None, size: int = 0) -> None:
        """`size` is how many keys are expected."""
        super().__init__()
        self.first = 0
        self.store = None if memory is None else MemoryStore(memory, size)

    def get_seq_length(self) -> int:
        """How many tokens came in, kept or not."""
        return self.first + int(super().get_seq_length())

    def release(self, first: int) -> None:
        """Let go of the keys before position `first` of the sequence, padding counted; the store takes them in."""
        if first <= self.first:
            return
        gone = first - self.first
        if self.store is not None:
            self.store.take(self.keys, self.values, self.first, first)
        # A copy: a view would keep all of it alive.
        self.keys, self.values = self.keys[:, :, gone:].clone(), self.values[:, :, gone:].clone()
        self.first = first

    def crop(self, tokens_to_remove: int) -> None:
        """Raises: UserError for tokens that the window let go of already."""
        if self.is_initialized and -tokens_to_remove > self.keys.shape[2]:
            raise UserError(
                f"this KV cache keeps the last {self.keys.shape[2]} tokens of a layer and cannot go back by "
                f"{-tokens_to_remove}; start a new one."
            )
        super().crop(tokens_to_remove)
        if self.store is not None:
            self.store.truncate(self.get_seq_length())

    def reset(self) -> None:
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


class CacheWatch:
    """What a steered block knows of the KV cache of the forward pass that is under way.

    A cache tells by attributes, which its copies keep, that its keys are un-rotated and how long its prompt is:
    `prompt_length` where the caller said so (prefill in several calls), else `first_call`.
    """

    def __init__(
        self, method: Method, layers: list[nn.Module], config: PretrainedConfig, held: Memory | None = None
    ) -> None:
        """`layers` are those with full attention; a sliding-window layer forgets in its own way, and holds what it
        keeps as the model does. `held` is how the others hold it.

        Raises: UserError for a method that lets go of keys: it has ways of its own.
        """
        if held is not None and method.forgets:
            raise UserError(
                f"{method.label} lets go of keys, so that a KV cache in another dtype or place is not for it; its "
                "memory, if it has one, has options: mem_dtype, mem_device."
            )
        self.method, self.layers, self.config, self.held = method, layers, config, held
        self.cache: Cache | None = None
        self.span: Span | None = None

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Before a forward pass: let its cache forget, if the method does.

        What no query will see is released only here, so that drafts that were taken back have cost nothing.
        Raises: UserError for a cache that was filled outside: its keys are rotated already, those of a block are not.
        """
        names = list(inspect.signature(model.forward).parameters) if args else []
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        cache = kwargs.get("past_key_values")
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
        """After it: mark the cache. A failed pass has no output."""
        cache, span = getattr(output, "past_key_values", None), self.span
        if isinstance(cache, Cache) and span is not None:
            cache.unrotated_keys = True
            cache.first_call = getattr(cache, "first_call", None) or span.q_offset + span.q_length
            cache.pads = set(span.pads)
        self.cache = self.span = None

    def store(self, module: nn.Module, heads: int) -> MemoryStore | None:
        """The memory of a layer, if it has one. Raises: UserError if it took in other heads than attention sees."""
        layer = self._window_layer(self.cache, module) if self.cache is not None else None
        store = None if layer is None else layer.store
        if store is not None and store.length and store.keys.shape[1] != heads:
            raise UserError("this model changes its keys behind the KV cache; pass past_key_values=StaticCache(...).")
        return store

    def growing(self, module: nn.Module) -> GrowingLayer | None:
        """The cache layer of a layer, if it is one that keeps rotated keys.

        Raises: UserError if it holds keys in another dtype or place than this block says.
        """
        index = layer_index(module)
        layer = self.cache.layers[index] if self.cache is not None and index < len(self.cache.layers) else None
        growing = layer if isinstance(layer, GrowingLayer) else None
        if module in self.layers and (growing.held if growing else None) != self.held:
            raise UserError(
                "this KV cache cannot hold keys as this block does, or was filled by one that holds them otherwise; "
                "pass past_key_values=DynamicCache()."
            )
        return growing

    def prompt(self, pad: int) -> int | None:
        """How many tokens the prompt of a row with so much padding has, None if nobody knows."""
        known = getattr(self.cache, "prompt_length", None) or getattr(self.cache, "first_call", None)
        if known is None and self.span is not None and self.span.q_offset == 0:
            known = self.span.q_length
        return None if known is None else max(known - pad, 0)

    def memory(self, module: nn.Module) -> Memory | None:
        """What holds the keys of a layer that leave its window, if anything does."""
        memories = [piece.memory for piece in self._pieces(module, position=0, prompt=1) if piece.memory is not None]
        return memories[0] if memories else None

    def _take_over(self, cache: Cache) -> None:
        """Put layers of our own into an empty `DynamicCache`: those that let go of keys if the method forgets, else
        those that need no copying. `cache.expected_length`, where somebody said it, is the room that they take.

        A static, quantised or offloaded cache stays as it is, as does one that the model makes for itself; that costs
        time and memory and changes no result.
        """
        if type(cache) is not DynamicCache or cache.offloading or not _is_empty(cache):
            return
        if not cache.layers:
            cache.layers, cache.layer_class_to_replicate = DynamicCache(config=self.config).layers, None
        size = getattr(cache, "expected_length", 0)
        no_more_than_keys = DynamicLayer, WindowLayer, GrowingLayer
        for module in self.layers:
            if type(cache.layers[layer_index(module)]) in no_more_than_keys:
                cache.layers[layer_index(module)] = (
                    WindowLayer(self.memory(module), size) if self.method.forgets else GrowingLayer(size, self.held)
                )

    def _let_forget(self, cache: Cache) -> None:
        """Release what the queries to come see no more. Raises: UserError for a cache with another memory."""
        for module in self.layers:
            layer = self._window_layer(cache, module)
            if layer is not None and (layer.store and layer.store.memory) != self.memory(module):
                raise UserError("this KV cache was filled with another memory; start with an empty one.")
            if layer is not None and layer.is_initialized:
                layer.release(
                    min(self._first_needed(module, layer.get_seq_length(), pad) for pad in getattr(cache, "pads", {0}))
                )

    def _window_layer(self, cache: Cache, module: nn.Module) -> WindowLayer | None:
        index = layer_index(module)
        layer = cache.layers[index] if self.method.forgets and index < len(cache.layers) else None
        return layer if isinstance(layer, WindowLayer) else None

    def _first_needed(self, module: nn.Module, position: int, pad: int) -> int:
        """The first key that queries from `position` on see of a row and that no memory takes in, padding counted."""
        pieces = self._pieces(module, max(position - pad, 0), self.prompt(pad))
        return pad + min(int(piece.start) for piece in pieces if piece.memory is None and not piece.empty)

    def _pieces(self, module: nn.Module, position: int, prompt: int | None) -> list[Piece]:
        """What the query at one position sees."""
        i = torch.tensor([position])
        return self.method.for_prompt(prompt).pieces(i, i, layer_index(module))


def layer_index(module: nn.Module) -> int:
    """The number of an attention layer in its model."""
    return int(str(module.layer_idx))


def _is_empty(cache: Cache) -> bool:
    """Some layers hold other states, or share the keys of another, and count no tokens."""
    return not any(layer.is_initialized and layer.get_seq_length() for layer in cache.layers if _counts(layer))


def _counts(layer: Any) -> bool:
    return hasattr(layer, "keys") and hasattr(layer, "get_seq_length")
