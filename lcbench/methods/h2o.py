"""H2O: the keys that all queries of the prompt attend to most are kept, and the last ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths
from lcbench.methods.content import Content, of_kv_heads
from lcbench.methods.eviction import Eviction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class H2O(Eviction):
    """Each KV head keeps the last keys of the prompt, and of those before them the heavy hitters: the highest sums of
    attention weights over all queries of the prompt.

    `budget`, `compression_ratio`: how many, both kinds together (`lcbench.methods.eviction`). `recent_share`: share of
    the kept keys that are the last ones; default 0.5, the authors' (heavy_ratio = recent_ratio).
    Zhang et al., https://arxiv.org/abs/2306.14048, code https://github.com/FMInference/H2O (ac75c2a). In the paper keys
    are dropped token by token, in the prompt and the answer; in the code that generates (`utils_real_drop`) after the
    prompt, the same as here, and again with each token of the answer, for each query head. Here they are dropped once,
    and the query heads of a KV head are averaged. The sums take a second pass over all scores, so that prefill takes
    longer.
    """

    name: ClassVar[str] = "h2o"
    recent_share: float = 0.5

    def resolve(self, lengths: Lengths) -> H2O:
        if not 0 <= self.recent_share <= 1:
            raise UserError(f"h2o: recent_share must be from 0 to 1, not {self.recent_share:g}.")
        return replace(super().resolve(lengths))

    def observe(self, content: Content, layer: int, seen: Tensor | None) -> Tensor:
        dtype = torch.promote_types(content.q_HTD.dtype, torch.float32)
        sums_HS = content.q_HTD.new_zeros(len(content.q_HTD), content.length, dtype=dtype)
        for rows in content.row_blocks():
            weights_HRS = content.only(rows).weights()
            sums_HS[:, : weights_HRS.shape[2]] += weights_HRS.sum(1)
        sums_KS = of_kv_heads(content, sums_HS)
        if seen is not None:
            sums_KS[:, : seen.shape[1]] += seen
        return sums_KS

    def rate(self, content: Content, seen: Any) -> Tensor:
        rates: Tensor = seen.clone()
        recent = int(self.recent_share * self.count(content.length))
        rates[:, content.length - recent :] = torch.inf
        return rates
