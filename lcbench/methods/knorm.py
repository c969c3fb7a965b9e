"""Knorm: keys of a large norm are dropped after the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.content import Content
from lcbench.methods.eviction import Eviction

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Knorm(Eviction):
    """Each KV head keeps the keys with the smallest L2 norm, in at least float32.

    `budget`, `compression_ratio`: how many (`lcbench.methods.eviction`).
    Devoto et al., https://arxiv.org/abs/2406.11430; `KnormPress` of https://github.com/NVIDIA/kvpress (0.5.5). The
    paper leaves the first two layers as they are; here, as in kvpress, all drop keys.
    """

    name: ClassVar[str] = "knorm"

    def rate(self, content: Content, seen: Any) -> Tensor:
        k = content.k_KSD
        norm: Tensor = torch.linalg.vector_norm(k, dim=-1, dtype=torch.promote_types(k.dtype, torch.float32))
        return -norm
