"""Empty KV caches that know how long their prompt is, and how much they will hold."""

from __future__ import annotations

from transformers import DynamicCache, PreTrainedConfig


def new_cache(config: PreTrainedConfig, prompt_length: int, new_tokens: int = 0) -> DynamicCache:
    """An empty cache for a prompt of so many tokens, and those that are generated after it."""
    return with_lengths(DynamicCache(config=config), prompt_length, prompt_length + new_tokens)


def with_lengths(cache: DynamicCache, prompt_length: int, expected_length: int) -> DynamicCache:
    """The same cache, told the length of its prompt, for methods that count from its end (a chunk of prefill does not
    tell), and how many tokens its preallocated buffers should have room for."""
    cache.prompt_length, cache.expected_length = prompt_length, expected_length
    return cache
