"""Bytes that a run needs, from the config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from lcbench.methods import Method


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that a run needs, computed from the config; no weights are loaded.

    `kv_per_key`: keys and values of one token in one layer; `hidden_per_token`: the hidden state of one token.
    """

    weights: int
    kv_per_key: int
    layers: int
    hidden_per_token: int

    def kv_cache(self, method: Method, length: int) -> int:
        """Bytes of the KV cache after `length` tokens under a resolved method; a method's memory is counted in the
        dtype of the run."""
        return self.kv_per_key * sum(method.keys_kept(layer, length) for layer in range(self.layers))

    def layerwise(self, method: Method, length: int) -> int:
        """Bytes that a layer-by-layer likelihood of `length` tokens keeps: the hidden states, and the keys and values
        of the layer that keeps most."""
        keys = max(method.keys_kept(layer, length) for layer in range(self.layers))
        return self.kv_per_key * keys + self.hidden_per_token * length


def footprint(skeleton: PreTrainedModel, dtype: torch.dtype, kv_dtype: torch.dtype | None = None) -> Footprint:
    """Weights and KV cache of a model in the dtypes of the run; sliding-window layers count with full length."""
    text = skeleton.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Footprint(
        weights=sum(math.prod(parameter.shape) for parameter in skeleton.parameters()) * dtype.itemsize,
        kv_per_key=2 * heads * head_dim * (kv_dtype or dtype).itemsize,
        layers=text.num_hidden_layers,
        hidden_per_token=text.hidden_size * dtype.itemsize,
    )
