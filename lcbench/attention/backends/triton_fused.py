"""Attention over all pieces in one pass, a Triton kernel: one online softmax per query, no outputs to merge.

A program loops over the pieces for one tile of queries, which are rotated for each piece. Blocks of keys that all
queries of the tile see need no mask; blocks at the edges of a piece are masked. Keys and values are loaded through
tensor descriptors, by the tensor memory accelerator (TMA) of GPUs that have it.

Imported only when it is used: Triton is optional.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lcbench.attention.backends.bands import merge
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.cache.ways import Way
from lcbench.methods.pieces import Piece

PRECISION = tl.constexpr("tf32x3")  # float32 products as three tf32 products: as exact as float32
SHARED_MEMORY = 232_448  # bytes per thread block on Hopper, the default without a GPU
SLACK = 1024  # bytes for barriers
# Queries and keys of a tile, warps and stages, the fastest first.
FLOAT32 = ((64, 32, 4, 2), (64, 16, 4, 2), (32, 16, 4, 2), (32, 16, 4, 1), (16, 16, 4, 1))
WIDE_HEADS = ((64, 32, 8, 2), (64, 16, 8, 2), (32, 16, 4, 1), (16, 16, 4, 1))
HALF_BEFORE_HOPPER = ((128, 32, 8, 2), (64, 32, 4, 2))
HALF = ((128, 64, 8, 3), *HALF_BEFORE_HOPPER)
ROW_BYTES = 16  # alignment of rows that tensor descriptors require


def triton_fused_attention(call: Call) -> Output:
    """The output [B, H, T, Dv] in the dtype of the queries and the log-sum-exp [B, H, T] in float32, without gradients;
    for calls that `refusal` accepts."""
    q_BHTD = call.q_BHTD
    shown = [piece for piece in call.pieces if piece.start[0] < piece.stop[-1]]
    if not shown:
        out = q_BHTD.new_zeros(*q_BHTD.shape[:3], call.v_BKSD.shape[3])
        return out, q_BHTD.new_full(q_BHTD.shape[:3], -math.inf, dtype=torch.float32)
    if call.rotated_keys is None or call.rope.rotary is None:
        return _one_pass(call, shown, *_rotated_keys(call, shown))
    outputs = (_one_pass(call, pieces, *keys) for pieces, keys in _kept_keys(call, shown))
    out, lse = next(outputs)
    for more, more_lse in outputs:
        out = out.float()
        merge(out, lse, more, more_lse)
    return out.to(q_BHTD.dtype), lse


def _one_pass(call: Call, pieces: list[Piece], k_BKRD: Tensor, shifts_P: Tensor) -> Output:
    """The output over some pieces, whose rotated keys are in one tensor."""
    q_BHTD, v_BKSD = call.q_BHTD, call.v_BKSD
    B, H, T, D = q_BHTD.shape
    Dv = v_BKSD.shape[3]
    out, lse = q_BHTD.new_empty(B, H, T, Dv), q_BHTD.new_empty(B, H, T, dtype=torch.float32)
    start, stop = map(torch.stack, zip(*map(call.borders, pieces), strict=True))
    sizes = _sizes(max(D, Dv), q_BHTD)
    tiles = _tiles(start, stop, sizes["ROWS"])
    q_PBHTD = q_BHTD.new_empty(len(pieces), B, H, T, D)
    for q, piece in zip(q_PBHTD, pieces, strict=True):
        call.tables.rotate_into(q, q_BHTD, piece.q_pos, call.rope)
    with torch.cuda.device_of(q_BHTD):  # type: ignore[no-untyped-call]  # Triton launches on the current one
        _launch(q_PBHTD, k_BKRD, v_BKSD, out, lse, (tiles, start, stop, shifts_P), call.scale, sizes)
    return out, lse


def _launch(
    q_PBHTD: Tensor,
    k_BKRD: Tensor,
    v_BKSD: Tensor,
    out_BHTD: Tensor,
    lse_BHT: Tensor,
    borders: tuple[Tensor, ...],
    scale: float,
    sizes: dict[str, Any],
) -> None:
    pieces, B, H, T, D = q_PBHTD.shape
    K, Dv = v_BKSD.shape[1], v_BKSD.shape[3]
    wide, wide_v = (max(16, triton.next_power_of_2(dim)) for dim in (D, Dv))
    _fused[(len(borders[0]), B * H)](
        q_PBHTD,
        TensorDescriptor.from_tensor(k_BKRD, [1, 1, sizes["KEYS"], wide]),
        TensorDescriptor.from_tensor(v_BKSD, [1, 1, sizes["KEYS"], wide_v]),
        out_BHTD,
        lse_BHT,
        *(x.to(q_PBHTD.device, torch.int32, non_blocking=True) for x in borders),
        *q_PBHTD.stride()[:4],
        *out_BHTD.stride()[:3],
        T,
        scale * math.log2(math.e),
        H,
        GROUPS=H // K,
        PIECES=pieces,
        D=D,
        DV=Dv,
        WIDE=wide,
        WIDE_V=wide_v,
        **sizes,
    )


def refusal(call: Call) -> str | None:
    """Why a call cannot be computed here, as the end of a sentence; None if it can."""
    dtype = call.q_BHTD.dtype
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"computes in bfloat16, float16 and float32, not in {str(dtype).removeprefix('torch.')}"
    if dtype == torch.bfloat16 and not call.q_BHTD.is_cuda:
        return "does not compute bfloat16 in Triton's interpreter, whose bfloat16 products are wrong"
    for x in (call.k_BKSD, call.v_BKSD):
        if x.shape[-1] * dtype.itemsize % ROW_BYTES:
            return f"needs heads of a multiple of {ROW_BYTES // dtype.itemsize} channels, and these have {x.shape[-1]}"
    return None


def _sizes(dim: int, q_BHTD: Tensor) -> dict[str, Any]:
    """Tile sizes and launch parameters: the largest tiles with no or almost no register spills that fit into the shared
    memory of a multiprocessor."""
    wide, itemsize = max(16, triton.next_power_of_2(dim)), q_BHTD.dtype.itemsize
    limit, hopper = SHARED_MEMORY, True
    if q_BHTD.is_cuda:
        driver = triton.runtime.driver.active.utils
        limit = driver.get_device_properties(q_BHTD.device.index)["max_shared_mem"]
        hopper = torch.cuda.get_device_capability(q_BHTD.device) >= (9, 0)
    sizes = FLOAT32 if itemsize == 4 else WIDE_HEADS if wide > 128 else HALF if hopper else HALF_BEFORE_HOPPER
    fitting = (each for each in sizes if shared_memory(*each, wide, itemsize) <= limit)
    rows, keys, warps, stages = next(fitting, sizes[-1])
    return {"ROWS": rows, "KEYS": keys, "num_warps": warps, "num_stages": stages}


def shared_memory(rows: int, keys: int, warps: int, stages: int, wide: int, itemsize: int) -> int:
    """Bytes of shared memory of a program: queries, in float32 also their output, and the stages of keys and values.
    Within some ten bytes of what the compiler reports for sm_90: 64 x 32 x 2 in float32 with 256 channels 262,152, with
    16 keys 196,616; 128 x 64 x 3 in bfloat16 with 128 channels 132,096."""
    return ((2 if itemsize == 4 else 1) * rows + 2 * stages * keys) * wide * itemsize + SLACK


def _tiles(start_PT: Tensor, stop_PT: Tensor, rows: int) -> Tensor:
    """First query and number of queries of each program [tiles, 2], those with the most keys first.

    A tile ends where the key range of a piece jumps (at a chunk of DCA, say): queries on both sides share few keys.
    """
    jumps = ((start_PT.diff() > rows) | (stop_PT.diff() > rows)).any(0).nonzero().flatten() + 1
    ends = [0, *jumps.tolist(), start_PT.shape[1]]
    first = torch.tensor([row for a, b in pairwise(ends) for row in range(a, b, rows)])
    count = torch.cat([first[1:], first.new_tensor([start_PT.shape[1]])]) - first
    work = (stop_PT[:, first + count - 1] - start_PT[:, first]).clamp(min=0).sum(0)
    return torch.stack([first, count], dim=1)[work.argsort(descending=True, stable=True)].contiguous()


def _rotated_keys(call: Call, pieces: list[Piece]) -> tuple[Tensor, Tensor]:
    """Rotated keys [B, K, rows, D], concatenated over the distinct key positions of the pieces, and for each piece the
    offset from a key's index to its row."""
    ways: list[tuple[Tensor, int, int]] = []  # positions of the keys, and the range of them in use
    way_of_piece = []
    for piece in pieces:
        start, stop = call.key_range(piece)
        for n, (k_pos, first, end) in enumerate(ways):
            if call.rope.rotary is None or torch.equal(k_pos, piece.k_pos):
                ways[n] = k_pos, min(first, start), max(end, stop)
                way_of_piece.append(n)
                break
        else:
            way_of_piece.append(len(ways))
            ways.append((piece.k_pos, start, stop))
    begins = [0, *accumulate(stop - start for _, start, stop in ways)]
    shifts = [begins[n] - ways[n][1] for n in way_of_piece]
    B, K, _, D = call.k_BKSD.shape
    rotated = call.k_BKSD.new_empty(B, K, begins[-1], D)
    for begin, (k_pos, start, stop) in zip(begins, ways, strict=False):
        buffer = rotated[:, :, begin : begin + stop - start]
        call.tables.rotate_into(buffer, call.k_BKSD[:, :, start:stop], k_pos[start:stop], call.rope)
    return rotated, torch.tensor(shifts)


