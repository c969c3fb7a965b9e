"""The likelihood that a model gives to a text, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from lcbench.core.errors import UnsupportedModelError
from lcbench.engine.memory import peak_memory, reset_peak_memory
from lcbench.engine.score import TokenScores, score_tokens
from lcbench.methods import Lengths, Method
from lcbench.methods.base import trained_length
from lcbench.results.nll import TokenNll
from lcbench.results.schema import Cost
from lcbench.results.schema import Likelihood as LikelihoodPart
from lcbench.run.measures.base import Measure, Measured, SampleRequest
from lcbench.run.plan import Job, Plan
from lcbench.tasks import Example


class PrefixStabilityError(Exception):
    """A method is declared `prefix_stable`, but its results for a prefix depend on what follows."""


@dataclass(frozen=True)
class _Pass:
    """The negative log-likelihoods of tokens[first:] in nats, the seconds they took, the peak memory in bytes, and in
    `way` whether a KV cache was filled."""

    tokens: list[int]
    first: int
    nll: torch.Tensor
    seconds: float
    peak_memory: int
    way: str

    def begins_with(self, tokens: list[int], first: int) -> bool:
        return self.first == first and self.tokens[: len(tokens)] == tokens


class Likelihood(Measure):
    """Scores every window of a text in a forward pass of its own. Of windows with a common start only the longest is
    computed if the method is prefix-stable, which is verified once before it is relied upon."""

    def __init__(self, plan: Plan, model: PreTrainedModel, folder: Path, *, shares: bool) -> None:
        super().__init__(plan, model, folder, shares=shares)
        self._longest: _Pass | None = None
        self._difference: float | None = None  # of a slice from a pass of its own, in nats a token; None until verified

    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        return [self._measured(one.job, one.example) for one in requests]

    def _measured(self, job: Job, example: Example) -> Measured:
        reading, head = example.reading, example.head
        assert reading is not None, f"{job.task.name} gives no text to read"
        passes, reused = [], 0
        for window in reading.windows:
            tokens = head + example.context[window.start : window.stop]
            first = len(head) + window.first - window.start
            if self.shares and self._longest and self._longest.begins_with(tokens, first):
                self._prove(job, tokens, first)
                known = self._longest
                passes.append(_Pass(tokens, first, known.nll[: len(tokens) - first], 0.0, known.peak_memory, known.way))
                reused += len(tokens)
            else:
                self._longest = self._pass(job, tokens, first)
                passes.append(self._longest)
        result = TokenNll(
            nll=torch.cat([one.nll for one in passes]).numpy(),
            start=np.array([window.start for window in reading.windows]),
            first=np.array([window.first for window in reading.windows]),
            stop=np.array([window.stop for window in reading.windows]),
            head=len(head),
        )
        size, words = (sum(getattr(window, unit) for window in reading.windows) for unit in ("bytes", "words"))
        return Measured(
            scores=result.scores(size, words),
            nll=LikelihoodPart(
                file=result.write(self.folder, f"{job.task.name}/{job.method}/{job.cell.key}/{example.seed}"),
                averaging=reading.averaging,
                tokens=len(result.nll),
                bytes=size,
                words=words,
                buckets=result.buckets(),
            ),
            cost=Cost(
                prefill_seconds=round(sum(one.seconds for one in passes), 6),
                decode_seconds=0.0,
                peak_memory_bytes=max(one.peak_memory for one in passes),
                way=" and ".join(sorted({one.way for one in passes})),
                reused_tokens=reused,
                reuse_difference=self._difference if reused else None,
            ),
        )

    def _pass(self, job: Job, tokens: list[int], first: int) -> _Pass:
        reset_peak_memory(self.device)
        scored, way = self._score(job, tokens, first)
        return _Pass(tokens, first, scored.nll, scored.seconds, peak_memory(self.device), way)

    def _score(self, job: Job, tokens: list[int], first: int) -> tuple[TokenScores, str]:
        """Layer by layer where that needs less memory than a KV cache and the model allows it; and which way it was."""
        need, length, chunk_size = self.plan.footprint, len(tokens), self.chunk_size(job)
        layerwise = need.layerwise(job.resolved, length) < need.kv_cache(job.resolved, length)
        way = "cached"
        if layerwise and length > chunk_size:
            try:
                return score_tokens(self.model, tokens, first, layerwise=True, chunk_size=chunk_size), "layerwise"
            except UnsupportedModelError as error:
                way = f"cached, since {error}"
        return score_tokens(self.model, tokens, first, chunk_size=chunk_size), way

    def _prove(self, job: Job, tokens: list[int], first: int) -> None:
        """Verify prefix stability, once a steered block: the shortest length of the run is scored in a pass of its own
        and compared with the slice of the longer pass; the method's hooks are compared at the shortest and the longest
        length of the run, since they could depend on it.

        Raises: PrefixStabilityError.
        """
        assert self._longest is not None
        if self._difference is None:
            lengths = [other.cell.seq_len for other in self.plan.jobs if _same_block(job, other)]
            longest, short = self._longest, tokens[: max(min(lengths), first + 1)]
            _compare_hooks(job.resolved, trained_length(self.plan.config), min(lengths), max(lengths))
            alone = self._score(job, short, first)[0].nll
            self._difference = float((alone - longest.nll[: len(alone)]).abs().double().mean())
        if not self._difference <= torch.finfo(self.model.dtype).eps ** 0.5:
            raise PrefixStabilityError(
                f"{job.method} says that a prefix is computed alike whatever follows it, but by itself it differs by "
                f"{self._difference:.2g} nats a token; mend its prefix_stable."
            )


def _same_block(job: Job, other: Job) -> bool:
    """Whether two jobs may have been put into one block."""
    return (job.task.name, str(job.method), repr(job.resolved)) == (
        other.task.name,
        str(other.method),
        repr(other.resolved),
    )


def _compare_hooks(method: Method, trained: int, short: int, long: int) -> None:
    """Raises: PrefixStabilityError if the frequencies or the scale of scores depend on the length of the run."""
    i, inv_freq = torch.arange(short), 10_000.0 ** -torch.linspace(0, 1, 17)[:-1]
    one, other = (Lengths(trained, length) for length in (short, long))
    (frequencies, factor), (others, other_factor) = (method.frequencies(inv_freq, each) for each in (one, other))
    scales = [method.score_scale(i, each) for each in (one, other)]
    present = [scale for scale in scales if scale is not None]
    same_scale = not present or (len(present) == 2 and torch.equal(*present))
    if not (torch.equal(frequencies, others) and factor == other_factor and same_scale):
        raise PrefixStabilityError(
            f"{method.label} says that a prefix is computed alike whatever follows it, but it follows the length of "
            f"the run, {short} or {long}; mend its prefix_stable."
        )
