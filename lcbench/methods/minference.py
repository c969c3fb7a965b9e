"""MInference: the last queries of a call tell which keys and which diagonals all of its queries attend to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.content import Content, Selection

if TYPE_CHECKING:
    from torch import Tensor

FIRST, NEAREST = 30, 100  # keys and diagonals that the released code always takes


@dataclass(frozen=True)
class MInference(Method):
    """In the prompt, each head sees some keys j and some diagonals d = i - j; while decoding, every key.

    `pattern`:
      vertical_slash  the `vertical_size` keys and the `slash_size` diagonals to which the last `last_q` queries give
                      most attention, the first 30 keys and the nearest 100 diagonals always among them (default)
      a_shape         the first `vertical_size` keys and the nearest `slash_size` diagonals
    A diagonal is seen in blocks of `block_size` keys and queries. Defaults: 1,000 keys and 6,096 diagonals, at most 1/8
    and 1/2 of the pretraining length, 64 and 64.
    Jiang et al., https://arxiv.org/abs/2407.02490, code https://github.com/microsoft/MInference (fb56c91), whose keys
    and diagonals these are. There a search finds a pattern and sizes for each head of a model, one of them block-sparse
    (see `xattention`), and never less than 30 keys and 50 diagonals; here all heads have the same. A block begins at a
    multiple of its size, so that a diagonal crosses two of them, and there where the diagonal enters its block of
    queries. Scores are those of the plan. A prompt that is read in several
    calls gets a pattern in each, as in Qwen2.5-1M (https://arxiv.org/abs/2501.15383), so that results depend on the
    size of the calls (`prefill_chunk` in records).
    """

    name: ClassVar[str] = "minference"
    pattern: Literal["vertical_slash", "a_shape"] = "vertical_slash"
    vertical_size: int | None = None
    slash_size: int | None = None
    last_q: int = 64
    block_size: int = 64

    def resolve(self, lengths: Lengths) -> MInference:
        vertical = min(1000, lengths.pretraining // 8) if self.vertical_size is None else self.vertical_size
        slash = max(1, min(6096, lengths.pretraining // 2)) if self.slash_size is None else self.slash_size
        for option, value, least in (("vertical_size", vertical, 0), ("slash_size", slash, 1)):
            at_least(self.name, option, value, least)
        at_least(self.name, "last_q", self.last_q, 1)
        at_least(self.name, "block_size", self.block_size, 1)
        return replace(self, vertical_size=vertical, slash_size=slash)

    def select(self, content: Content, layer: int) -> Selection:
        assert self.vertical_size is not None and self.slash_size is not None
        S, T = content.length, content.q_HTD.shape[1]
        if self.pattern == "a_shape":
            keys_HS = (torch.arange(S) < self.vertical_size)[None]
            diagonals_HS = (torch.arange(S) < self.slash_size)[None]
        else:
            rows = slice(max(0, T - self.last_q), T)
            weights = content.weights(rows)
            vertical = weights.sum(1)
            slash = torch.zeros_like(vertical)
            for row, i in enumerate(range(content.first + rows.start, S)):
                slash[:, : i + 1] += weights[:, row, : i + 1].flip(1)
            vertical[:, :FIRST], slash[:, :NEAREST] = torch.inf, torch.inf
            keys_HS, diagonals_HS = _highest(vertical, self.vertical_size), _highest(slash, self.slash_size)
        H, size, first = content.q_HTD.shape[0], self.block_size, content.first // self.block_size
        m, n = torch.arange(first, -(-S // size)), torch.arange(-(-S // size))
        apart = m[:, None] - n
        near_HN = _in_blocks(diagonals_HS.cpu(), size, len(n) + 1)
        blocks = near_HN[:, apart.clamp(min=0)] & (apart >= 0)
        return Selection(size, blocks.expand(H, -1, -1), keys_HS.expand(H, -1))


def _highest(x_HS: Tensor, count: int) -> Tensor:
    """Which are the `count` highest numbers [H, S] of each row."""
    top = x_HS.topk(min(count, x_HS.shape[1]), dim=-1).indices
    return torch.zeros_like(x_HS, dtype=torch.bool).scatter_(1, top, True)


def _in_blocks(diagonals_HS: Tensor, size: int, count: int) -> Tensor:
    """By how many blocks [H, count] queries and keys on these diagonals are apart: each lies in two rows of blocks."""
    d = torch.arange(diagonals_HS.shape[1])
    apart = torch.zeros(len(diagonals_HS), count, dtype=torch.int64)
    for blocks in (d // size, -(-d // size)):
        apart.index_add_(1, blocks, diagonals_HS.long())
    return apart > 0