def _kept_keys(call: Call, pieces: list[Piece]) -> Iterator[tuple[list[Piece], tuple[Tensor, Tensor]]]:
    """The pieces of each way, and their keys from the cache of rotated keys, in the form of `_rotated_keys`."""
    of_way: dict[Way, list[Piece]] = {}
    for piece in pieces:
        of_way.setdefault(call.tables.ways.find(piece.k_pos, *call.key_range(piece)), []).append(piece)
    for way, own in of_way.items():
        ranges = [call.key_range(piece) for piece in own]
        first, end = min(start for start, _ in ranges), max(stop for _, stop in ranges)
        yield own, (call.rotated_by(way, first, end), torch.full((len(own),), -first))


@triton.jit  # type: ignore[untyped-decorator]
def _take_in(  # type: ignore[no-untyped-def]
    k_desc,
    v_desc,
    q,
    acc,
    total,
    most,
    n,
    shift,
    row_start,
    row_stop,
    b,
    kv_head,
    scale,
    KEYS: tl.constexpr,
    WIDE: tl.constexpr,
    WIDE_V: tl.constexpr,
    MASKED: tl.constexpr,
):
    """One step of the online softmax: add the keys n <= j < n + KEYS to the output, sum and maximum of a tile."""
    k = k_desc.load([b, kv_head, n + shift, 0]).reshape(KEYS, WIDE)
    v = v_desc.load([b, kv_head, n, 0]).reshape(KEYS, WIDE_V)
    scores = tl.dot(q, k.T, input_precision=PRECISION)
    if MASKED:
        j = (n + tl.arange(0, KEYS))[None, :]
        scores = tl.where((j >= row_start[:, None]) & (j < row_stop[:, None]), scores, float("-inf"))
    more = tl.maximum(most, tl.max(scores, 1) * scale)
    base = tl.where(more == float("-inf"), 0.0, more) if MASKED else more  # a query without keys so far
    weights = tl.math.exp2(scores * scale - base[:, None])
    kept = tl.math.exp2(most - base)
    acc = tl.dot(weights.to(v.dtype), v, acc * kept[:, None], input_precision=PRECISION)
    return acc, total * kept + tl.sum(weights, 1), more


