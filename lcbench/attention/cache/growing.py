"""KV cache layers with preallocated buffers and cached rotated keys.

`transformers` concatenates a layer's whole cache with every new token, and un-rotated keys would have to be rotated
again for every query. Here a decode step writes one row and rotates only new rows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from lcbench.attention.options import check_kv_dtype
from lcbench.core.errors import UserError
from lcbench.core.lazy import not_compiled
from lcbench.methods.pieces import Memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROWTH = 1.5  # factor by which a full buffer grows
SPARE = 64  # rows of a new buffer beyond those that are needed
WAYS = 4  # sets of key positions per layer whose rotated keys are cached, least recently added out first


def key_storage(dtype: str, offload: bool, model: PreTrainedModel) -> Memory | None:
    """Dtype and device of a KV cache: a dtype of `KV_DTYPES`, "auto" being the model's, in RAM if `offload`; None if
    both are the model's own.

    float8_e4m3fn has no scale: values beyond 448 become 448, as in vLLM's `kv_cache_dtype=fp8` without calibrated
    scales. vLLM rounds keys after rotation, this cache before.
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


def rounded(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """x in another dtype; values beyond its range saturate, where a plain conversion gives inf or nan."""
    if dtype is None or dtype == x.dtype:
        return x
    most = torch.finfo(dtype).max
    return (x.clamp(-most, most) if most < torch.finfo(x.dtype).max else x).to(dtype)


class Buffer:
    """A tensor [B, K, n, D] that grows in n within a preallocated buffer, with the dtype and device of `storage`."""

    def __init__(self, size: int = 0, storage: Memory | None = None) -> None:
        """`size` is the expected number of rows."""
        self.length, self._size = 0, size
        self._storage = storage or Memory()
        self._buffer: Tensor | None = None

    @property
    def rows(self) -> Tensor:
        assert self._buffer is not None
        return self._buffer[:, :, : self.length]

    def append(self, new_BKND: Tensor) -> None:
        needed = self.length + new_BKND.shape[2]
        if self._buffer is None or needed > self._buffer.shape[2] or _frozen(self._buffer):
            grown = 0 if self._buffer is None else int(GROWTH * self._buffer.shape[2])
            larger = self._take(new_BKND, max(needed + SPARE, grown, self._size))
            if self._buffer is not None:
                larger[:, :, : self.length] = self.rows
            self._buffer = larger
        self._buffer[:, :, self.length : needed] = rounded(new_BKND, self._storage.dtype)
        self.length = needed

    def _take(self, new_BKND: Tensor, size: int) -> Tensor:
        """A new buffer of `size` rows; pinned if it is in RAM and a GPU reads it, for fast transfers."""
        B, K, _, D = new_BKND.shape
        device = self._storage.device or new_BKND.device
        pinned = self._storage.device is not None and device.type == "cpu" and torch.cuda.is_available()
        return torch.empty(B, K, size, D, dtype=self._storage.dtype or new_BKND.dtype, device=device, pin_memory=pinned)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may occur several times."""
        if self._buffer is not None:
            self._buffer = self.rows.index_select(0, rows.to(self._buffer.device))

    def holds(self, x: Tensor | None) -> bool:
        """Whether a tensor is a view of this buffer from its first row on."""
        return self._buffer is not None and x is not None and x.data_ptr() == self._buffer.data_ptr()


def drop_keys(layer: DynamicLayer) -> None:
    """Empty a cache layer, which `DynamicLayer.reset` does in newer releases of transformers only: 5.17 keeps the keys
    as zeros, and later queries would attend to them."""
    layer.keys = layer.values = None
    layer.is_initialized = False


def _frozen(x: Tensor) -> bool:
    """Whether x was created in inference mode, outside which it cannot be written to."""
    return x.is_inference() and not torch.is_inference_mode_enabled()


class Truncated(Protocol):
    """What follows from the keys of a layer."""

    def truncate(self, length: int) -> None:
        """Drop what belongs to the keys from `length` on."""


Cached = TypeVar("Cached", bound=Truncated)


class RotatedKeyCache:
    """Rotated keys of earlier steps, one buffer per assignment of positions to keys (a "way")."""

    def __init__(self, size: int = 0) -> None:
        """`size` is the expected number of keys."""
        self._size = size
        self._ways: list[_Way] = []

    def keys(self, k_BKSD: Tensor, k_pos_S: Tensor, start: int, stop: int, rotate: Callable[..., Tensor]) -> Tensor:
        """The keys start <= j < stop [B, K, stop - start, D] rotated to k_pos; `rotate` is called for new keys only."""
        for way in self._ways:
            if way.fits(k_pos_S, start, stop):
                break
        else:
            way = _Way(start, max(0, self._size - start))
            self._ways = [*self._ways[1 - WAYS :], way]
        if way.end < stop:
            way.append(rotate(k_BKSD[:, :, way.end : stop], k_pos_S[way.end : stop]), k_pos_S[way.end : stop])
        return way.rows(start, stop)

    def truncate(self, length: int) -> None:
        """Drop the keys from `length` on, after the cache was cropped."""
        for way in self._ways:
            way.truncate(length)


class _Way:
    """One assignment of positions to the keys first <= j < end, and the keys rotated to them."""

    def __init__(self, first: int, size: int) -> None:
        self.first, self._rotated, self._positions = first, Buffer(size), Buffer(size)

    @property
    def end(self) -> int:
        return self.first + self._rotated.length

    def fits(self, k_pos_S: Tensor, start: int, stop: int) -> bool:
        """Whether it starts at or before `start`, reaches it without a gap, and its keys have these positions."""
        known = min(stop, self.end)
        if not self.first <= start <= known:
            return False
        positions = self._positions.rows[0, 0, start - self.first : known - self.first, 0]
        return torch.equal(positions, k_pos_S[start:known])

    def append(self, rotated_BKND: Tensor, positions_N: Tensor) -> None:
        self._rotated.append(rotated_BKND)
        self._positions.append(positions_N[None, None, :, None])

    def rows(self, start: int, stop: int) -> Tensor:
        return self._rotated.rows[:, :, start - self.first : stop - self.first]

    def truncate(self, length: int) -> None:
        kept = min(self._rotated.length, max(0, length - self.first))
        self._rotated.length = self._positions.length = kept


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """All keys and values of one layer, like `DynamicLayer`, in preallocated buffers.

    If other tensors were assigned to `keys` and `values` (beam search, offloading), the next update copies them. With
    gradients it concatenates, as in-place writes have none. `storage` is their dtype and device, if not the model's;
    `update` then returns them in that form, those of the current call too, and attention converts what it needs.
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
                raise UserError("a KV cache in another dtype or place gives no gradients; use torch.no_grad().")
            self.leave_buffers()
            grown: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return grown
        length = super().get_seq_length()  # of the rows that are stored, in a layer that drops some, too
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
        return self._rotated_keys.setdefault((rows.start, rows.stop, heads.start, heads.stop, pad), RotatedKeyCache())

    def beside(self, made: Callable[[], Cached], rows: slice, pad: int) -> Cached:
        """What `made` makes of the keys of the batch rows `rows` with `pad` padding positions, made once; like rotated
        keys, it is truncated with the layer, and dropped with its buffers."""
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
