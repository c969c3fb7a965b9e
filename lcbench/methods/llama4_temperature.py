"""Llama 4's temperature: scores grow with the logarithm of the position, in steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lcbench.core.lazy import torch
from lcbench.methods.base import Lengths, Method, at_least, require_layer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Llama4Temperature(Method):
    """Scores of query i times 1 + attn_scale ln(floor((i + 1) / floor_scale) + 1).

    `attn_scale`: default 0.1. `floor_scale`: default 8,192, Llama 4's, at most the pretraining length.
    Meta, https://ai.meta.com/blog/llama-4-multimodal-intelligence; `attn_temperature_tuning` in the model's config,
    whose names these are.
    `layers`: default the layers without rotation that the model's config names (`no_rope_layers`), as in Llama 4; all
    layers if it names none.
    """

    name: ClassVar[str] = "llama4_temperature"
    floor_scale: int | None = None
    attn_scale: float = 0.1
    layers: tuple[int, ...] | None = None

    def for_model(self, config: Any) -> Llama4Temperature:
        rotates = getattr(config, "no_rope_layers", None) or []  # 1 for a layer that rotates, 0 for one that does not
        plain = tuple(layer for layer, rotary in enumerate(rotates) if not rotary)
        layers = plain or None if self.layers is None else self.layers
        for layer in layers or ():
            require_layer(self.name, layer, config)
        return replace(self, layers=layers)

    def resolve(self, lengths: Lengths) -> Llama4Temperature:
        floor_scale = min(8192, lengths.pretraining) if self.floor_scale is None else self.floor_scale
        at_least(self.name, "floor_scale", floor_scale, 1)
        at_least(self.name, "attn_scale", self.attn_scale, 0)
        return replace(self, floor_scale=floor_scale)

    def score_scale(self, i: Tensor, lengths: Lengths, layer: int = 0) -> Tensor | None:
        if self.layers is not None and layer not in self.layers:
            return None
        assert self.floor_scale is not None
        return 1 + self.attn_scale * torch.log1p(((i + 1) // self.floor_scale).double())

    @property
    def layerwise(self) -> bool:
        return self.layers is not None