@triton.jit  # type: ignore[untyped-decorator]
def _fused(  # type: ignore[no-untyped-def]
    Q,
    k_desc,
    v_desc,
    OUT,
    LSE,
    TILES,
    START,
    STOP,
    SHIFT,
    q_stride_p,
    q_stride_b,
    q_stride_h,
    q_stride_t,
    out_stride_b,
    out_stride_h,
    out_stride_t,
    T,
    scale,
    H,
    GROUPS: tl.constexpr,
    PIECES: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    WIDE: tl.constexpr,
    WIDE_V: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    """One tile of queries of one head; `scale` includes log2(e), for exp2."""
    b = tl.program_id(1) // H
    h = tl.program_id(1) % H
    first_row = tl.load(TILES + 2 * tl.program_id(0))
    count = tl.load(TILES + 2 * tl.program_id(0) + 1)
    m = tl.arange(0, ROWS)
    channels = tl.arange(0, WIDE)
    inside = m < count
    rows = first_row + m
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, WIDE_V], tl.float32)
    q_base = Q + b.to(tl.int64) * q_stride_b + h.to(tl.int64) * q_stride_h
    for piece in tl.static_range(PIECES):
        # start and stop never decrease, so that the first and last query of the tile bound those of all others.
        low = tl.load(START + piece * T + first_row)
        inner_low = tl.load(START + piece * T + first_row + count - 1)
        inner_high = tl.load(STOP + piece * T + first_row)
        high = tl.load(STOP + piece * T + first_row + count - 1)
        row_start = tl.load(START + piece * T + rows, mask=inside, other=0)
        row_stop = tl.load(STOP + piece * T + rows, mask=inside, other=0)
        shift = tl.load(SHIFT + piece)
        q_piece = q_base + piece * q_stride_p.to(tl.int64) + rows[:, None].to(tl.int64) * q_stride_t
        q = tl.load(q_piece + channels[None, :], mask=inside[:, None] & (channels < D)[None, :], other=0.0)
        # Blocks of keys start from `low`, so that they are disjoint.
        head = tl.cdiv(inner_low - low, KEYS)
        body = low + head * KEYS
        tail = body + tl.maximum(inner_high - body, 0) // KEYS * KEYS
        edges = head + tl.cdiv(tl.maximum(high - tail, 0), KEYS)
        for edge in range(edges):
            n = tl.where(edge < head, low + edge * KEYS, tail + (edge - head) * KEYS)
            acc, total, most = _take_in(
                k_desc, v_desc, q, acc, total, most, n, shift, row_start, row_stop, b, h // GROUPS, scale,
                KEYS, WIDE, WIDE_V, True,
            )  # fmt: skip
        for n in range(body, tail, KEYS):
            acc, total, most = _take_in(
                k_desc, v_desc, q, acc, total, most, n, shift, row_start, row_stop, b, h // GROUPS, scale,
                KEYS, WIDE, WIDE_V, False,
            )  # fmt: skip
    seen = total > 0
    acc = acc / tl.where(seen, total, 1.0)[:, None]
    lse = tl.where(seen, (most + tl.math.log2(tl.where(seen, total, 1.0))) * 0.6931471805599453, float("-inf"))
    v_channels = tl.arange(0, WIDE_V)
    out_rows = OUT + b.to(tl.int64) * out_stride_b + h.to(tl.int64) * out_stride_h
    out_rows += rows[:, None].to(tl.int64) * out_stride_t
    stored = inside[:, None] & (v_channels < DV)[None, :]
    tl.store(out_rows + v_channels[None, :], acc.to(OUT.dtype.element_ty), mask=stored)
    tl.store(LSE + tl.program_id(1).to(tl.int64) * T + rows, lse, mask=inside)
