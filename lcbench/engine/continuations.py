"""Log-likelihoods of the continuations of one prompt that may be the most likely one.

They are scored one after another on the prompt's KV cache, each in one forward pass. As a batch, each would need a copy
of the cache, 50 copies for TREC: too much for long contexts, and the peak memory of a run would no longer be that of
its method. Most need no pass at all: a continuation is at most as likely as its first token, whose probability the
prefill gives. Scored in the order of their first tokens, the rest cannot win once a whole continuation is more likely
than the next first token.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lcbench.attention.cache.evicting import EvictingLayer
from lcbench.attention.cache.growing import GrowingLayer
from lcbench.attention.cache.window import WindowLayer
from lcbench.attention.content import density, kept_keys
from lcbench.attention.probe import execution_device
from lcbench.engine.base import CallCost, ContinuationScores, PromptRequest
from lcbench.engine.finite import not_finite, require_usable, unusable
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.prefix_cache import PrefixCache, take_cache

GO_BACK = (
    DynamicLayer,
    GrowingLayer,
    WindowLayer,
    EvictingLayer,
)  # cache layers that can be cropped; sliding windows cannot


@torch.no_grad()
def score_continuations(
    model: PreTrainedModel,
    prefixes: PrefixCache | None,
    request: PromptRequest,
    choices: Mapping[str, list[int]],
    chunk: int,
) -> ContinuationScores:
    """ln p of each choice that may be the best one; the prompt is prefilled in chunks of `chunk` tokens.

    Raises: NotFiniteError for logits that are NaN, infinite or all equal.
    """
    device, prompt = execution_device(model), request.tokens
    reset_peak_memory(device)
    cache, reused = take_cache(model.config, prefixes, prompt, request.max_new_tokens)
    started = time.perf_counter()
    first_1V = prefill(model, request, reused, cache, chunk)
    prefilled = time.perf_counter()
    require_usable(model, first_1V, prompt, chunk)
    logs = likely(model, choices, first_1V, cache)
    done = time.perf_counter()
    if prefixes:
        prefixes.keep(cache, prompt)
    if wrong := [choice for choice, log in logs.items() if not math.isfinite(log)]:
        equal = logs[wrong[0]] == math.inf
        raise not_finite(model, [*prompt, *choices[wrong[0]][:-1]], chunk, equal=equal)
    cost = CallCost(
        prefill_seconds=round(prefilled - started, 6),
        decode_seconds=round(done - prefilled, 6),
        peak_memory_bytes=peak_memory(device),
        reused_tokens=reused,
        prefill_chunk=chunk,
        kept_keys=kept_keys(cache),
        density=density(cache),
    )
    return ContinuationScores(logs, cost)


def prefill(model: PreTrainedModel, request: PromptRequest, reused: int, cache: DynamicCache, chunk: int) -> Tensor:
    """ln p [1, V] after a prompt whose first `reused` tokens are in the cache, in chunks of `chunk` tokens."""
    tokens, tell = request.tokens, request.on_prefill or (lambda tokens: None)
    for begin in range(reused, len(tokens), chunk):
        tell(begin)
        logs_1V = log_probabilities(model, tokens[begin : begin + chunk], cache, keep=1)
    tell(len(tokens))
    return logs_1V


def likely(
    model: PreTrainedModel, choices: Mapping[str, list[int]], first_1V: Tensor, cache: DynamicCache
) -> dict[str, float]:
    """ln p of each choice that may be the best one, after the tokens in the cache, whose next-token distribution is
    ln p = first_1V [1, V]; NaN if later logits are not finite, infinite if they are all equal. The cache is cropped
    back to the prompt, if its layers can be cropped."""
    first = {choice: float(first_1V[0, tokens[0]]) for choice, tokens in choices.items()}
    scores: dict[str, float] = {}
    for choice in sorted(choices, key=first.__getitem__, reverse=True):
        if first[choice] < max(scores.values(), default=-math.inf):
            break
        *begun, _ = tokens = choices[choice]
        logs_TV = torch.cat([first_1V, log_probabilities_after(model, begun, cache)]) if begun else first_1V
        scores[choice] = float(logs_TV[range(len(tokens)), tokens].sum())
        if unusable(logs_TV).any():
            scores[choice] = math.inf if logs_TV.isfinite().all() else math.nan
    return scores


def log_probabilities_after(model: PreTrainedModel, tokens: Sequence[int], cache: DynamicCache) -> Tensor:
    """ln p [T, V] after each of these T tokens, which are removed from the cache again. A cache that drops keys can be
    cropped only to where the last pass began; one that cannot be cropped is copied."""
    if not all(type(layer) in GO_BACK for layer in cache.layers):
        return log_probabilities(model, tokens, copy.deepcopy(cache), keep=len(tokens))
    logs_TV = log_probabilities(model, tokens, cache, keep=len(tokens))
    cache.crop(-len(tokens))
    return logs_TV


def log_probabilities(model: PreTrainedModel, tokens: Sequence[int], cache: DynamicCache, keep: int) -> Tensor:
    """ln p [keep, V] after each of the last `keep` tokens, on the CPU, in float32, or wider if the model is."""
    ids_1T = torch.tensor([tokens], device=execution_device(model))
    logits = model(ids_1T, past_key_values=cache, logits_to_keep=keep).logits
    wide = logits[0, -keep:].to(torch.promote_types(logits.dtype, torch.float32))
    logs: Tensor = wide.log_softmax(-1).cpu()
    return logs
