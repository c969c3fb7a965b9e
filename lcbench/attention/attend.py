"""Softmax attention over keys in different stores: the KV cache, and a method's memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress
from typing import NamedTuple

import torch
from torch import Tensor

from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.dispatch import DECODE_QUERIES, BackendSelector
from lcbench.attention.cache.buffer import rounded
from lcbench.attention.cache.growing import RotatedKeyCache
from lcbench.attention.cache.search import search_attention
from lcbench.attention.cache.ways import Look
from lcbench.attention.cache.window import EVERY_HEAD, GONE, Keys
from lcbench.attention.rope import Rope, RopeTables
from lcbench.core.errors import UserError
from lcbench.methods.pieces import Memory, Piece

ROTATED_AT_ONCE = 2**28  # bytes of keys rotated per backend call: 128k tokens of Llama 3 8B in bfloat16


@dataclass(frozen=True, eq=False)
class Scoring:
    """What all parts of one softmax have in common: the layer's rotation, score scale and soft cap, and the backend.

    `softcap` as in `Call`. `sinks_H` are logits that take part in the softmax and add nothing to the output (GPT-OSS).
    `selector` chooses a backend for each call, the fastest by default; memory search uses Faiss instead.
    """

    rope: Rope
    tables: RopeTables
    scale: float
    softcap: float | None = None
    sinks_H: Tensor | None = None
    selector: BackendSelector = field(default_factory=BackendSelector)


class Part(NamedTuple):
    """Consecutive keys in one store, the first at position `first` of the row; the pieces that read them; and the cache
    of their rotated copies."""

    k_BKSD: Tensor
    v_BKSD: Tensor
    first: int
    pieces: list[Piece]
    memory: Memory | None = None
    rotated_keys: RotatedKeyCache | None = None
    look: Look | None = None


def attend(
    q_BHTD: Tensor,
    keys: Keys,
    pieces: list[Piece],
    rows: slice,
    pad: int,
    scoring: Scoring,
    look: Look | None = None,
) -> Tensor:
    """Softmax attention of un-rotated queries of the batch rows `rows`, which have `pad` tokens of left padding, over
    the keys that the pieces show them -> [B, H, T, Dv] in the queries' dtype. Adjacent KV heads with the same pieces
    are computed together. `look`: the key ranges of a single query, if they were precomputed."""
    if look is not None and keys.store is None and keys.storage(q_BHTD) is None:
        ((k, v, first, _),) = stored(keys, rows, pad)
        part = Part(k, v, first, pieces, None, _rotated_keys(q_BHTD, keys, rows, pad), look)
        if scoring.sinks_H is not None:
            return attend_parts(q_BHTD, [part], scoring)
        return _compute(q_BHTD, part, scoring, alone=True)[0].to(q_BHTD.dtype)
    if all(piece.heads is None for piece in pieces):
        return _attend_heads(q_BHTD, keys, pieces, rows, pad, scoring)
    K = keys.k_BKSD.shape[1]
    groups, outputs = q_BHTD.shape[1] // K, []
    for heads, shown in _runs_of_heads(pieces, K):
        of = slice(heads.start * groups, heads.stop * groups)
        sinks = None if scoring.sinks_H is None else scoring.sinks_H[of]
        own = replace(scoring, sinks_H=sinks)
        outputs.append(_attend_heads(q_BHTD[:, of], replace(keys, heads=heads), shown, rows, pad, own))
    return torch.cat(outputs, dim=1)


def _runs_of_heads(pieces: list[Piece], kv_heads: int) -> Iterator[tuple[slice, list[Piece]]]:
    """Slices of adjacent KV heads that have the same pieces, with these pieces."""
    shown = [[piece.holds_for(head) for piece in pieces] for head in range(kv_heads)]
    first = 0
    for head in range(1, kv_heads + 1):
        if head == kv_heads or shown[head] != shown[first]:
            yield slice(first, head), list(compress(pieces, shown[first]))
            first = head


def _attend_heads(q_BHTD: Tensor, keys: Keys, pieces: list[Piece], rows: slice, pad: int, scoring: Scoring) -> Tensor:
    """`attend` for the KV heads `keys.heads` and the query heads of their groups."""
    rope, tables, found = scoring.rope, scoring.tables, []
    for piece in filter(_searched, pieces):
        # Keys in memory are searched un-rotated, which is position 0 except for a factor on cos and sin (YaRN's): the
        # queries take it a second time, for the keys.
        q = tables.rotate(tables.rotate(q_BHTD, piece.q_pos, rope), torch.zeros_like(piece.q_pos), rope)
        found.append(search_attention(q, keys, piece, rows, pad, scoring.scale, scoring.softcap))
    return attend_parts(q_BHTD, _parts(q_BHTD, keys, pieces, rows, pad), scoring, found)


def attend_parts(q_BHTD: Tensor, parts: Iterable[Part], scoring: Scoring, found: Sequence[Output] = ()) -> Tensor:
    """One softmax over several parts and over the keys behind `found`, outputs [B, H, T, Dv] with log-sum-exps."""
    outputs = chain((_attend_part(q_BHTD, part, scoring) for part in parts), found)
    out, lse = next(outputs)
    for more, more_lse in outputs:
        share = torch.sigmoid(more_lse - lse).nan_to_num(0.0)  # nan: neither side has a key
        out, lse = out.to(lse.dtype).lerp(more.to(lse.dtype), share[..., None]), torch.logaddexp(lse, more_lse)
        del more  # free it before the next output is computed
    return (out if scoring.sinks_H is None else with_sinks(out, lse, scoring.sinks_H)).to(q_BHTD.dtype)


def with_sinks(out_BHTD: Tensor, lse_BHT: Tensor, sinks_H: Tensor) -> Tensor:
    """The output rescaled for sink logits, which take part in the softmax but have no values (GPT-OSS)."""
    return out_BHTD * torch.sigmoid(lse_BHT - sinks_H.to(lse_BHT.dtype)[:, None])[..., None]


def _parts(q_BHTD: Tensor, keys: Keys, pieces: list[Piece], rows: slice, pad: int) -> Iterator[Part]:
    """The parts of all pieces, those of the KV cache first. Pieces whose keys are in the same store share a part: keys
    in the model's own dtype and on its device are one backend call, up to ROTATED_AT_ONCE bytes of keys."""
    storage, rotated_keys = keys.storage(q_BHTD), _rotated_keys(q_BHTD, keys, rows, pad)
    for k_all, v_all, first, live in stored(keys, rows, pad):
        # Cached rotated keys need no temporary buffer, however many they are.
        at_once = _keys_at_once(q_BHTD, k_all, v_all) if rotated_keys is None else k_all.shape[2]
        for begin in range(0, k_all.shape[2], at_once):
            k, v = (x[:, :, begin : begin + at_once] for x in (k_all, v_all))
            start = first + begin
            groups: dict[Memory | None, list[Piece]] = {}
            for piece in pieces:
                visible = piece.of_keys(start, start + k.shape[2], keys.origin(pad))
                if visible.empty:
                    continue
                if piece.memory is None and not live:
                    raise UserError(GONE)
                if not _searched(piece):
                    memory = piece.memory or storage
                    groups.setdefault(None if _plain(memory, q_BHTD) else memory, []).append(visible)
            yield from (Part(k, v, start, group, memory, rotated_keys) for memory, group in groups.items())


