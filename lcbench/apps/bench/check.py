"""Correctness before speed: every way of attending against the float64 reference, on random rows of the length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lcbench.apps.bench.subjects import Subject
from lcbench.apps.bench.target import SEED, Target
from lcbench.attention.backends.reference import reference_attention
from lcbench.attention.rope import frequencies
from lcbench.methods.base import layer_scale

ROWS = 64
ELEMENTS = 2**25  # of the reference's largest tensor, in complex128: 512 MiB
# Largest relative error of a row: a few roundings of the dtype.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
# A position is rounded to float32 when it is turned into an angle; the error of a score grows with it.
TOLERANCE_A_POSITION = 2**-26


class WrongAttentionError(Exception):
    """A way of attending differs from the reference, so that its timings would mean nothing; the message begins a
    sentence."""


@dataclass(frozen=True)
class Check:
    """The largest relative error of a row, in one layer, and what was allowed."""

    subject: str
    length: int
    layer: int
    rows: int
    error: float
    tolerance: float


@torch.no_grad()
def check(target: Target, subject: Subject, length: int) -> Check:
    """Compare a subject's attention with the float64 reference: random rows, and the first and the last.

    Relative positions and visible keys are read from the method's pieces, which have tests of their own; rotation,
    kernels and merges are what is checked. Raises: WrongAttentionError.
    """
    index = target.longest_layer(subject.method, length)
    q, k, v = target.queries_keys_values(length)
    with subject.running():
        out = subject.attend(index, q, k, v)
    drawn = torch.randperm(length, generator=torch.Generator().manual_seed(SEED))[:ROWS]
    rows = torch.tensor(sorted({0, length - 1, *drawn.tolist()}))  # in order, as every caller of `pieces` has them
    expected = _reference(target, subject, index, q, k, v, rows)
    actual = out[0, rows.to(out.device)].double()
    error = float(((actual - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max())
    found = Check(subject.name, length, index, len(rows), error, _tolerance(target, subject, index, rows))
    if not error <= found.tolerance:
        raise WrongAttentionError(
            f"it differs from the float64 reference by {error:.2g} of a row in layer {index}, more than "
            f"{found.tolerance:.2g}"
        )
    return found


def _tolerance(target: Target, subject: Subject, index: int, rows: Tensor) -> float:
    """The largest allowed relative error of a row, for keys that a method stores in another dtype, which rounds
    them."""
    length = int(rows[-1]) + 1
    pieces = subject.method.for_prompt(length).pieces(rows, torch.arange(length), index)
    dtypes = {target.dtype, *(piece.memory.dtype for piece in pieces if piece.memory and piece.memory.dtype)}
    furthest = max(int(piece.q_pos.max()) for piece in pieces if not piece.empty) / subject.method.position_unit
    return max(TOLERANCE[dtype] for dtype in dtypes) + furthest * TOLERANCE_A_POSITION


def _reference(
    target: Target, subject: Subject, index: int, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, rows_R: Tensor
) -> Tensor:
    """The reference output of some rows, [R, H, D] in float64, computed a few rows and one key head at a time."""
    rope = target.layers[index][1].rope
    length, device = q_BHTD.shape[2], q_BHTD.device
    inv_freq, factor = torch.zeros(0, device=device), 1.0
    if rope.rotary is not None:
        inv_freq, factor = frequencies(subject.method, rope, subject.lengths)
    groups = target.heads // target.kv_heads
    count = max(1, ELEMENTS // (groups * length * max(1, len(inv_freq))))
    scale = float(getattr(target.layers[index][0], "scaling", target.head_dim**-0.5))
    found = []
    for rows in torch.split(rows_R, count):
        kinds = target.kv_heads if subject.method.headwise else 1
        plans = [_plan(target, subject, index, rows, length, head) for head in range(kinds)]
        score_scale = None if target.slides(index) else layer_scale(subject.method, rows, subject.lengths, index)
        heads = [
            reference_attention(
                q_BHTD[:, head * groups : (head + 1) * groups, rows.to(device)],
                k_BKTD[:, head : head + 1],
                v_BKTD[:, head : head + 1],
                plans[head % kinds][0].to(device),
                plans[head % kinds][1].to(device),
                inv_freq.to(device),
                pairing=rope.pairing,
                attention_factor=factor,
                scale=scale,
                score_scale_T=None if score_scale is None else score_scale.to(device),
            )
            for head in range(target.kv_heads)
        ]
        found.append(torch.cat(heads, dim=1)[0].transpose(0, 1))
    return torch.cat(found)


def _plan(
    target: Target, subject: Subject, index: int, rows_R: Tensor, length: int, head: int
) -> tuple[Tensor, Tensor]:
    """Relative positions [R, length] of some rows, and which keys they see, in a KV head."""
    j = torch.arange(length)
    rel = torch.zeros(len(rows_R), length, dtype=torch.long)
    seen = torch.zeros(len(rows_R), length, dtype=torch.bool)
    if target.slides(index):
        rel = rows_R[:, None] - j
        return rel, (rel >= 0) & (rel < (target.layers[index][1].window or 0))
    for piece in subject.method.for_prompt(length).pieces(rows_R, j, index):
        if not piece.holds_for(head):
            continue
        visible = (j >= piece.start[:, None]) & (j < piece.stop[:, None])
        rel = torch.where(visible, piece.q_pos[:, None] - piece.k_pos, rel)
        seen |= visible
    return rel.double() / subject.method.position_unit, seen
