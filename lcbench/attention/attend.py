"""One softmax over keys that lie in several places: live ones, and those that a memory holds in a way of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from lcbench.attention.backends.dispatch import DECODE_QUERIES, Call, BackendSelector
from lcbench.attention.cache.growing import RotatedKeyCache, rounded
from lcbench.attention.cache.search import search_attention
from lcbench.attention.cache.window import GONE, Keys
from lcbench.attention.rope import Rope, RopeTables
from lcbench.core.errors import UserError
from lcbench.methods.pieces import Memory, Piece

ROTATED_AT_ONCE = 2**28  # bytes of keys that a call rotates for itself: 128k tokens of Llama 3 8B in bfloat16


class Part(NamedTuple):
    """Consecutive keys held in the same way, the first at position `first` of the row, the pieces of them, and what is
    known of them rotated."""

    k_BKSD: Tensor
    v_BKSD: Tensor
    first: int
    pieces: list[Piece]
    memory: Memory | None = None
    rotated_keys: RotatedKeyCache | None = None


def attend(
    q_BHTD: Tensor,
    keys: Keys,
    pieces: list[Piece],
    rows: slice,
    pad: int,
    rope: Rope,
    tables: RopeTables,
    scale: float,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
    choice: BackendSelector | None = None,
) -> Tensor:
    """Softmax attention of un-rotated queries of `rows`, which have `pad` tokens of padding, over the keys that the
    pieces show them -> [B, H, T, Dv] in the queries' dtype.

    `softcap` as in `matmul_attention`. `sinks_H` are logits that take part in the softmax and answer nothing (GPT-OSS).
    `choice` takes a backend for each call, the fastest by default; a search of memory is none of theirs.
    """
    found = []
    for piece in filter(_searched, pieces):
        # Keys in memory are searched un-rotated, at position 0: the factor that a RoPE may put on cos and sin there
        # (YaRN's) goes on the queries once more.
        q = tables.rotate(tables.rotate(q_BHTD, piece.q_pos, rope), torch.zeros_like(piece.q_pos), rope)
        found.append(search_attention(q, keys, piece, rows, pad, scale, softcap))
    parts = _parts(q_BHTD, keys, pieces, rows, pad)
    return attend_parts(q_BHTD, parts, rope, tables, scale, softcap, sinks_H, found, choice)


def attend_parts(
    q_BHTD: Tensor,
    parts: Iterable[Part],
    rope: Rope,
    tables: RopeTables,
    scale: float,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
    found: Sequence[tuple[Tensor, Tensor]] = (),
    choice: BackendSelector | None = None,
) -> Tensor:
    """One softmax over several parts, and over further keys whose answers with log-sum-exp are `found` already."""
    choice = choice or BackendSelector()
    answers = chain((_attend_part(q_BHTD, part, rope, tables, scale, softcap, choice) for part in parts), found)
    out, lse = next(answers)
    for more, more_lse in answers:
        share = torch.sigmoid(more_lse - lse).nan_to_num(0.0)  # nan: neither side saw anything
        out, lse = out.to(lse.dtype).lerp(more.to(lse.dtype), share[..., None]), torch.logaddexp(lse, more_lse)
        del more  # before there is another one
    return (out if sinks_H is None else with_sinks(out, lse, sinks_H)).to(q_BHTD.dtype)


def with_sinks(out_BHTD: Tensor, lse_BHT: Tensor, sinks_H: Tensor) -> Tensor:
    """The answer once logits that answer nothing have taken their share of the softmax."""
    return out_BHTD * torch.sigmoid(lse_BHT - sinks_H.to(lse_BHT.dtype)[:, None])[..., None]


def _parts(q_BHTD: Tensor, keys: Keys, pieces: list[Piece], rows: slice, pad: int) -> Iterator[Part]:
    """What the pieces see, live keys first. Pieces that are held alike share a part: what is held in the model's own
    way stays one softmax, as far as its keys are rotated at once."""
    stretches = [(keys.k_BKSD, keys.v_BKSD, keys.first)]
    if keys.store is not None and keys.first > 0:
        stretches.append((keys.store.keys[:, :, : keys.first], keys.store.values[:, :, : keys.first], 0))
    held = keys.held(q_BHTD)
    for k_BKSD, v_BKSD, first in stretches:
        live = k_BKSD is keys.k_BKSD
        k_all, v_all = (x[rows, :, max(0, pad - first) :] for x in (k_BKSD, v_BKSD))
        rotated_keys = None
        if keys.layer is not None and q_BHTD.shape[2] <= DECODE_QUERIES:
            rotated_keys = keys.layer.rotated_keys(keys.k_BKSD, rows, pad)
        at_once = _keys_at_once(q_BHTD, k_all, v_all) if rotated_keys is None else k_all.shape[2]
        for begin in range(0, k_all.shape[2], at_once):
            k, v = (x[:, :, begin : begin + at_once] for x in (k_all, v_all))
            begin += max(0, first - pad)
            groups: dict[Memory | None, list[Piece]] = {}
            for piece in pieces:
                visible = piece.of_keys(begin, begin + k.shape[2], keys.origin(pad))
                if piece.memory is None and not live and not visible.empty:
                    raise UserError(GONE)
                if not _searched(piece) and not visible.empty:
                    memory = piece.memory or held
                    groups.setdefault(None if _plain(memory, q_BHTD) else memory, []).append(visible)
            yield from (Part(k, v, begin, group, memory, rotated_keys) for memory, group in groups.items())


def _keys_at_once(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor) -> int:
    """How many keys a part may have, so that a million of them rotated take no more memory than a few: all of them
    where gradients keep everything anyway."""
    B, K, S, D = k_BKSD.shape
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHTD, k_BKSD, v_BKSD)):
        return max(1, S)
    return max(1, ROTATED_AT_ONCE // (B * K * D * q_BHTD.itemsize))


def _searched(piece: Piece) -> bool:
    return piece.memory is not None and piece.memory.top_k is not None


def _plain(memory: Memory | None, q_BHTD: Tensor) -> bool:
    """Whether keys are held as the model's own are: in the dtype and place of its queries, without bounds."""
    return memory is None or (
        memory.dtype in (None, q_BHTD.dtype)
        and memory.device in (None, q_BHTD.device)
        and memory.heads is None
        and memory.queries is None
    )


