"""KV cache layers that do not copy themselves at every step: preallocated buffers, and keys that stay rotated.

`transformers` concatenates a layer's whole cache with every new token, and keys that are kept un-rotated would have to
be rotated anew for every query. Here a step writes one row, and rotates the rows that are new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from lcbench.attention.options import check_kv_dtype
from lcbench.core.errors import UserError
from lcbench.core.lazy import not_compiled
from lcbench.methods.pieces import Memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROWTH = 1.5  # of a buffer that is full
SPARE = 64  # rows that a new buffer has beyond those that it has to hold
WAYS = 4  # in which a layer's keys are kept rotated, the last that were asked for


def held_keys(dtype: str, offload: bool, model: PreTrainedModel) -> Memory | None:
    """How a KV cache is to hold what a model puts there: in a dtype of `KV_DTYPES`, "auto" being the model's, and in
    the RAM of the CPU if `offload`; None is as the model has it.

    There is no scale to float8_e4m3fn: what is beyond 448 becomes 448, as in vLLM's `kv_cache_dtype=fp8` without
    calibrated scales. There keys are rounded once they are rotated, here before.
    Raises: UserError for a dtype that is none of these.
    """
    named = kv_torch_dtype(dtype)
    other = None if named == model.dtype else named
    if other is None and not offload:
        return None
    return Memory(dtype=other, device=torch.device("cpu") if offload else None)


def kv_torch_dtype(name: str) -> torch.dtype | None:
    """The dtype of that name in `KV_DTYPES`, None for "auto". Raises: UserError for a name that is none of these."""
    check_kv_dtype(name)
    dtype: torch.dtype | None = None if name == "auto" else getattr(torch, name)
    return dtype


def rounded(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Numbers in another dtype; those beyond it become its largest, where a plain conversion has inf or nan."""
    if dtype is None or dtype == x.dtype:
        return x
    most = torch.finfo(dtype).max
    return (x.clamp(-most, most) if most < torch.finfo(x.dtype).max else x).to(dtype)


class Buffer:
    """A tensor [B, K, n, D] that grows at its end within a preallocated buffer, in the dtype and place of a memory."""

    def __init__(self, size: int = 0, held: Memory | None = None) -> None:
        """`size` is how many rows are expected."""
        self.length, self._size = 0, size
        self._held = held or Memory()
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
        self._buffer[:, :, self.length : needed] = rounded(new_BKND, self._held.dtype)
        self.length = needed

    def _take(self, new_BKND: Tensor, size: int) -> Tensor:
        """A buffer of so many rows like these; what a GPU has to fetch is pinned, which is faster by far."""
        B, K, _, D = new_BKND.shape
        device = self._held.device or new_BKND.device
        pinned = self._held.device is not None and device.type == "cpu" and torch.cuda.is_available()
        return torch.empty(B, K, size, D, dtype=self._held.dtype or new_BKND.dtype, device=device, pin_memory=pinned)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order, some perhaps several times."""
        if self._buffer is not None:
            self._buffer = self.rows.index_select(0, rows.to(self._buffer.device))

    def holds(self, x: Tensor | None) -> bool:
        """Whether a tensor is what is in this buffer, from its first row on."""
        return self._buffer is not None and x is not None and x.data_ptr() == self._buffer.data_ptr()


def drop_keys(layer: DynamicLayer) -> None:
    """Make a cache layer empty, which `DynamicLayer.reset` does in newer releases of transformers only: 5.17 sets the
    keys to zero and keeps them, and later queries would attend to them."""
    layer.keys = layer.values = None
    layer.is_initialized = False


def _frozen(x: Tensor) -> bool:
    """What was made in inference mode cannot be written to outside it."""
    return x.is_inference() and not torch.is_inference_mode_enabled()


class RotatedKeyCache:
    """Keys as earlier steps rotated them, for every way in which they were given positions."""

    def __init__(self, size: int = 0) -> None:
        """`size` is how many keys are expected."""
        self._size = size
        self._ways: list[_Way] = []

    def keys(self, k_BKSD: Tensor, k_pos_S: Tensor, start: int, stop: int, rotate: Callable[..., Tensor]) -> Tensor:
        """The keys start <= j < stop rotated to their positions, `rotate` being asked for those alone that are new."""
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
        """Forget the keys from `length` on: they were taken back."""
        for way in self._ways:
            way.truncate(length)


class _Way:
    """One way of giving positions to the keys first <= j < end."""

    def __init__(self, first: int, size: int) -> None:
        self.first, self._rotated, self._positions = first, Buffer(size), Buffer(size)

    @property
    def end(self) -> int:
        return self.first + self._rotated.length

    def fits(self, k_pos_S: Tensor, start: int, stop: int) -> bool:
        """Whether it begins early enough, goes on without a gap, and its keys have these positions."""
        held = min(stop, self.end)
        if not self.first <= start <= held:
            return False
        positions = self._positions.rows[0, 0, start - self.first : held - self.first, 0]
        return torch.equal(positions, k_pos_S[start:held])

    def append(self, rotated_BKND: Tensor, positions_N: Tensor) -> None:
        self._rotated.append(rotated_BKND)
        self._positions.append(positions_N[None, None, :, None])

    def rows(self, start: int, stop: int) -> Tensor:
        return self._rotated.rows[:, :, start - self.first : stop - self.first]

    def truncate(self, length: int) -> None:
        kept = min(self._rotated.length, max(0, length - self.first))
        self._rotated.length = self._positions.length = kept


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """All keys and values of one layer, as `DynamicLayer` keeps them, in preallocated buffers.

    Whoever puts other tensors in the place of `keys` and `values` (beam search, offloading) is noticed at the next
    update. With gradients it concatenates, since what is written in place has none. `held` says in which dtype and
    place, if not in the model's; attention then gets them so, those of its own call too, and converts what it needs.
    """

    keys: Tensor | None
    values: Tensor | None

    def __init__(self, size: int = 0, held: Memory | None = None) -> None:
        super().__init__()
        self._size, self.held = size, held
        self.leave_buffers()

    @not_compiled
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            if self.held is not None:
                raise UserError("a KV cache in another dtype or place gives no gradients; use torch.no_grad().")
            self.leave_buffers()
            grown: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return grown
        length = self.get_seq_length()
        if not (self._keys.holds(self.keys) and self._values.holds(self.values)):
            self.leave_buffers()
            if length and self.keys is not None and self.values is not None:
                self._keys.append(self.keys)
                self._values.append(self.values)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for (*_, pad), rotated in self._rotated_keys.items():
            rotated.truncate(length - pad)
        self._keys.length = self._values.length = length
        self._keys.append(key_states)
        self._values.append(value_states)
        self.keys, self.values = self._keys.rows, self._values.rows
        return self.keys, self.values

    def rotated_keys(self, k_BKSD: Tensor, rows: slice, pad: int) -> RotatedKeyCache | None:
        """What was rotated of these keys, in rows with so much padding; None if they are not this layer's, or are held
        so as to take less memory."""
        if self.held is not None or not self._keys.holds(k_BKSD) or k_BKSD.shape != self._keys.rows.shape:
            return None
        return self._rotated_keys.setdefault((rows.start, rows.stop, pad), RotatedKeyCache())

    def reset(self) -> None:
        drop_keys(self)
        super().reset()
        self.leave_buffers()

    def leave_buffers(self) -> None:
        """Forget the buffers and what was rotated; `keys` and `values` stay, and go into new buffers when they grow."""
        self._keys, self._values = Buffer(self._size, self.held), Buffer(self._size, self.held)
        self._rotated_keys: dict[tuple[int, int, int], RotatedKeyCache] = {}
