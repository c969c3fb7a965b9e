"""Attention over pieces by PyTorch's FlexAttention: one call per piece, merged by log-sum-exp in float32.

A piece becomes a block mask: blocks of keys that all queries of a block see need no mask, those at the edges of the
piece are masked by its `start` and `stop`, and the others are not computed. Unlike `flash`, it need not split a piece,
and it supports soft caps and values of another width than keys.

On CUDA the call is compiled once for all lengths: lengths are dynamic, and none is ever 1, which would be specialised.
On other devices, used only in tests, FlexAttention materialises all scores.

Imported only when it is used: FlexAttention imports PyTorch's compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from lcbench.attention.backends.bands import merge
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.rope import RopeTables
from lcbench.methods.pieces import Piece

BLOCK = 128  # queries, and keys, of a block: FlexAttention's own
FEWEST = 2  # blocks of a mask in each dimension: a size of 1 would be compiled separately
NARROWEST = 16  # channels of a head that FlexAttention's kernel takes
MASKS = 32  # cached per steered block, the oldest dropped first: enough for a call at two million tokens
# Head shapes, dtypes and scales that one process may compile; the scale is a constant of the kernel.
COMPILING = {"recompile_limit": 64, "specialize_float": True}
Compiled = Callable[..., Output]


def flex_pieces_attention(call: Call) -> Output:
    """The output [B, H, T, Dv], of one piece in the dtype of the queries, and the log-sum-exp [B, H, T], in at least
    float32, without gradients; for calls that `refusal` accepts."""
    outputs = _outputs(call)
    first = next(outputs, None)
    if first is None:
        q_BHTD = call.q_BHTD
        out = q_BHTD.new_zeros(*q_BHTD.shape[:3], call.v_BKSD.shape[3])
        return out, q_BHTD.new_full(q_BHTD.shape[:3], -math.inf, dtype=torch.float32)
    out, lse = first
    for more, more_lse in outputs:
        out = out.to(lse.dtype)
        merge(out, lse, more, more_lse)
        del more  # free it before the next output is computed
    return out, lse


def refusal(call: Call) -> str | None:
    """Why a call cannot be computed here, as the end of a sentence; None if it can."""
    dtype = call.q_BHTD.dtype
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"computes in bfloat16, float16 and float32, not in {str(dtype).removeprefix('torch.')}"
    narrow = min(call.q_BHTD.shape[-1], call.v_BKSD.shape[-1])
    return f"needs heads of at least {NARROWEST} channels, and these have {narrow}" if narrow < NARROWEST else None


@torch.no_grad()  # one compiled kernel, whether or not gradients are enabled around it
def _outputs(call: Call) -> Iterator[Output]:
    masks = _masks.setdefault(call.tables, _Masks())
    softcap = None if call.softcap is None else masks.number(call.softcap, call.q_BHTD)
    attend = _compiled() if call.q_BHTD.is_cuda else _attend
    for first, end, piece in call.shown():
        mask = masks.of(call, piece, first, end)
        q, k = call.rotated_queries(piece), call.rotated_to(piece, first, end)
        yield attend(q, k, call.v_BKSD[:, :, first:end], mask, call.scale, softcap)


class Blocks(NamedTuple):
    """A block mask for FlexAttention, all int32: each query sees the keys start_T <= j < stop_T of 0 <= j < S.

    For each of R blocks of queries, the partial (masked) and the full blocks of keys: their number [1, 1, R] and their
    indices [1, 1, R, C].
    """

    start_T: Tensor
    stop_T: Tensor
    masked_11R: Tensor
    at_masked_11RC: Tensor
    whole_11R: Tensor
    at_whole_11RC: Tensor

    @classmethod
    def of(cls, start_T: Tensor, stop_T: Tensor, keys: int, device: torch.device) -> Blocks:
        """From borders (int64, CPU) that never decrease. Only the borders are copied to the device; tensors [R, C] are
        made there."""
        T = len(start_T)
        first = torch.arange(0, max(T, 1 + (FEWEST - 1) * BLOCK), BLOCK).clamp(max=T - 1)
        last = (first + BLOCK - 1).clamp(max=T - 1)
        # In blocks of keys: all queries of a block see inner <= j < inner_end, some of them begin <= j < end.
        begin, end = start_T[first] // BLOCK, -(-stop_T[last] // BLOCK)
        inner, inner_end = -(-start_T[last] // BLOCK), stop_T[first] // BLOCK
        whole = (inner_end - inner).clamp(min=0)
        inner = torch.where(whole > 0, inner, end)  # without full blocks, all count as before them
        head, tail = inner - begin, (end - inner - whole).clamp(min=0)
        head, tail = (torch.where(begin < end, count, 0) for count in (head, tail))
        edges_5R1 = (
            torch.stack([begin, head, inner, whole, tail])[..., None].to(torch.int32).to(device, non_blocking=True)
        )
        begin, head, inner, whole, tail = edges_5R1
        most = max(FEWEST, -(-keys // BLOCK))
        c = torch.arange(most, dtype=torch.int32, device=device)
        at_masked = torch.where(c < head, begin + c, inner + whole + c - head)
        masked, all_seen = (
            (count[None, None, :, 0].clone(), at.clamp(max=most - 1)[None, None])
            for count, at in ((head + tail, at_masked), (whole, inner + c))
        )
        # Separate tensors, here and above: a compiled kernel copies inputs that are not aligned to 16 bytes.
        start, stop = (x.to(torch.int32).to(device, non_blocking=True) for x in (start_T, stop_T))
        return cls(start, stop, *masked, *all_seen)


def _attend(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, blocks: Blocks, scale: float, softcap: Tensor | None
) -> Output:
    """The function that is compiled. It builds the mask itself, so that the compiler sees arguments and no closure;
    `softcap` is a tensor, since a number would become a constant of the kernel."""

    def seen(b: Tensor, h: Tensor, t: Tensor, j: Tensor) -> Tensor:
        return (j >= blocks.start_T[t]) & (j < blocks.stop_T[t])

    def capped(score: Tensor, b: Tensor, h: Tensor, t: Tensor, j: Tensor) -> Tensor:
        assert softcap is not None
        return torch.tanh(score / softcap) * softcap

    mask = BlockMask.from_kv_blocks(
        blocks.masked_11R,
        blocks.at_masked_11RC,
        blocks.whole_11R,
        blocks.at_whole_11RC,
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=(q_BHTD.shape[2], k_BKSD.shape[2]),
        compute_q_blocks=False,  # only needed for gradients
    )
    out, aux = flex_attention(
        q_BHTD,
        k_BKSD,
        v_BKSD,
        None if softcap is None else capped,
        mask,
        scale,
        enable_gqa=q_BHTD.shape[1] != k_BKSD.shape[1],
        return_aux=AuxRequest(lse=True),
    )
    assert aux.lse is not None  # requested above
    return out, aux.lse


@cache
def _compiled(backend: str | Callable[..., Any] = "inductor") -> Compiled:
    """`_attend` compiled for any number of queries and keys. Raises: RuntimeError (PyTorch's) if it does not compile:
    it never runs uncompiled, which would materialise all scores."""
    compiled = torch.compile(_attend, fullgraph=True, backend=backend)

    def attend(q: Tensor, k: Tensor, v: Tensor, blocks: Blocks, scale: float, softcap: Tensor | None) -> Output:
        for x in (q, k, v):
            torch._dynamo.maybe_mark_dynamic(x, 2)
        for x in blocks:
            torch._dynamo.maybe_mark_dynamic(x, (0,) if x.ndim == 1 else tuple(range(2, x.ndim)))
        with torch._dynamo.config.patch(COMPILING):
            return compiled(q, k, v, blocks, scale, softcap)

    return attend


@dataclass(eq=False)
class _Masks:
    """The masks of a steered block, made once for all layers with equal pieces. Pieces are different objects in each
    layer, so their borders are compared, as numbers on the CPU."""

    kept: list[tuple[Tensor, Tensor, tuple[int, int, torch.device], Blocks]] = field(default_factory=list)
    numbers: dict[tuple[float, torch.device], Tensor] = field(default_factory=dict)

    def of(self, call: Call, piece: Piece, first: int, end: int) -> Blocks:
        """The mask of a piece over the keys first <= j < end of a call, relative to the first of them."""
        origin, device = call.first_key + first, call.q_BHTD.device
        place = (origin, end - first, device)
        for start, stop, known, mask in self.kept:
            if known == place and torch.equal(start, piece.start) and torch.equal(stop, piece.stop):
                return mask
        mask = Blocks.of(piece.start - origin, piece.stop - origin, end - first, device)
        self.kept = [*self.kept[1 - MASKS :], (piece.start, piece.stop, place, mask)]
        return mask

    def number(self, value: float, like: Tensor) -> Tensor:
        """A number [] on the device of a tensor, copied there once."""
        return self.numbers.setdefault((value, like.device), torch.tensor(value, device=like.device))


_masks: WeakKeyDictionary[RopeTables, _Masks] = WeakKeyDictionary()