def _attend_part(
    q_BHTD: Tensor, part: Part, rope: Rope, tables: RopeTables, scale: float, softcap: float | None, choice: BackendSelector
) -> tuple[Tensor, Tensor]:
    """Answer and log-sum-exp over one part, a few heads and queries at a time if its memory bounds them."""
    if part.memory is None:
        return _kernel(q_BHTD, part, rope, tables, scale, softcap, choice)
    H, T = q_BHTD.shape[1:3]
    K = part.k_BKSD.shape[1]
    groups = H // K
    heads = max(1, (part.memory.heads or H) // groups)  # key heads
    rows = part.memory.queries or T
    answers = []
    for first_head in range(0, K, heads):
        of_head = slice(first_head, first_head + heads)
        q = q_BHTD[:, first_head * groups : (first_head + heads) * groups]
        k, v = (_as_held(x[:, of_head], part.memory, q) for x in (part.k_BKSD, part.v_BKSD))
        blocks = []
        for a in range(0, T, rows):
            of_rows = slice(a, a + rows)
            pieces = [piece.of_queries(of_rows) for piece in part.pieces]
            bounded = Part(k, v, part.first, pieces)
            blocks.append(_kernel(q[:, :, of_rows], bounded, rope, tables, scale, softcap, choice))
        answers.append([torch.cat(x, dim=2) for x in zip(*blocks, strict=True)])
    out, lse = (torch.cat(x, dim=1) for x in zip(*answers, strict=True))
    return out, lse


def _as_held(x_BKSD: Tensor, memory: Memory, q_BHTD: Tensor) -> Tensor:
    """Keys or values rounded as the memory holds them, in the queries' dtype and place."""
    moved = rounded(x_BKSD, memory.dtype).to(q_BHTD.device, non_blocking=q_BHTD.is_cuda)
    return moved.to(q_BHTD.dtype)  # only now: it may be wider


def _kernel(
    q_BHTD: Tensor, part: Part, rope: Rope, tables: RopeTables, scale: float, softcap: float | None, choice: BackendSelector
) -> tuple[Tensor, Tensor]:
    keys = part.k_BKSD, part.v_BKSD
    return choice(Call(q_BHTD, *keys, part.pieces, rope, tables, part.first, scale, softcap, part.rotated_keys))
