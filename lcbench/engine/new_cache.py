"""Empty KV caches with the length of their prompt, and the number of tokens to preallocate."""

from __future__ import annotations

from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from lcbench.core.errors import UnsupportedModelError


def require_shared_cache(model: PreTrainedModel) -> None:
    """Raises: UnsupportedModelError for a model that takes no `DynamicCache` but builds a cache class of its own."""
    takes = getattr(model, "_supports_default_dynamic_cache", None)  # the check of transformers' `generate`
    if takes is not None and not takes():
        raise UnsupportedModelError(
            f"{type(model).__name__} keeps its keys and states in a cache class of its own, which cannot be filled in "
            "chunks, joined or shared by prompts here; in Python, lcbench.extend steers its own generate()."
        )


def new_cache(config: PreTrainedConfig, prompt_length: int, new_tokens: int = 0) -> DynamicCache:
    """An empty cache for a prompt of `prompt_length` tokens and `new_tokens` generated after it."""
    return with_lengths(DynamicCache(config=config), prompt_length, prompt_length + new_tokens)


def with_lengths(cache: DynamicCache, prompt_length: int, expected_length: int) -> DynamicCache:
    """Set on a cache the length of its prompt, for methods whose pieces depend on it (which a chunk of prefill does not
    show), and the number of tokens to preallocate buffers for; returns the cache."""
    cache.prompt_length, cache.expected_length = prompt_length, expected_length
    return cache
