"""Multiple choice: the most likely of the allowed answers.

Answers are scored one after another on the prompt's KV cache, all tokens of an answer in one forward pass. As a batch
they would need a copy of the cache each, 50 copies at TREC: too much for long contexts, and the peak memory of a run
would no longer be that of its method. Most answers need no pass at all: no answer is more likely than its first token,
whose probability the prefill gives. Taken in the order of their first tokens, the remaining answers cannot win once a
whole answer is more likely than the next first token.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from lcbench.attention.cache.growing import GrowingLayer
from lcbench.attention.cache.window import WindowLayer
from lcbench.engine.finite import not_finite, require_usable
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.prefix_cache import PrefixCache, take_cache
from lcbench.results.schema import Cost
from lcbench.run.measures.base import Measure, Measured, SampleRequest
from lcbench.run.plan import Job, Plan
from lcbench.tasks import Example

GO_BACK = (DynamicLayer, GrowingLayer, WindowLayer)  # cache layers that can be cropped; sliding windows cannot


class Choice(Measure):
    """The choice with the highest log-likelihood, the sum over its tokens as in lm-evaluation-harness's `acc`. A record
    has the log-likelihoods of those that had to be scored. Prompts with a common prefix share its prefill."""

    def __init__(self, plan: Plan, model: PreTrainedModel, folder: Path, *, shares: bool) -> None:
        super().__init__(plan, model, folder, shares=shares)
        self._prefixes = PrefixCache(model.config) if shares else None

    @torch.no_grad()
    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        return [self._measured(one.job, one.example) for one in requests]

    def _measured(self, job: Job, example: Example) -> Measured:
        device, chunk = self.device, self.chunk_size(job)
        reset_peak_memory(device)
        prompt = example.prompt
        cache, reused = take_cache(self.model.config, self._prefixes, prompt, example.max_new_tokens)
        started = time.perf_counter()
        first_1V = self._log_probs(prompt[reused:], cache, keep=1, chunk=chunk)
        prefilled = time.perf_counter()
        require_usable(self.model, first_1V, prompt, chunk)
        logs = self._score(example.choices, first_1V, cache)
        done = time.perf_counter()
        if self._prefixes:
            self._prefixes.keep(cache, prompt)
        if wrong := [choice for choice, log in logs.items() if not math.isfinite(log)]:
            raise not_finite(self.model, [*prompt, *example.choices[wrong[0]][:-1]], chunk, equal=False)
        return Measured(
            prediction=max(logs, key=logs.__getitem__),
            choices={choice: round(log, 4) for choice, log in logs.items()},
            cost=Cost(
                prefill_seconds=round(prefilled - started, 6),
                decode_seconds=round(done - prefilled, 6),
                peak_memory_bytes=peak_memory(device),
                reused_tokens=reused,
            ),
        )

    def _score(self, choices: Mapping[str, list[int]], first_1V: Tensor, cache: DynamicCache) -> dict[str, float]:
        """ln p of each choice that may be the best, given the tokens in the cache, whose next-token distribution is
        ln p = first_1V [1, V]. The cache is cropped back to the prompt, if its layers can be cropped."""
        first = {choice: float(first_1V[0, tokens[0]]) for choice, tokens in choices.items()}
        scores: dict[str, float] = {}
        for choice in sorted(choices, key=first.__getitem__, reverse=True):
            if first[choice] < max(scores.values(), default=-math.inf):
                break
            *begun, _ = tokens = choices[choice]
            logs_TV = torch.cat([first_1V, self._log_probs_after(begun, cache)]) if begun else first_1V
            scores[choice] = float(logs_TV[range(len(tokens)), tokens].sum())
        return scores

    def _log_probs_after(self, tokens: Sequence[int], cache: DynamicCache) -> Tensor:
        """ln p [T, V] after each of these T tokens, which are removed from the cache again. A cache that drops keys can
        be cropped only to where the last pass began; one that cannot be cropped is copied."""
        if not all(type(layer) in GO_BACK for layer in cache.layers):
            return self._log_probs(tokens, copy.deepcopy(cache), keep=len(tokens))
        logs_TV = self._log_probs(tokens, cache, keep=len(tokens))
        cache.crop(-len(tokens))
        return logs_TV

    def _log_probs(self, tokens: Sequence[int], cache: DynamicCache, keep: int, chunk: int | None = None) -> Tensor:
        """ln p [keep, V] after each of the last `keep` tokens, on the CPU, in float32, or wider if the model is. A
        forward call takes `chunk` tokens, or all."""
        for part in torch.split(torch.tensor([tokens], device=self.device), chunk or len(tokens), dim=1):
            logits = self.model(part, past_key_values=cache, logits_to_keep=keep).logits
        wide = logits[0, -keep:].to(torch.promote_types(logits.dtype, torch.float32))
        logs: Tensor = wide.log_softmax(-1).cpu()
        return logs
