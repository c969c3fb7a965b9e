"""Prefix reuse: the KV cache of one prompt is reused by the next as far as their tokens agree.

With sorted prompts this walks the tree of their prefixes: the cache is cropped to the shared prefix and extended from
there. Every shared prefix is computed once, with a single cache.
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
    """The KV cache of the previous prompt, for methods that are `prefix_stable`."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self._config = config
        self._cache: DynamicCache | None = None
        self._prompt = array("q")

    def take(self, prompt: Sequence[int], new_tokens: int) -> tuple[DynamicCache, int]:
        """A cache that contains the first n tokens of the prompt, and n, less than the prompt's length: the logits of
        the last token are still needed. The cache is removed from here until `keep`, so that a failed call leaves no
        half-filled cache."""
        cache, self._cache = self._cache, None
        shared = min(shared_length(self._prompt, prompt), len(prompt) - 1)
        if cache is None or not shared:
            return new_cache(self._config, len(prompt), new_tokens), 0
        cache.crop(shared - cache.get_seq_length())
        return with_lengths(cache, len(prompt), len(prompt) + new_tokens), shared

    def keep(self, cache: DynamicCache, prompt: Sequence[int]) -> bool:
        """Keep the cache of this prompt, and of any tokens after it, if it can be cropped: layers that keep every key
        can, sliding windows and recurrent states cannot. Returns whether it was kept."""
        croppable = all(type(layer) in (DynamicLayer, GrowingLayer) for layer in cache.layers)
        if croppable:
            self._cache, self._prompt = cache, array("q", prompt)
        return croppable


def take_cache(
    config: PreTrainedConfig, prefixes: PrefixCache | None, prompt: Sequence[int], new_tokens: int
) -> tuple[DynamicCache, int]:
    """A cache for a prompt and `new_tokens` after it, from `prefixes` if given, else an empty one; and how many tokens
    of the prompt it contains already."""
    return prefixes.take(prompt, new_tokens) if prefixes else (new_cache(config, len(prompt), new_tokens), 0)


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest common prefix of two sequences."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
