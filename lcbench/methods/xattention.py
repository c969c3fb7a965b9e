"""XAttention: sums of scores along antidiagonals tell which blocks of keys a block of queries attends to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.content import Content, Selection

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class XAttention(Method):
    """In the prompt, each head and block of queries sees as many blocks of keys as hold `threshold` of its attention,
    its own and the first always among them; while decoding, every key.

    The attention is estimated: tokens stand in groups of `stride`, and the score of a group of queries and one of keys
    is the mean over the antidiagonal of their square; a softmax over the groups of keys, and sums over blocks.
    `stride`: default 16. `threshold`: default 0.9. `block_size`: default 128, at most 1/8 of the pretraining length.
    Xu et al., https://arxiv.org/abs/2503.16428, code https://github.com/mit-han-lab/x-attention (e379887). There
    thresholds may be searched for each head; here all heads have the same. In the first chunk of its estimate, 16,384
    tokens or fewer, that code takes one block more than the threshold asks for, and the same blocks after it. Under a
    plan of several pieces, two groups have the positions of the piece that shows the first key to the last query. A
    prompt may be read in several calls that are multiples of `block_size`; a block that is cut is estimated from the
    queries of the call alone.
    """

    name: ClassVar[str] = "xattention"
    stride: int = 16
    threshold: float = 0.9
    block_size: int | None = None

    def resolve(self, lengths: Lengths) -> XAttention:
        at_least(self.name, "stride", self.stride, 1)
        if not 0 < self.threshold <= 1:
            raise UserError(f"xattention: threshold must be above 0 and at most 1, not {self.threshold:g}.")
        most = max(1, min(128, lengths.pretraining // 8) // self.stride) * self.stride
        size = most if self.block_size is None else self.block_size
        if size < 1 or size % self.stride:
            raise UserError(f"xattention: block_size must be a multiple of stride ({self.stride}), not {size}.")
        return replace(self, block_size=size)

    def select(self, content: Content, layer: int) -> Selection:
        assert self.block_size is not None
        scores_HGN = self._scores(content)
        groups = self.block_size // self.stride
        before = content.first % self.block_size // self.stride  # groups of the first block that are of earlier calls
        last = -scores_HGN.shape[2] % groups
        weights = scores_HGN.softmax(-1).nan_to_num(0.0)  # nan: a group whose last query sees the first key of none
        weights = torch.nn.functional.pad(weights, (0, last, before, last))
        H, G, N = weights.shape
        mass = weights.view(H, G // groups, groups, N // groups, groups).sum((2, 4))
        return Selection(self.block_size, self._fewest(mass, content.first // self.block_size))

    def _scores(self, content: Content) -> Tensor:
        """Scores [H, G, N] of the groups that this call's queries are in, and of all groups of keys."""
        s, S, first = self.stride, content.length, content.first // self.stride
        N = -(-S // s)
        last_query = torch.arange(first + 1, N + 1) * s - 1
        rows = last_query.clamp(max=S - 1) - content.first
        H, K = content.q_HTD.shape[0], content.k_KSD.shape[0]
        dtype = torch.promote_types(content.q_HTD.dtype, torch.float32)
        scores = content.q_HTD.new_full((K, H // K, N - first, N), -math.inf, dtype=dtype)
        for piece in content.pieces:
            begin, end = int(piece.start[0]) // s, -(-int(piece.stop[-1]) // s)
            if begin >= end:
                continue
            q = _grouped(content.turn(content.q_HTD, piece.q_pos), s, content.first % s).flip(2)
            k = _grouped(content.turned_keys(piece, begin * s, min(end * s, S)), s, 0)
            product = q.flatten(2).view(K, -1, s * q.shape[-1]) @ k.flatten(2).transpose(-1, -2)
            product = product.view(K, H // K, N - first, end - begin).to(dtype) * (content.scale / s)
            shown = content.seen(piece.of_queries(rows), torch.arange(begin, end) * s).to(scores.device)
            region = scores[..., begin:end]
            region.copy_(torch.where(shown, product, region))
        return scores.view(H, N - first, N)

    def _fewest(self, mass_HMN: Tensor, first: int) -> Tensor:
        """The blocks [H, M, N] of the largest mass that together hold the threshold of it."""
        always = torch.zeros_like(mass_HMN, dtype=torch.bool)
        always[..., 0] = True
        m = torch.arange(mass_HMN.shape[1], device=mass_HMN.device)
        always[:, m, first + m] = True
        order = mass_HMN.masked_fill(always, math.inf).sort(dim=-1, descending=True, stable=True).indices
        mass = mass_HMN.gather(-1, order)
        enough = mass.cumsum(-1) - mass >= self.threshold * mass.sum(-1, keepdim=True)
        return torch.zeros_like(always).scatter_(-1, order, ~enough) | always


def _grouped(x_HTD: Tensor, stride: int, before: int) -> Tensor:
    """Vectors in groups of `stride` [H, G, stride, D], zeros for `before` missing ones and for those at the end."""
    after = -(before + x_HTD.shape[1]) % stride
    padded: Tensor = torch.nn.functional.pad(x_HTD, (0, 0, before, after))
    return padded.view(len(padded), -1, stride, padded.shape[2])