def _rotated_keys(q_BHTD: Tensor, keys: Keys, rows: slice, pad: int) -> RotatedKeyCache | None:
    """The cache of the rows' rotated keys, for decode; None if there is none."""
    if keys.layer is None or q_BHTD.shape[2] > DECODE_QUERIES:
        return None
    return keys.layer.rotated_keys(keys.k_BKSD, rows, keys.heads, pad)


def stored(keys: Keys, rows: slice, pad: int) -> Iterator[tuple[Tensor, Tensor, int, bool]]:
    """Keys and values [B, K, n, D] of the rows without padding, the position of the first (padding not counted), and
    whether they are in the KV cache itself: first the cache's, then those that were moved to the layer's memory."""
    places = [(keys.k_BKSD, keys.v_BKSD, keys.first, True)]
    if keys.store is not None and keys.first > 0:
        places.append((keys.store.keys[:, :, : keys.first], keys.store.values[:, :, : keys.first], 0, False))
    for k_BKSD, v_BKSD, first, live in places:
        if rows.stop - rows.start < k_BKSD.shape[0] or keys.heads != EVERY_HEAD or pad > first:
            k_BKSD, v_BKSD = (x[rows, keys.heads, max(0, pad - first) :] for x in (k_BKSD, v_BKSD))
        yield k_BKSD, v_BKSD, max(0, first - pad), live


