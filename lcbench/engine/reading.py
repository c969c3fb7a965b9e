"""The likelihood of texts, one after another. Of texts that are prefixes of each other only the longest is computed if
the method is prefix-stable, which is verified once before it is relied upon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from lcbench.attention.probe import execution_device
from lcbench.core.errors import UnsupportedModelError
from lcbench.engine.base import CallCost, TextScores
from lcbench.engine.footprint import Footprint
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.score import TokenScores, score_tokens
from lcbench.methods import Lengths, Method
from lcbench.methods.base import layer_scale, require_answer
from lcbench.methods.trained_length import trained_length

OnPrefill = Callable[[float], None] | None


class PrefixStabilityError(Exception):
    """A method is declared `prefix_stable`, but its results for a prefix depend on what follows."""


@dataclass(frozen=True)
class _Pass:
    """The negative log-likelihoods of tokens[first:] in nats, with the cost of their computation."""

    tokens: list[int]
    first: int
    scores: TextScores

    def begins_with(self, tokens: list[int], first: int) -> bool:
        return self.first == first and self.tokens[: len(tokens)] == tokens


class Reader:
    """Reads texts with a steered model; `lengths` are those of the run under this method."""

    def __init__(
        self, model: PreTrainedModel, method: Method, footprint: Footprint, lengths: Sequence[int], *, shares: bool
    ) -> None:
        self._model, self._method, self._footprint = model, method, footprint
        self._lengths, self._shares = lengths, shares
        self._longest: _Pass | None = None
        self._difference: float | None = None  # of a slice from a separate pass, in nats per token; None until verified

    def read(self, tokens: list[int], first: int, chunk_size: int, on_prefill: OnPrefill = None) -> TextScores:
        """The likelihoods of tokens[first:], sliced from the previous pass if that begins with these tokens.

        Raises: PrefixStabilityError; UserError for a method that changes only answers.
        """
        require_answer(self._method, "a likelihood")
        known = self._longest
        if self._shares and known and known.begins_with(tokens, first):
            difference = self._prove(known, tokens, first, chunk_size)
            cost = CallCost(
                prefill_seconds=0.0,
                peak_memory_bytes=known.scores.cost.peak_memory_bytes,
                way=known.scores.cost.way,
                reused_tokens=len(tokens),
                reuse_difference=difference,
                prefill_chunk=chunk_size,
            )
            return TextScores(known.scores.nll[: len(tokens) - first], cost)
        device = execution_device(self._model)
        reset_peak_memory(device)
        scored, way = self._score(tokens, first, chunk_size, on_prefill)
        cost = CallCost(
            prefill_seconds=scored.seconds, peak_memory_bytes=peak_memory(device), way=way, prefill_chunk=chunk_size
        )
        self._longest = _Pass(tokens, first, TextScores(scored.nll.numpy(), cost))
        return self._longest.scores

    def _score(
        self, tokens: list[int], first: int, chunk_size: int, on_prefill: OnPrefill = None
    ) -> tuple[TokenScores, str]:
        """The scores, and in words how they were computed: layer by layer if that needs less memory than a KV cache and
        the model allows it, else through the cache."""
        need, length = self._footprint, len(tokens)
        layerwise = need.layerwise(self._method, length) < need.kv_cache(self._method, length)
        way = "cached"
        if layerwise and length > chunk_size:
            try:
                scored = score_tokens(
                    self._model, tokens, first, layerwise=True, chunk_size=chunk_size, on_prefill=on_prefill
                )
                return scored, "layerwise"
            except UnsupportedModelError as error:
                way = f"cached, since {error}"
        return score_tokens(self._model, tokens, first, chunk_size=chunk_size, on_prefill=on_prefill), way

    def _prove(self, longest: _Pass, tokens: list[int], first: int, chunk_size: int) -> float:
        """Verify prefix stability, once: the shortest length of the run is scored in a separate pass and compared with
        the slice of the longer pass; the method's hooks are compared at the shortest and the longest length of the run,
        on which they could depend. Returns the difference in nats per token.

        Raises: PrefixStabilityError.
        """
        if self._difference is None:
            short = tokens[: max(min(self._lengths), first + 1)]
            trained, layers = trained_length(self._model.config), range(self._footprint.layers)
            ends = (Lengths(trained, length) for length in (min(self._lengths), max(self._lengths)))
            _compare_hooks(self._method, _inv_freq(self._model), layers, *ends)
            alone = self._score(short, first, chunk_size)[0].nll.numpy()
            self._difference = float(np.abs(alone - longest.scores.nll[: len(alone)]).mean(dtype=np.float64))
        if not self._difference <= torch.finfo(self._model.dtype).eps ** 0.5:
            raise PrefixStabilityError(
                f"{self._method.label} is declared prefix-stable, but a prefix by itself differs by "
                f"{self._difference:.2g} nats per token; correct its prefix_stable."
            )
        return self._difference


def _inv_freq(model: PreTrainedModel) -> torch.Tensor:
    """Inverse frequencies [M] of the model's first rotary module, or typical ones if it has none."""
    buffers = (buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq"))
    return next(buffers, 10_000.0 ** -torch.linspace(0, 1, 17)[:-1]).float()


def _compare_hooks(
    method: Method, inv_freq: torch.Tensor, layers: Sequence[int], short: Lengths, long: Lengths
) -> None:
    """Raises: PrefixStabilityError if the frequencies or the score scale depend on the length of the run."""
    i = torch.arange(short.run or 1)
    (frequencies, factor), (others, other_factor) = (method.frequencies(inv_freq, each) for each in (short, long))
    same_scale = True
    for layer in layers if method.layerwise else layers[:1]:
        scales = [layer_scale(method, i, each, layer) for each in (short, long)]
        present = [scale for scale in scales if scale is not None]
        same_scale &= not present or (len(present) == 2 and torch.equal(*present))
    if not (torch.equal(frequencies, others) and factor == other_factor and same_scale):
        raise PrefixStabilityError(
            f"{method.label} is declared prefix-stable, but depends on the length of the run, {short.run} or "
            f"{long.run}; correct its prefix_stable."
        )
