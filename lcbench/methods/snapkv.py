"""SnapKV: the last queries of the prompt tell which keys are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lcbench.core.errors import UserError
from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, at_least
from lcbench.methods.content import Content, last_queries, of_kv_heads
from lcbench.methods.eviction import Eviction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SnapKV(Eviction):
    """Each KV head keeps the last `window_size` keys of the prompt, and of those before them the ones that the queries
    of this window attend to most: mean attention weights, pooled over `kernel_size` neighbours.

    `window_size`: default 64, at most a quarter of the pretraining length. `kernel_size`: default 5, odd. `pooling`:
    default `avgpool`. `budget`, `compression_ratio`: how many keys, the window included (`lcbench.methods.eviction`).
    Li et al., https://arxiv.org/abs/2404.14469, code https://github.com/FasterDecoding/SnapKV (e216ddc); `SnapKVPress`
    of https://github.com/NVIDIA/kvpress (0.5.5), whose defaults these are. There as here the query heads of a KV head
    are averaged; the authors' code keeps other keys for each query head. Weights are those of the plan: under `dca` at
    the positions of `dca`.
    """

    name: ClassVar[str] = "snapkv"
    window_size: int | None = None
    kernel_size: int = 5
    pooling: Literal["avgpool", "maxpool"] = "avgpool"

    def resolve(self, lengths: Lengths) -> SnapKV:
        window = max(1, min(64, lengths.pretraining // 4)) if self.window_size is None else self.window_size
        at_least(self.name, "window_size", window, 1)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UserError(f"snapkv: kernel_size must be an odd number, not {self.kernel_size}.")
        return replace(super().resolve(lengths), window_size=window)

    def observe(self, content: Content, layer: int, seen: Tensor | None) -> Tensor:
        assert self.window_size is not None
        return last_queries(content, seen, self.window_size)

    def rate(self, content: Content, seen: Any) -> Tensor:
        window = seen.shape[1]
        mean_HS = content.ending(seen).weights().mean(1)[:, : content.length - window]
        scores_KS = of_kv_heads(content, self._pooled(mean_HS))
        # The window itself, its last keys first; weights are below these.
        last = 2 + torch.arange(window, device=scores_KS.device, dtype=scores_KS.dtype)
        return torch.cat([scores_KS, last.expand(len(scores_KS), -1)], dim=-1)

    def _pooled(self, x_HS: Tensor) -> Tensor:
        if not x_HS.shape[1]:
            return x_HS
        pool = torch.nn.functional.avg_pool1d if self.pooling == "avgpool" else torch.nn.functional.max_pool1d
        pooled: Tensor = pool(x_HS, self.kernel_size, stride=1, padding=self.kernel_size // 2)
        return pooled