def _keys_at_once(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor) -> int:
    """The number of keys per part, which bounds the buffer of rotated keys; all of them if gradients are needed, since
    autograd keeps every buffer anyway."""
    B, K, S, D = k_BKSD.shape
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHTD, k_BKSD, v_BKSD)):
        return max(1, S)
    return max(1, ROTATED_AT_ONCE // (B * K * D * q_BHTD.itemsize))


def _searched(piece: Piece) -> bool:
    return piece.memory is not None and piece.memory.top_k is not None


def _plain(memory: Memory | None, q_BHTD: Tensor) -> bool:
    """Whether keys are stored in the dtype and on the device of the queries, with no limit on heads or queries per
    call."""
    return memory is None or (
        memory.dtype in (None, q_BHTD.dtype)
        and memory.device in (None, q_BHTD.device)
        and memory.heads is None
        and memory.queries is None
    )


def _attend_part(q_BHTD: Tensor, part: Part, scoring: Scoring) -> Output:
    """Output and log-sum-exp over one part, in several calls if its memory limits the heads or queries per call."""
    if part.memory is None:
        return _compute(q_BHTD, part, scoring)
    H, T = q_BHTD.shape[1:3]
    K = part.k_BKSD.shape[1]
    groups = H // K
    heads = max(1, (part.memory.heads or H) // groups)  # key heads
    rows = part.memory.queries or T
    outputs = []
    for first_head in range(0, K, heads):
        of_head = slice(first_head, first_head + heads)
        q = q_BHTD[:, first_head * groups : (first_head + heads) * groups]
        k, v = (_as_stored(x[:, of_head], part.memory, q) for x in (part.k_BKSD, part.v_BKSD))
        blocks = []
        for a in range(0, T, rows):
            of_rows = slice(a, a + rows)
            pieces = [piece.of_queries(of_rows) for piece in part.pieces]
            blocks.append(_compute(q[:, :, of_rows], Part(k, v, part.first, pieces), scoring))
        outputs.append([torch.cat(x, dim=2) for x in zip(*blocks, strict=True)])
    out, lse = (torch.cat(x, dim=1) for x in zip(*outputs, strict=True))
    return out, lse


def _as_stored(x_BKSD: Tensor, memory: Memory, q_BHTD: Tensor) -> Tensor:
    """Keys or values rounded to the memory's dtype, returned in the dtype and on the device of the queries."""
    moved = rounded(x_BKSD, memory.dtype).to(q_BHTD.device, non_blocking=q_BHTD.is_cuda)
    return moved.to(q_BHTD.dtype)  # after the transfer: this dtype may be wider


def _compute(q_BHTD: Tensor, part: Part, scoring: Scoring, *, alone: bool = False) -> Output:
    return scoring.selector(
        Call(
            q_BHTD,
            part.k_BKSD,
            part.v_BKSD,
            part.pieces,
            scoring.rope,
            scoring.tables,
            part.first,
            scoring.scale,
            scoring.softcap,
            part.rotated_keys,
            part.look,
            alone,
        )
    )
