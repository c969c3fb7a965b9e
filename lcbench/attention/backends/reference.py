"""The float64 reference that every backend is tested against, written for clarity only.

`reference_attention` takes an explicit matrix of relative positions and a mask, as defined in the papers, and uses no
pieces, tables or tiles; memory n x n x pairs of channels. `dense_attention` is a backend: it takes a `Call`, with the
model's own tables of cos and sin, and differs from the others by rounding only; memory n x n.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lcbench.attention.backends.call import Call, Output


def reference_attention(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    rel_TS: Tensor,
    seen_TS: Tensor,
    inv_freq_M: Tensor,
    *,
    pairing: Literal["half", "interleaved"] = "half",
    attention_factor: float = 1.0,
    scale: float,
    score_scale_T: Tensor | None = None,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Attention with scores q_i . R(rel[i, j]) k_j, softmax over the keys j in seen[i], in float64 [B, H, T, Dv].

    R(p) rotates channel pair m by p * inv_freq[m]; channels beyond 2M are not rotated. `attention_factor` multiplies
    cos and sin of queries and keys, so that it enters the score of the rotated channels squared.
    """
    scores = reference_scores(
        q_BHTD,
        k_BKSD,
        rel_TS,
        inv_freq_M,
        pairing=pairing,
        attention_factor=attention_factor,
        scale=scale,
        score_scale_T=score_scale_T,
        softcap=softcap,
    )
    v = v_BKSD.double().repeat_interleave(q_BHTD.shape[1] // v_BKSD.shape[1], dim=1)
    scores = scores.masked_fill(~seen_TS, -math.inf)
    if sinks_H is not None:
        column = sinks_H.double()[None, :, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    return scores.softmax(-1)[..., : v.shape[2]] @ v


def reference_scores(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    rel_TS: Tensor,
    inv_freq_M: Tensor,
    *,
    pairing: Literal["half", "interleaved"] = "half",
    attention_factor: float = 1.0,
    scale: float,
    score_scale_T: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The scores of `reference_attention` for all pairs, in float64 [B, H, T, S]."""
    q, k = q_BHTD.double(), k_BKSD.double()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    pairs = len(inv_freq_M)

    def as_complex(x: Tensor) -> Tensor:
        if pairing == "half":
            return torch.complex(x[..., :pairs], x[..., pairs : 2 * pairs])
        return torch.complex(x[..., 0 : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2])

    angle = rel_TS.double()[..., None] * inv_freq_M.double()
    turn = torch.polar(torch.ones_like(angle), angle)
    scores = torch.einsum("bhtm,bhsm,tsm->bhts", as_complex(q), as_complex(k).conj(), turn).real * attention_factor**2
    scores = (scores + q[..., 2 * pairs :] @ k[..., 2 * pairs :].transpose(-1, -2)) * scale
    if score_scale_T is not None:
        scores = scores * score_scale_T.double()[:, None]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    return scores


def dense_attention(call: Call) -> Output:
    """One matrix of scores, filled piece by piece, and one softmax.

    Returns the output [B, H, T, Dv] and the log-sum-exp [B, H, T], both in float64; 0 and -inf for a query
    without keys.
    """
    q, k, v = call.q_BHTD.double(), call.k_BKSD.double(), call.v_BKSD.double()
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q.new_full((*q.shape[:3], k.shape[2]), -math.inf)
    j = torch.arange(k.shape[2]) + call.first_key
    for piece in call.pieces:
        rotated_q = call.tables.rotate(q, piece.q_pos, call.rope)
        rotated_k = call.tables.rotate(k, piece.k_pos, call.rope)
        product = rotated_q @ rotated_k.transpose(-1, -2) * call.scale
        if call.softcap is not None:
            product = torch.tanh(product / call.softcap) * call.softcap
        seen = (j >= piece.start[:, None]) & (j < piece.stop[:, None])
        scores = torch.where(seen.to(scores.device), product, scores)
    return scores.softmax(-1).nan_to_num(0.0) @ v, scores.logsumexp(-1)  # nan: a query without keys
