"""Prefix reuse: the KV cache of one prompt serves the next as far as both begin alike.

Sorted prompts are worked through as a walk over the tree of their prefixes: what branches off is cropped away, what
is shared stays. Every shared prefix is computed once, and one cache is all that it takes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import takewhile

from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from lcbench.attention.cache.growing import GrowingLayer
from lcbench.engine.new_cache import new_cache, with_lengths


class PrefixCache:
    """The KV cache of the prompt before, for a method whose `prefix_stable` says that this is sound."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self._config = config
        self._cache: DynamicCache | None = None
        self._prompt = array("q")

    def take(self, prompt: Sequence[int], new_tokens: int) -> tuple[DynamicCache, int]:
        """A cache that holds the first n tokens of the prompt, and n: all but the last at most, whose logits are to be
        made. Until `keep` nothing is held here, so that a call that fails leaves no half-filled cache behind."""
        cache, self._cache = self._cache, None
        shared = min(shared_length(self._prompt, prompt), len(prompt) - 1)
        if cache is None or not shared:
            return new_cache(self._config, len(prompt), new_tokens), 0
        cache.crop(shared - cache.get_seq_length())
        return with_lengths(cache, len(prompt), len(prompt) + new_tokens), shared

    def keep(self, cache: DynamicCache, prompt: Sequence[int]) -> bool:
        """Hold the cache of this prompt, and of whatever tokens came behind it, if it can go back: layers that keep
        every key can, sliding windows and recurrent states cannot. Returns whether it is held."""
        croppable = all(type(layer) in (DynamicLayer, GrowingLayer) for layer in cache.layers)
        if croppable:
            self._cache, self._prompt = cache, array("q", prompt)
        return croppable


def take_cache(
    config: PreTrainedConfig, prefixes: PrefixCache | None, prompt: Sequence[int], new_tokens: int
) -> tuple[DynamicCache, int]:
    """A cache for a prompt and the tokens after it, and how many tokens of the prompt it holds: those that `prefixes`
    have, or an empty one."""
    return prefixes.take(prompt, new_tokens) if prefixes else (new_cache(config, len(prompt), new_tokens), 0)


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
