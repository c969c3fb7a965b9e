"""A tensor that grows within a preallocated buffer."""

from __future__ import annotations

import torch
from torch import Tensor

from lcbench.methods.pieces import Memory

GROWTH = 1.5  # factor by which a full buffer grows
SPARE = 64  # rows of a new buffer beyond those needed


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
        return self._buffer.narrow(2, 0, self.length)

    def between(self, start: int, stop: int) -> Tensor:
        """The rows start <= n < stop."""
        assert self._buffer is not None
        return self._buffer.narrow(2, start, stop - start)

    def append(self, new_BKND: Tensor) -> None:
        needed = self.length + new_BKND.shape[2]
        if self._buffer is None or needed > self._buffer.shape[2] or _frozen(self._buffer):
            grown = 0 if self._buffer is None else int(GROWTH * self._buffer.shape[2])
            larger = self._take(new_BKND, max(needed + SPARE, grown, self._size))
            if self._buffer is not None:
                larger[:, :, : self.length] = self.rows
            self._buffer = larger
        self._buffer.narrow(2, self.length, new_BKND.shape[2]).copy_(rounded(new_BKND, self._storage.dtype))
        self.length = needed

    def _take(self, new_BKND: Tensor, size: int) -> Tensor:
        """A new buffer of `size` rows; pinned if it is in RAM and a GPU reads it, for fast transfers."""
        B, K, _, D = new_BKND.shape
        device = self._storage.device or new_BKND.device
        pinned = self._storage.device is not None and device.type == "cpu" and torch.cuda.is_available()
        return torch.empty(B, K, size, D, dtype=self._storage.dtype or new_BKND.dtype, device=device, pin_memory=pinned)

    def select(self, rows: Tensor) -> None:
        """Reorder the batch to these rows [n]; a row may occur several times."""
        if self._buffer is not None:
            self._buffer = self.rows.index_select(0, rows.to(self._buffer.device))

    def holds(self, x: Tensor | None) -> bool:
        """Whether a tensor is a view of this buffer from its first row on."""
        return self._buffer is not None and x is not None and x.data_ptr() == self._buffer.data_ptr()


def _frozen(x: Tensor) -> bool:
    """Whether x was created in inference mode, outside which it cannot be written to."""
    return x.is_inference() and not torch.is_inference_mode_enabled()
