"""Llama 4's temperature: scores grow with the logarithm of the position, in steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Llama4Temperature(Method):
    """Scores of query i times 1 + attn_scale ln(floor((i + 1) / floor_scale) + 1).

    `attn_scale`: default 0.1. `floor_scale`: default 8,192, Llama 4's, at most the pretraining length.
    Meta, https://ai.meta.com/blog/llama-4-multimodal-intelligence; `attn_temperature_tuning` in the model's config,
    whose names these are. Llama 4 does this in its layers without rotation only; here in all layers.
    """

    name: ClassVar[str] = "llama4_temperature"
    floor_scale: int | None = None
    attn_scale: float = 0.1

    def resolve(self, lengths: Lengths) -> Llama4Temperature:
        floor_scale = min(8192, lengths.pretraining) if self.floor_scale is None else self.floor_scale
        at_least(self.name, "floor_scale", floor_scale, 1)
        at_least(self.name, "attn_scale", self.attn_scale, 0)
        return replace(self, floor_scale=floor_scale)

    def score_scale(self, i: Tensor, lengths: Lengths) -> Tensor | None:
        assert self.floor_scale is not None
        return 1 + self.attn_scale * torch.log1p(((i + 1) // self.floor_scale).double())
