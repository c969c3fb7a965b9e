"""KV cache layers with preallocated buffers and cached rotated keys.

`transformers` copies a layer's whole cache for every new token, and un-rotated keys would have to be rotated again for
every query. Here a decode step writes one row and rotates only that row.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from lcbench.attention.cache.buffer import Buffer
from lcbench.attention.cache.ways import ByWay, Way
from lcbench.attention.options import check_kv_dtype
from lcbench.core.errors import UserError
from lcbench.core.lazy import not_compiled
from lcbench.methods.pieces import Memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def key_storage(dtype: str, offload: bool, model: PreTrainedModel) -> Memory | None:
    """Dtype and device of a KV cache: one of `KV_DTYPES` ("auto": the model's), in RAM if `offload`; None if both are
    the model's own.

    float8_e4m3fn is used without scales: values beyond 448 saturate, as in vLLM's `kv_cache_dtype=fp8` without
    calibrated scales. vLLM rounds keys after rotation, this cache before.

    Raises: UserError for an unknown dtype.
    """
    named = kv_torch_dtype(dtype)
    other = None if named == model.dtype else named
    if other is None and not offload:
        return None
    return Memory(dtype=other, device=torch.device("cpu") if offload else None)


def kv_torch_dtype(name: str) -> torch.dtype | None:
    """The dtype of that name in `KV_DTYPES`, None for "auto". Raises: UserError for an unknown name."""
    check_kv_dtype(name)
    dtype: torch.dtype | None = None if name == "auto" else getattr(torch, name)
    return dtype


def drop_keys(layer: DynamicLayer) -> None:
    """Empty a cache layer. `DynamicLayer.reset` does so only in newer releases of transformers: 5.17 sets the keys to
    zero, and later queries would attend to them."""
    layer.keys = layer.values = None
    layer.is_initialized = False


class RotatedKeyCache(ByWay):
    """Rotated keys of earlier forward passes."""

    def keys(self, k_BKSD: Tensor, way: Way, start: int, stop: int, rotate: Callable[..., Tensor]) -> Tensor:
        """The keys start <= j < stop [B, K, stop - start, D] rotated to the positions of `way`; `rotate` is called for
        new keys only."""
        return self.rows(way, start, stop, lambda a, b: rotate(k_BKSD[:, :, a:b], way.between(a, b)))


Cached = TypeVar("Cached", bound=ByWay)


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """All keys and values of one layer, like `DynamicLayer`, in preallocated buffers.

    If other tensors were assigned to `keys` and `values` (beam search, offloading), the next update copies them. When
    gradients are needed it concatenates, since in-place writes have none. `storage` is their dtype and device, if not
    the model's; `update` then returns all of them in that form, and attention converts what it needs.
    """

    keys: Tensor | None
    values: Tensor | None

    def __init__(self, size: int = 0, storage: Memory | None = None) -> None:
        super().__init__()
        self._size, self.storage = size, storage
        self.leave_buffers()

    @not_compiled
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            if self.storage is not None:
                raise UserError(
                    "a KV cache in another dtype or on another device has no gradients; use torch.no_grad()."
                )
            self.leave_buffers()
            grown: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return grown
        length = super().get_seq_length()  # rows that are stored, also in a layer that drops some
        if not (self._keys.holds(self.keys) and self._values.holds(self.values)):
            self.leave_buffers()
            if length and self.keys is not None and self.values is not None:
                self._keys.append(self.keys)
                self._values.append(self.values)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for (*_, pad), cached in chain(self._rotated_keys.items(), self._beside.items()):
            cached.truncate(length - pad)
        self._keys.length = self._values.length = length
        self._keys.append(key_states)
        self._values.append(value_states)
        self.keys, self.values = self._keys.rows, self._values.rows
        return self.keys, self.values

    def rotated_keys(self, k_BKSD: Tensor, rows: slice, heads: slice, pad: int) -> RotatedKeyCache | None:
        """The cache of rotated keys of the batch rows `rows` with `pad` padding positions, and of the KV heads `heads`;
        None if these are not the keys of this layer, or if their storage is meant to save memory."""
        if self.storage is not None or not self._keys.holds(k_BKSD) or k_BKSD.shape != self._keys.rows.shape:
            return None
        of = (rows.start, rows.stop, heads.start, heads.stop, pad)
        if of not in self._rotated_keys:
            self._rotated_keys[of] = RotatedKeyCache()
        return self._rotated_keys[of]

    def beside(self, made: Callable[[], Cached], rows: slice, pad: int) -> Cached:
        """A cache beside the keys of the batch rows `rows` with `pad` padding positions, made by `made` on first use;
        like rotated keys, it is truncated with the layer and dropped with its buffers."""
        found: Cached = self._beside.setdefault((made, rows.start, rows.stop, pad), made())
        return found

    def reset(self) -> None:
        drop_keys(self)
        super().reset()
        self.leave_buffers()

    def leave_buffers(self) -> None:
        """Drop the buffers and rotated keys; `keys` and `values` stay, and are copied into new buffers when they
        grow."""
        self._keys, self._values = Buffer(self._size, self.storage), Buffer(self._size, self.storage)
        self._rotated_keys: dict[tuple[Any, ...], RotatedKeyCache] = {}
        self._beside: dict[tuple[Any, ...], Any] = {}
