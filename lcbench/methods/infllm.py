"""InfLLM: keys beyond a local window are kept in blocks, of which queries see those whose representatives they like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least
from lcbench.methods.content import Content, Selection
from lcbench.methods.pieces import Piece

if TYPE_CHECKING:
    from torch import Tensor


class Memory(NamedTuple):
    """Of the first `length` keys of a row in a layer: for each block that is formed the sum of its representatives at
    position 0 [H, N, D], and for the keys behind these blocks the sum of their scores so far [H, n]."""

    of: InfLLM
    length: int
    blocks_HND: Tensor
    sums_Hn: Tensor


@dataclass(frozen=True)
class InfLLM(Method):
    """rel(i, j) = i - j       i - j < n_local
                   n_local     the first `n_init` keys, `topk` blocks, the keys between the last block and the window
                   not seen    the other blocks

    Of the keys from `n_init` on, `block_size` are formed to a block once none of them is in the window. They are
    represented in each query head by the `repr_topk` keys with the highest sum of scores with the n_local queries whose
    window they are in. `exc_block_size` queries of the prompt, and each query of the answer, choose together: the
    blocks whose representatives have the highest sum of scores with them at distance n_local, over all heads.

    `n_local`: default 4,096, at most 1/2 of the pretraining length; `exc_block_size`: 512, at most 1/8; `block_size`
    and `n_init`: 128, at most 1/32. `topk`: 16. `repr_topk`: 4, at most block_size. At a pretraining length of 8,192
    and more these are the options of the authors for Mistral, at 4,096 those for Vicuna.
    Xiao et al., https://arxiv.org/abs/2402.04617, code https://github.com/thunlp/InfLLM (b028642). Scores are products
    of rotated queries and keys, and far keys are at n_local, as in the paper, before a soft cap; the code sums
    attention weights to find representatives, and has far keys at n_local - 1. The window is that of the code, which
    holds the query itself. There, a query that is not the last of its `exc_block_size` also sees some keys of its
    window a second time, as far ones. But for these three, blocks and logits are those of the code. No key is dropped
    or moved to RAM here: time is saved, memory is not. A prompt may be read in several calls; queries of
    `exc_block_size` that a call cuts apart choose by themselves. `n_init` and `exc_block_size` are multiples of
    `block_size`.
    """

    name: ClassVar[str] = "infllm"
    n_init: int | None = None
    n_local: int | None = None
    topk: int = 16
    block_size: int | None = None
    repr_topk: int | None = None
    exc_block_size: int | None = None

    def resolve(self, lengths: Lengths) -> InfLLM:
        P = lengths.pretraining
        size = max(1, min(128, P // 32)) if self.block_size is None else self.block_size
        at_least(self.name, "block_size", size, 1)
        options = {
            "n_init": (0, -(-min(128, P // 32) // size) * size),
            "n_local": (1, max(1, min(4096, P // 2))),
            "topk": (1, self.topk),
            "repr_topk": (1, min(4, size)),
            "exc_block_size": (1, max(1, min(512, P // 8) // size) * size),
        }
        chosen: dict[str, int] = {}
        for option, (least, default) in options.items():
            given = getattr(self, option)
            chosen[option] = default if given is None else given
            at_least(self.name, option, chosen[option], least)
        for option in ("n_init", "exc_block_size"):
            if chosen[option] % size:
                raise UserError(f"infllm: {option} must be a multiple of block_size ({size}), not {chosen[option]}.")
        if chosen["repr_topk"] > size:
            raise UserError(f"infllm: repr_topk={self.repr_topk} is more than the {size} keys of a block.")
        return replace(self, block_size=size, **chosen)

    def tunable(self, lengths: Lengths) -> dict[str, tuple[Any, ...]]:
        P = lengths.pretraining
        return {"topk": (4, 8, 32), "n_local": (P // 4, 3 * P // 4), "repr_topk": (1, 2)}

    def pieces(self, i: Tensor, j: Tensor, layer: int) -> list[Piece]:
        _, local, _, _ = self._sizes
        edge = (i - local + 1).clamp(min=0)
        near = Piece(q_pos=i, k_pos=j, start=edge, stop=i + 1)
        return [near, Piece(torch.full_like(i, local), torch.zeros_like(j), torch.zeros_like(i), edge)]

    def recall(self, content: Content, layer: int, seen: Memory | None, answer: bool) -> tuple[Selection, Memory]:
        if seen is None:
            empty_H0 = content.q_HTD.new_empty(len(content.q_HTD), 0, dtype=_wide(content.q_HTD))
            seen = Memory(self, 0, empty_H0[..., None].expand(-1, -1, content.q_HTD.shape[2]), empty_H0)
        if seen.of != self or seen.length != content.first:
            raise UserError(
                "infllm: this KV cache does not hold what the queries before this call looked at; read the text anew, "
                "with past_key_values=DynamicCache() from the first call on."
            )
        memory = self._remember(content, seen)
        init, local, size, together = self._sizes
        first, end, together = content.first, content.length, 1 if answer else together
        blocks_MN = torch.ones(-(-end // size) - first // size, -(-end // size), dtype=torch.bool)
        for begin in range(first - first % together, end, together):
            count, oldest = self._formed(begin), init // size
            if count <= self.topk:
                continue
            q_HTD = content.q_HTD[:, max(0, begin - first) : begin + together - first]
            q_H1D = content.turn(q_HTD.to(_wide(q_HTD)).sum(1, keepdim=True), torch.tensor([local]))
            rates_N = (q_H1D * memory.blocks_HND[:, :count]).sum((0, 2))
            of = slice(max(0, begin // size - first // size), -(-(begin + together) // size) - first // size)
            blocks_MN[of, oldest : oldest + count] = False
            blocks_MN[of, oldest + rates_N.topk(self.topk).indices.cpu()] = True
        return Selection(size, blocks_MN.expand(len(content.q_HTD), -1, -1)), memory

    def _formed(self, length: int) -> int:
        """How many blocks are formed of the first `length` keys, when a query at this position is to come."""
        init, local, size, _ = self._sizes
        return max(0, (length - local - init) // size)

    def _remember(self, content: Content, memory: Memory) -> Memory:
        """The memory with the scores of this call's queries, and the blocks that are formed after it."""
        (init, _, size, _), end, known = self._sizes, content.length, memory.blocks_HND.shape[1]
        assert self.repr_topk is not None
        near, far = content.pieces
        begin = init + known * size
        if begin >= end:
            return memory._replace(length=end)
        sums_Hn = self._sums(content, near, begin)
        sums_Hn[:, : memory.sums_Hn.shape[1]] += memory.sums_Hn
        blocks_HND, new = memory.blocks_HND, self._formed(end) - known
        if new > 0:
            best = sums_Hn[:, : new * size].reshape(-1, new, size).topk(self.repr_topk).indices
            k_KnD = content.turned_keys(far, begin, begin + new * size).to(sums_Hn.dtype)
            k_HNPD = k_KnD.reshape(len(k_KnD), new, size, -1).repeat_interleave(content.group, dim=0)
            blocks_HND = torch.cat([blocks_HND, k_HNPD.take_along_dim(best[..., None], dim=2).sum(2)], dim=1)
            sums_Hn = sums_Hn[:, new * size :].clone()
        return Memory(self, end, blocks_HND, sums_Hn)

    def _sums(self, content: Content, near: Piece, begin: int) -> Tensor:
        """For each key from `begin` on the sum of its scores [H, n] with those queries of the call whose window it is
        in: its product with a difference of two running sums of queries."""
        _, local, _, _ = self._sizes
        (K, _, D), T, first = content.k_KSD.shape, content.q_HTD.shape[1], content.first
        q_KGTD = content.turn(content.q_HTD, near.q_pos).reshape(K, -1, T, D)
        k_KnD = content.turned_keys(near, begin, content.length)
        j = torch.arange(begin, content.length, device=k_KnD.device)
        start, stop = (j - first).clamp(min=0), (j - first + local).clamp(0, T)
        if T == 1:
            scores_KGn = (q_KGTD[:, :, 0] @ k_KnD.transpose(-1, -2)).to(_wide(k_KnD))
            return scores_KGn.flatten(0, 1).masked_fill(start >= stop, 0)
        sums = []
        for q_GTD, k_nD in zip(q_KGTD, k_KnD, strict=True):
            running = torch.nn.functional.pad(q_GTD.to(_wide(q_GTD)).cumsum(1), (0, 0, 1, 0))
            sums.append(((running[:, stop] - running[:, start]) * k_nD).sum(-1))
        return torch.cat(sums)

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        """n_init, n_local, block_size and exc_block_size, resolved."""
        assert self.n_init is not None and self.n_local is not None
        assert self.block_size is not None and self.exc_block_size is not None
        return self.n_init, self.n_local, self.block_size, self.exc_block_size


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
