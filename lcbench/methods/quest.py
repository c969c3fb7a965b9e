"""Quest: while decoding, a query sees the pages of keys that may have the highest scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Quest(Method):
    """In the prompt every key is seen. After it, each query and KV head sees its own page of `page_size` keys, and of
    the pages before it those with the highest bound on a score, sum_d max(q_d min_d, q_d max_d) over the smallest and
    the largest key of a page in each channel; `token_budget` keys in all. The first `skip_layers` layers see all keys.

    `page_size`: default 16. `token_budget`: default 1,024, at most 1/4 of the pretraining length. `skip_layers`:
    default 2, the authors'. No key is dropped: time is saved, memory is not.
    Tang et al., https://arxiv.org/abs/2406.10774, code https://github.com/mit-han-lab/Quest (01c1623), whose kernels
    read these pages; its evaluation without kernels reads 3 pages at least, and the query's own only if it is among the
    highest. There each query head chooses for itself; here the query heads of a KV head share the pages with the
    highest bound of any of them. Bounds are those of the plan: under `dca` at the positions of `dca`.
    """

    name: ClassVar[str] = "quest"
    page_size: int = 16
    token_budget: int | None = None
    skip_layers: int = 2

    def resolve(self, lengths: Lengths) -> Quest:
        at_least(self.name, "page_size", self.page_size, 1)
        at_least(self.name, "skip_layers", self.skip_layers, 0)
        default = max(self.page_size, min(1024, lengths.pretraining // 4))
        budget = default if self.token_budget is None else self.token_budget
        at_least(self.name, "token_budget", budget, self.page_size)
        return replace(self, token_budget=budget)

    def pages_read(self, layer: int) -> tuple[int, int] | None:
        assert self.token_budget is not None
        return None if layer < self.skip_layers else (self.page_size, self.token_budget // self.page_size - 1)

    def digest_pages(self, k_KNPD: Tensor) -> Tensor:
        return torch.cat([k_KNPD.amin(-2), k_KNPD.amax(-2)], dim=-1)

    def rate_pages(self, q_HD: Tensor, digest_KN: Tensor) -> Tensor:
        low, high = digest_KN.chunk(2, dim=-1)
        q_KGD = q_HD.view(len(low), -1, q_HD.shape[1])
        bound = q_KGD.clamp(min=0) @ high.transpose(-1, -2) + q_KGD.clamp(max=0) @ low.transpose(-1, -2)
        most: Tensor = bound.amax(1)
        return most
