"""The in-process engine: a loaded model, steered under the method."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lcbench.attention.options import AttentionOptions
from lcbench.attention.probe import execution_device
from lcbench.attention.steering import Steering
from lcbench.engine import generate as decoding
from lcbench.engine.base import (
    AT_ONCE,
    CallCost,
    ContinuationScores,
    Engine,
    Host,
    Output,
    PromptRequest,
    TextScores,
)
from lcbench.engine.continuations import score_continuations
from lcbench.engine.footprint import Footprint
from lcbench.engine.generate import Generation, Prompt, generate_together, never, stop_tokens
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.prefix_cache import PrefixCache
from lcbench.engine.reading import Reader
from lcbench.methods import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS_TOGETHER = 16_384  # prompts and answers in the KV cache of a batch; a longer prompt is a batch of its own
BYTES_TOGETHER = 2**28  # of that cache, or the weights' bytes: beyond, a step reads more cache than weights
BEFORE = 8  # prompt tokens that are detokenized with the answer


class SteeredHost(Host):
    """A model of `transformers` in this process."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        footprint: Footprint,
        attention: AttentionOptions,
    ) -> None:
        self.model, self.tokenizer, self.footprint, self._attention = model, tokenizer, footprint, attention

    def follows_length(self, methods: Iterable[tuple[Method, int]]) -> bool:
        follows = False
        for method, length in methods:
            steering = self._steering(method, length)
            with steering:
                follows = any(layer.rope.depends_on_length for layer in steering.layers.values())
        return follows

    @contextmanager
    def engine(self, method: Method, seq_len: int, lengths: Sequence[int], *, shares: bool) -> Iterator[Engine]:
        steering = self._steering(method, seq_len)
        with steering:
            yield SteeredEngine(self, steering, method, lengths, shares=shares)

    def _steering(self, method: Method, length: int) -> Steering:
        return Steering(self.model, method, length, self._attention)


class SteeredEngine(Engine):
    """A model inside a steered block. Short prompts are decoded as one batch; prompts are prefilled in chunks."""

    def __init__(
        self, host: SteeredHost, steering: Steering, method: Method, lengths: Sequence[int], *, shares: bool
    ) -> None:
        self._model, self._tokenizer, self.steering = host.model, host.tokenizer, steering
        self.layers_steered = steering.layers_steered
        self._prefixes = PrefixCache(self._model.config) if shares else None
        self._ends = stop_tokens(self._model, self._tokenizer)
        self._reader = Reader(self._model, method, host.footprint, lengths, shares=shares)
        self._chunks: dict[int, int] = {}  # prefill chunk by length, if the default ran out of memory
        self._at_once: dict[int, int] = {}  # largest batch by length, if AT_ONCE ran out of memory
        self._footprint = host.footprint

    @property
    def backends(self) -> Sequence[str]:  # type: ignore[override]
        return self.steering.backends

    def generate(self, requests: Sequence[PromptRequest], *, shared: bool = True) -> list[Output]:
        device = execution_device(self._model)
        reset_peak_memory(device)
        given = [
            Prompt(
                one.tokens,
                one.max_new_tokens,
                self._watch(one),
                self._chunk(one.seq_len),
                one.on_prefill,
                one.sampling.chooser(one.seed) if one.sampling else None,
            )
            for one in requests
        ]
        ends = self._ends.union(*(one.end_tokens for one in requests))
        generations = generate_together(self._model, given, ends, self._prefixes if shared else None)
        peak = peak_memory(device)
        return [self._output(request, found, peak) for request, found in zip(requests, generations, strict=True)]

    def _output(self, request: PromptRequest, found: Generation, peak: int) -> Output:
        cost = CallCost(
            prefill_seconds=round(found.prefill_seconds, 6),
            decode_seconds=round(found.decode_seconds, 6),
            peak_memory_bytes=peak,
            reused_tokens=found.reused,
            decoded_together=found.together,
            prefill_chunk=self._chunk(request.seq_len),
            kept_keys=found.kept_keys,
            density=found.density,
        )
        text = text_after(self._tokenizer, request.tokens, found.tokens)
        return Output(text, len(found.tokens), found.finish_reason, cost)

    def continuations(self, request: PromptRequest, choices: Mapping[str, list[int]]) -> ContinuationScores:
        return score_continuations(self._model, self._prefixes, request, choices, self._chunk(request.seq_len))

    def read(
        self, tokens: list[int], first: int, seq_len: int, on_prefill: Callable[[float], None] | None = None
    ) -> TextScores:
        return self._reader.read(tokens, first, self._chunk(seq_len), on_prefill)

    def together(self, requests: Iterable[PromptRequest]) -> int:
        """The number of requests that fit into TOKENS_TOGETHER and BYTES_TOGETHER, padding included."""
        count, longest, most = 0, 0, AT_ONCE
        for one in requests:
            longest = max(longest, len(one.tokens) + one.max_new_tokens)
            most = min(most, self._at_once.get(one.seq_len, AT_ONCE))
            if count and (count == most or not self._fit(count + 1, longest)):
                break
            count += 1
        return count

    def _fit(self, count: int, length: int) -> bool:
        """Whether the cache of `count` sequences of this length, with rotated keys for decode, is within bounds."""
        if count * length > TOKENS_TOGETHER:
            return False
        method = self.steering.method
        of_one = self._footprint.kv_cache(method, length) + self._footprint.rotated_keys(method, length)
        return count * of_one <= max(BYTES_TOGETHER, self._footprint.weights)

    def release(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def take_less_memory(self, requests: Sequence[PromptRequest]) -> str | None:
        """Halve the batch; if it has one prompt, the prefill chunk."""
        if len(requests) > 1:
            half = self._at_once[max(one.seq_len for one in requests)] = len(requests) // 2
            return f"{half} prompts at once" if half > 1 else "one prompt at a time"
        (one,) = requests
        half = min(self._chunk(one.seq_len), len(one.tokens)) // 2
        if half < decoding.SMALLEST_CHUNK:
            return None
        self._chunks[one.seq_len] = half
        return f"{half} tokens per call"

    def _chunk(self, seq_len: int) -> int:
        """The prefill chunk in tokens, at this length."""
        return self._chunks.get(seq_len, decoding.PREFILL_CHUNK)

    def _watch(self, request: PromptRequest) -> Callable[[list[int]], bool]:
        """A function of the output's tokens that ends it at a stop string."""

        def ended(tokens: list[int]) -> bool:
            # Each token decodes to at least one byte, so a stop string of n bytes lies within the last n + 1 tokens.
            text = text_after(self._tokenizer, request.tokens, tokens[-longest - 1 :])
            return any(stop in text for stop in request.stop)

        longest = max((len(stop.encode()) for stop in request.stop), default=0)
        return ended if request.stop else never


def text_after(tokenizer: PreTrainedTokenizerBase, prompt: list[int], tokens: list[int]) -> str:
    """The text of tokens that follow a prompt; decoded alone, SentencePiece tokenizers lose a leading space."""

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids))  # with special tokens: one of them may be the answer

    before, both = decode(prompt[-BEFORE:]), decode(prompt[-BEFORE:] + tokens)
    return both[len(before) :] if both.startswith(before) else decode(tokens)
