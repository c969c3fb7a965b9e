"""Attention of one query per row, as in decode: no mask, and no host work that grows with the number of keys.

Each piece shows a single query one range of keys. These ranges and positions were computed once for all layers
(`Look`), and all keys but the new ones are rotated already.
"""

from __future__ import annotations

import torch

from lcbench.attention.backends.call import Call, Output
from lcbench.attention.backends.products import products, weighted
from lcbench.attention.cache.ways import Look


def one_query(call: Call, look: Look) -> Output:
    """The output [B, H, 1, Dv] and the log-sum-exp [B, H, 1] of the scores, in at least float32, without gradients; an
    empty log-sum-exp if `call.alone`.

    Matrix products with one softmax over all pieces: on a CPU as fast as its fused kernel for one piece, and faster
    than one kernel call per piece and merging them.
    """
    B, H = call.q_BHTD.shape[:2]
    K, Dv = call.v_BKSD.shape[1], call.v_BKSD.shape[3]
    q_PBHTD = call.tables.rotate_to_each(call.q_BHTD, look.q_pos_P, call.rope)
    q_PXGD = q_PBHTD.reshape(len(look.shown), B * K, H // K, -1).unbind()  # queries that share a key head are its rows
    parts = [
        products(q_XGD, call.rotated_by(way, start, stop).flatten(0, 1))
        for q_XGD, (start, stop, way) in zip(q_PXGD, look.shown, strict=True)
    ]
    scores_XGS = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)).mul_(call.scale)
    if call.softcap is not None:
        scores_XGS.div_(call.softcap).tanh_().mul_(call.softcap)
    weights = scores_XGS.softmax(-1)
    lse = scores_XGS.new_empty(0)
    if not call.alone:  # the largest weight is 1 / the sum of all exponentials
        lse = (scores_XGS.amax(-1) - weights.amax(-1).log()).view(B, H, 1)
    lengths = [stop - start for start, stop in look.runs]
    shares = (weights,) if len(lengths) == 1 else torch.split(weights, lengths, dim=-1)
    found = [
        weighted(share, call.v_BKSD.narrow(2, start, stop - start).flatten(0, 1))
        for share, (start, stop) in zip(shares, look.runs, strict=True)
    ]
    return sum(found[1:], start=found[0]).view(B, H, 1, Dv), lse
