"""Empty KV caches with the length of their prompt, and the number of tokens to preallocate."""

from __future__ import annotations

from transformers import DynamicCache, PreTrainedConfig


def new_cache(config: PreTrainedConfig, prompt_length: int, new_tokens: int = 0) -> DynamicCache:
    """An empty cache for a prompt of `prompt_length` tokens and `new_tokens` generated after it."""
    return with_lengths(DynamicCache(config=config), prompt_length, prompt_length + new_tokens)


def with_lengths(cache: DynamicCache, prompt_length: int, expected_length: int) -> DynamicCache:
    """Set on a cache, and return it: the length of its prompt, for methods whose pieces depend on it (which a chunk of
    prefill does not show), and the number of tokens to preallocate buffers for."""
    cache.prompt_length, cache.expected_length = prompt_length, expected_length
    return cache
