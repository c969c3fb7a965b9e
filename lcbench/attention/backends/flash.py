"""Attention over pieces by PyTorch's flash attention for CUDA, merged by log-sum-exp in float32.

The public `varlen_attn` supports full, causal and windowed attention, aligned at the last query and the last key;
pieces can be split into these. It runs FlashAttention-2; FlashAttention 3 and 4 are called in its place where they are
installed (`flash_kernels`).

Imported only when it is used: `varlen_attn` imports PyTorch's compiler.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from lcbench.attention.backends.bands import Stretch, merge, stretches
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.flash_kernels import fastest_kernel

DTYPES = (torch.bfloat16, torch.float16)
LARGEST_HEAD = 256  # channels; FlashAttention has kernels for no more, and for multiples of 8 only
UNBOUNDED = -1


@dataclass(frozen=True)
class Band:
    """One call: neighbouring stretches, `rows` queries and `keys` keys of each, from row_start and key_start on.

    Of each stretch's n queries and m keys, query r sees the keys r + m - n - left <= j <= r + m - n + right; a side
    that is UNBOUNDED ends with the stretch.
    """

    row_start: int
    key_start: int
    rows: tuple[int, ...]
    keys: tuple[int, ...]
    left: int
    right: int

    @property
    def row_stop(self) -> int:
        return self.row_start + sum(self.rows)

    @property
    def key_stop(self) -> int:
        return self.key_start + sum(self.keys)


def flash_attention(call: Call) -> Output:
    """The output [B, H, T, D] and the log-sum-exp [B, H, T], both in float32, without gradients; for calls that
    `refusal` accepts."""
    out = torch.zeros(call.q_BHTD.shape, dtype=torch.float32, device=call.q_BHTD.device)
    lse = out.new_full(call.q_BHTD.shape[:3], -math.inf)
    for start, stop, piece in call.shown():
        q, k = call.rotated_queries(piece), call.rotated_to(piece, start, stop)
        for band in bands(stretches(*call.borders(piece))):
            rows, keys = slice(band.row_start, band.row_stop), slice(band.key_start - start, band.key_stop - start)
            v = call.v_BKSD[:, :, band.key_start : band.key_stop]
            merge(out[:, :, rows], lse[:, :, rows], *_call(q[:, :, rows], k[:, :, keys], v, band, call.scale))
    return out, lse


def refusal(call: Call) -> str | None:
    """Why a call cannot be computed here, as the end of a sentence; None if it can."""
    D = call.q_BHTD.shape[-1]
    if call.q_BHTD.dtype not in DTYPES:
        return f"computes in bfloat16 and float16, not in {str(call.q_BHTD.dtype).removeprefix('torch.')}"
    if not call.same_width:
        return f"needs values as wide as keys, and these have {call.v_BKSD.shape[-1]} and {D} channels per head"
    if D > LARGEST_HEAD or D % 8:
        return f"needs heads of at most {LARGEST_HEAD} channels, a multiple of 8, and these have {D}"
    return None


def kernel_name() -> str:
    """The FlashAttention version in use."""
    return fastest_kernel().name


def bands(of_piece: Iterable[Stretch]) -> Iterator[Band]:
    """The kernel calls for a piece: stretches of one sliding window are joined, and stretches that are adjacent in both
    queries and keys become the sequences of one variable-length call."""
    pending: Band | None = None
    for stretch in _windows(of_piece):
        band = _band(stretch)
        if pending is None:
            pending = band
        elif _adjoin(pending, band):
            pending = replace(pending, rows=pending.rows + band.rows, keys=pending.keys + band.keys)
        else:
            yield pending
            pending = band
    if pending is not None:
        yield pending


def _adjoin(band: Band, other: Band) -> bool:
    """Whether `other` begins where `band` ends, queries and keys both, with the same window."""
    ends = band.row_stop, band.key_stop, band.left, band.right
    return ends == (other.row_start, other.key_start, other.left, other.right)


def _windows(of_piece: Iterable[Stretch]) -> Iterator[tuple[Stretch, int]]:
    """Stretches, each with the number of earlier queries that belong to the same window.

    The first queries of a sliding window have fewer keys than its width, which the kernel handles by itself.
    """
    opening: Stretch | None = None
    for stretch in of_piece:
        if opening is not None:
            if _slides_on(opening, stretch):
                yield stretch, opening.rows
                opening = None
                continue
            yield opening, 0
        opening = None if stretch.start_moves else stretch
        if opening is None:
            yield stretch, 0
    if opening is not None:
        yield opening, 0


def _slides_on(opening: Stretch, stretch: Stretch) -> bool:
    """Whether `stretch` continues `opening` as a sliding window: the start, constant in `opening`, now advances by one
    per query, and the stop as before."""
    return (
        stretch.start_moves
        and stretch.stop_moves == opening.stop_moves
        and stretch.row_start == opening.row_stop
        and stretch.key_start == opening.key_start + 1
        and stretch.key_stop == opening.last_key_stop + stretch.stop_moves
    )


def _band(window: tuple[Stretch, int]) -> Band:
    stretch, before = window
    key_start = stretch.key_start - bool(before)
    last_key_start = stretch.key_start + (stretch.rows - 1) * stretch.start_moves
    return Band(
        stretch.row_start - before,
        key_start,
        (before + stretch.rows,),
        (stretch.last_key_stop - key_start,),
        left=stretch.last_key_stop - 1 - last_key_start if stretch.start_moves else UNBOUNDED,
        right=0 if stretch.stop_moves or before + stretch.rows == 1 else UNBOUNDED,  # for one query both mean the same
    )


def _call(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, band: Band, scale: float) -> Output:
    """One call for all rows of the batch: output [B, H, T, D] and log-sum-exp [B, H, T].

    Every query of a band has a key, so that the log-sum-exp of kernels for queries without keys (FlashAttention-2:
    +inf) does not occur. The log-sum-exp is returned as [H, queries], other than documented.

    FlashAttention 2 and 3 detect grouped queries by themselves. PyTorch from 2.12 on requires `enable_gqa`; 2.11 has no
    such argument, does not check heads, and calls the same operator (from its sources, not run on a GPU).
    """
    B, H, T = q_BHTD.shape[:3]
    packed = [_packed(x) for x in (q_BHTD, k_BKSD, v_BKSD)]
    begins = [_borders(lengths * B, q_BHTD.device) for lengths in (band.rows, band.keys)]
    arguments: tuple[Any, ...] = (*packed, *begins, max(band.rows), max(band.keys))
    window = (band.left, band.right)
    if run := fastest_kernel().run:
        with torch.cuda.device_of(q_BHTD):  # type: ignore[no-untyped-call]  # FlashAttention 4 launches on the current one
            out, lse = run(*arguments, scale=scale, window_size=window)
    else:
        gqa = k_BKSD.shape[1] != H and _has_enable_gqa(varlen_attn)
        grouped: dict[str, Any] = {"enable_gqa": True} if gqa else {}
        aux = AuxRequest(lse=True)
        out, lse = varlen_attn(*arguments, return_aux=aux, scale=scale, window_size=window, **grouped)
    return out.view(B, T, H, -1).transpose(1, 2), lse.view(H, B, T).transpose(0, 1)


def _packed(x_BHND: Tensor) -> Tensor:
    """The rows of the batch one after another [B x N, H, D]; no copy for a batch of one."""
    return x_BHND.transpose(1, 2).flatten(0, 1)


@lru_cache(maxsize=1024)
def _borders(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Start of each sequence and end of the last, int32; copied to the device once, for all layers."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)


@cache
def _has_enable_gqa(kernel: Callable[..., Any]) -> bool:
    return "enable_gqa" in inspect.signature(kernel).parameters
