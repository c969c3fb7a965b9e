"""The memory that a run needs, computed from the config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lcbench.core.lazy import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lcbench.attention.cache.ways import Way
    from lcbench.methods import Method


@dataclass(frozen=True)
class Footprint:
    """Bytes of memory that a run needs, computed from the config; no weights are loaded.

    `kv_per_key`: keys and values of one token in one layer; `hidden_per_token`: the hidden state of one token;
    `keeps_rotated`: whether decode keeps rotated keys, which it does not beside a KV cache in another dtype or place;
    `head_dim`: the size of a key of one head.
    """

    weights: int
    kv_per_key: int
    layers: int
    hidden_per_token: int
    keeps_rotated: bool = True
    head_dim: int = 64

    def kv_cache(self, method: Method, length: int) -> int:
        """Peak bytes of the KV cache during a prompt of `length` tokens under a resolved method; a method's memory is
        counted in the dtype of the run.

        If keys are evicted after the prompt, each layer does so in turn during the prompt's last forward pass: with a
        single pass, no two layers hold the whole prompt at once.
        """
        from lcbench.engine.generate import PREFILL_CHUNK  # imports transformers

        keys = [method.keys_kept(layer, length) for layer in range(self.layers)]
        if not method.evicts or length > PREFILL_CHUNK:
            return self.kv_per_key * sum(keys)
        left = [method.keys_left(layer, length) for layer in range(self.layers)]
        return self.kv_per_key * (sum(left) + max(most - least for most, least in zip(keys, left, strict=True)))

    def kv_left(self, method: Method, length: int) -> int:
        """Bytes of the KV cache after a prompt of `length` tokens."""
        return self.kv_per_key * sum(method.keys_left(layer, length) for layer in range(self.layers))

    def rotated_keys(self, method: Method, length: int) -> int:
        """Bytes of the rotated keys that decode keeps beside the KV cache after a prompt of `length` tokens, of all
        layers."""
        if method.forgets or not self.keeps_rotated:
            return 0
        rows = sum(_rotated(method, length, layer) for layer in range(self.layers if method.layerwise else 1))
        return self.kv_per_key // 2 * rows * (1 if method.layerwise else self.layers)

    def page_digests(self, method: Method, length: int) -> int:
        """Bytes of the page digests that decode keeps beside them after a prompt of `length` tokens, of all layers,
        under a method that rates pages."""
        if "rate_pages" not in method.hooks or not self.keeps_rotated:
            return 0
        total = 0
        for layer in range(self.layers):
            read = method.pages_read(layer)
            if read is not None and (length - 1) // read[0] > read[1]:  # else every query sees every page
                each = method.digest_pages(torch.zeros(1, 1, read[0], self.head_dim)).numel()
                pages = _rotated(method, length, layer if method.layerwise else 0) // read[0]
                total += pages * each * self.kv_per_key // (2 * self.head_dim)
        return total

    def layerwise(self, method: Method, length: int) -> int:
        """Bytes that a layer-by-layer likelihood of `length` tokens keeps: the hidden states, and the keys and values
        of the layer with most."""
        keys = max(method.keys_kept(layer, length) for layer in range(self.layers))
        return self.kv_per_key * keys + self.hidden_per_token * length


def _rotated(method: Method, length: int, layer: int) -> int:
    """The number of rotated keys that a layer keeps for its last query: those of each way once."""
    from lcbench.attention.cache.ways import Look, Ways  # imports transformers

    last, keys, ways = torch.tensor([length - 1]), torch.arange(length), Ways()
    pieces = method.for_prompt(length).pieces(last, keys, layer)
    if method.evicts:  # the keys that are left, whatever their positions
        return method.keys_left(layer, length) * len({ways.find(x.k_pos, 0, length) for x in pieces if not x.empty})
    look = Look.of(pieces, 0, ways)
    if look is None:  # pieces that differ by head: each head uses one way
        return length
    ends: dict[Way, int] = {}
    for _, stop, way in look.shown:
        ends[way] = max(stop, ends.get(way, 0))
    return sum(end - way.first for way, end in ends.items())


def footprint(
    skeleton: PreTrainedModel, dtype: torch.dtype, kv_dtype: torch.dtype | None = None, *, kv_offload: bool = False
) -> Footprint:
    """Weights and KV cache of a model in the dtypes of the run; sliding-window layers count with full length."""
    text = skeleton.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Footprint(
        weights=sum(math.prod(parameter.shape) for parameter in skeleton.parameters()) * dtype.itemsize,
        kv_per_key=2 * heads * head_dim * (kv_dtype or dtype).itemsize,
        layers=text.num_hidden_layers,
        hidden_per_token=text.hidden_size * dtype.itemsize,
        keeps_rotated=kv_dtype in (None, dtype) and not kv_offload,
        head_dim=head_dim,
    )
