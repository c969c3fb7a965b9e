"""Memory search: each query and head attends only to its highest-scoring keys, found by Faiss.

The Focused Transformer's paper looks up k = 128 keys per query; its released code attends to all. All keys of a memory
have the same rotary position, so that the score is the inner product of the rotated query and the key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lcbench.attention.cache.window import Keys, MemoryStore
from lcbench.core.errors import UserError
from lcbench.methods.pieces import Piece

SMALL = 1024  # keys; with fewer, the search is exact
GROWTH = 4  # the partition is rebuilt once the number of keys has grown by this factor
PROBED = 8  # one in this many cells of the partition is searched


class KeySearch:
    """The keys of one row of a batch, one Faiss index per KV head: `flat` is exact, `ivf` searches the nearest
    cells."""

    def __init__(self, kind: str, heads: int, dim: int) -> None:
        import faiss

        self.partitioned = kind == "ivf"
        self.indexes: list[Any] = [faiss.IndexFlat(dim, faiss.METRIC_INNER_PRODUCT) for _ in range(heads)]
        self.made_for = SMALL

    @property
    def size(self) -> int:
        """Number of keys per head."""
        return int(self.indexes[0].ntotal)

    def add(self, k_KSD: Tensor) -> None:
        """Add the keys [K, S, D] from the first that is not in the index yet."""
        if self.partitioned and k_KSD.shape[1] >= GROWTH * self.made_for:
            self.indexes = [_partition(_numpy(keys)) for keys in k_KSD]
            self.made_for = k_KSD.shape[1]
        for index, keys in zip(self.indexes, k_KSD, strict=True):
            index.add(_numpy(keys[index.ntotal :]))

    def best(self, head: int, queries_ND: Tensor, top_k: int) -> Tensor:
        """Indices [N, top_k] of each query's best keys; -1 where there are fewer."""
        index = self.indexes[head]
        if cells := getattr(index, "nlist", 0):
            index.nprobe = max(1, cells // PROBED)
        return torch.from_numpy(index.search(_numpy(queries_ND), top_k)[1])


def _partition(keys: Any) -> Any:
    """An empty index with as many cells as the root of the number of keys, by k-means with a fixed seed."""
    import faiss

    dim = keys.shape[1]
    index = faiss.IndexIVFFlat(
        faiss.IndexFlat(dim, faiss.METRIC_INNER_PRODUCT), dim, int(len(keys) ** 0.5), faiss.METRIC_INNER_PRODUCT
    )
    index.cp.max_points_per_centroid = 64
    index.cp.min_points_per_centroid = 1
    index.train(keys)
    return index


def search_attention(
    q_BHTD: Tensor, keys: Keys, piece: Piece, rows: slice, pad: int, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attention of the rotated queries of `rows` over their best keys before piece.stop, all keys at position 0.

    Keys that have left the window are added to the memory; without one (no cache, or one of another type) an index is
    built for this call. Returns the output [B, H, T, Dv] in float32 and the log-sum-exp [B, H, T]; 0 and -inf for a
    query without memory. Raises: UserError if gradients are required.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHTD, keys.k_BKSD, keys.v_BKSD)):
        raise UserError("memory=knn has no gradient; train with memory=dense.")
    assert piece.memory is not None
    store = keys.store or MemoryStore(piece.memory)
    out = q_BHTD.new_zeros(*q_BHTD.shape[:3], keys.v_BKSD.shape[-1], dtype=torch.float32)
    lse = q_BHTD.new_full(q_BHTD.shape[:3], -math.inf, dtype=torch.float32)
    for a, b, stop in _stretches(piece.stop):
        if stop == 0:
            continue
        store.take(keys.k_BKSD, keys.v_BKSD, keys.first, pad + stop)
        for n, row in enumerate(range(len(keys.k_BKSD))[rows]):
            out[n, :, a:b], lse[n, :, a:b] = _attend_best(
                q_BHTD[n, :, a:b].float(), store, row, slice(pad, pad + stop), scale, softcap
            )
    return out, lse


def _attend_best(
    q_HTD: Tensor, store: MemoryStore, row: int, seen: slice, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attention of one row's queries [H, T, D] over their best keys among the keys `seen` of the store."""
    H, T, D = q_HTD.shape
    keys_KSD, values_KSD = store.keys[row, :, seen], store.values[row, :, seen]
    K, top_k = len(keys_KSD), store.memory.top_k
    assert top_k is not None
    search = store.searches.get(row)
    if search is None or search.size > keys_KSD.shape[1]:  # the cache was cropped
        search = store.searches[row] = KeySearch(store.memory.index, K, D)
    search.add(keys_KSD)
    q_KND = q_HTD.reshape(K, H // K * T, D)
    out, lse = [], []
    for head in range(K):
        found = search.best(head, q_KND[head], top_k)
        at = found.clamp(min=0).to(keys_KSD.device)
        keys_NkD, values_NkD = (x[head][at].to(q_HTD) for x in (keys_KSD, values_KSD))
        scores = torch.einsum("nd,nkd->nk", q_KND[head], keys_NkD) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill((found < 0).to(scores.device), -math.inf)
        out.append(torch.einsum("nk,nkd->nd", scores.softmax(-1).nan_to_num(0.0), values_NkD))  # nan: no key found
        lse.append(scores.logsumexp(-1))
    return torch.stack(out).view(H, T, -1), torch.stack(lse).view(H, T)


def _stretches(stop_T: Tensor) -> Iterator[tuple[int, int, int]]:
    """Ranges a <= t < b of queries with equal `stop`, as (a, b, stop)."""
    values, counts = torch.unique_consecutive(stop_T, return_counts=True)
    b = 0
    for stop, count in zip(values.tolist(), counts.tolist(), strict=True):
        a, b = b, b + count
        yield a, b, stop


def _numpy(x: Tensor) -> Any:
    return x.detach().to("cpu", torch.float32).contiguous().numpy()
