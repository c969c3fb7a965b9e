"""Attention of one query per row, as in decode: no mask, and no host work that grows with the number of keys.

Each piece shows a single query one range of keys. These ranges and positions were computed once for all layers
(`Look`), and all keys but the new ones are rotated already.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcbench.attention.backends.bands import merge
from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.products import products, weighted
from lcbench.attention.backends.tiled import cpu_kernel
from lcbench.attention.cache.ways import Look


def one_query(call: Call, look: Look) -> Output:
    """The output [B, H, 1, Dv] and the log-sum-exp [B, H, 1] of the scores, in at least float32, without gradients."""
    B, H = call.q_BHTD.shape[:2]
    K, Dv = call.v_BKSD.shape[1], call.v_BKSD.shape[3]
    q_PBHTD = call.tables.rotate_to_each(call.q_BHTD, look.q_pos_P, call.rope)
    q_PBKGD = q_PBHTD.reshape(len(look.shown), B, K, H // K, -1).unbind()  # queries that share a key head are its rows
    keys = [call.rotated_by(way, start, stop) for start, stop, way in look.shown]
    plain = call.softcap is None and call.same_width and call.q_BHTD.dtype.itemsize >= 4
    compute = _by_kernel if plain and call.q_BHTD.device.type == "cpu" else _by_products
    out, lse = compute(call, look, q_PBKGD, keys)
    return out.reshape(B, H, 1, Dv), lse.reshape(B, H, 1)


def _by_kernel(call: Call, look: Look, q_PBKGD: tuple[Tensor, ...], keys: list[Tensor]) -> Output:
    """PyTorch's fused kernel for CPUs: one call per piece, merged by log-sum-exp."""
    outputs = (
        cpu_kernel(q, k, call.v_BKSD.narrow(2, start, stop - start), False, call.scale)
        for q, k, (start, stop, _) in zip(q_PBKGD, keys, look.shown, strict=True)
    )
    out, lse = next(outputs)
    for more, more_lse in outputs:
        merge(out, lse, more, more_lse)
    return out, lse


def _by_products(call: Call, look: Look, q_PBKGD: tuple[Tensor, ...], keys: list[Tensor]) -> Output:
    """Matrix products, one softmax over all pieces."""
    parts = [products(q.flatten(0, 1), k.flatten(0, 1)) for q, k in zip(q_PBKGD, keys, strict=True)]
    scores_XGS = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)).mul_(call.scale)
    if call.softcap is not None:
        scores_XGS.div_(call.softcap).tanh_().mul_(call.softcap)
    weights = scores_XGS.softmax(-1)
    lse = (
        scores_XGS.amax(-1) - weights.amax(-1).log()
    )  # the largest weight is 1 / the sum of exponentials, relative to the maximum
    lengths = [stop - start for start, stop in look.runs]
    shares = (weights,) if len(lengths) == 1 else torch.split(weights, lengths, dim=-1)
    found = [
        weighted(share, call.v_BKSD.narrow(2, start, stop - start).flatten(0, 1))
        for share, (start, stop) in zip(shares, look.runs, strict=True)
    ]
    return sum(found[1:], start=found[0]), lse
