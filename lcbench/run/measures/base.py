"""The interface of a measure: from examples of one steered model to what is recorded of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from lcbench.attention.probe import execution_device
from lcbench.engine import generate as engine
from lcbench.results.schema import Cost, Likelihood
from lcbench.run.plan import Job, Plan
from lcbench.tasks import Example


class SampleRequest(NamedTuple):
    """A sample of a job: its number in the cell, and the example that was built for it."""

    job: Job
    sample: int
    example: Example


@dataclass(frozen=True)
class Measured:
    """The part of a sample's record that comes from the model.

    `scores` are set by measures of likelihood; None where the task scores the prediction.
    """

    cost: Cost
    prediction: str = ""
    output_tokens: int = 0
    finish_reason: str | None = None
    choices: dict[str, float] | None = None
    scores: dict[str, float] | None = None
    nll: Likelihood | None = None


class Measure(ABC):
    """Measures the examples of one steered block, one after another or several at once.

    If `shares`, the keys of a prefix do not depend on what follows it, and examples with a common prefix come one after
    another, the longer before the shorter, so that the KV cache of one can be reused for the next. `folder` is the
    run's, for what is too large for a record.
    """

    def __init__(self, plan: Plan, model: PreTrainedModel, folder: Path, *, shares: bool) -> None:
        self.plan, self.model, self.folder, self.shares = plan, model, folder, shares
        self.on_prefill: Callable[[Job, int, int], None] | None = None  # job, tokens in the cache, of how many
        self._chunks: dict[int, int] = {}  # prefill chunk by length, where the usual one ran out of memory

    @abstractmethod
    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        """The results, in the order of the requests. Any exception but a UserError fails the job."""

    def portions(self, requests: Sequence[SampleRequest]) -> Iterator[Sequence[SampleRequest]]:
        """The requests split into batches, one a call, in their order; batches of one unless a measure overrides
        this."""
        return ([one] for one in requests)

    @property
    def device(self) -> torch.device:
        """The device of the model's inputs."""
        return execution_device(self.model)

    def chunk_size(self, job: Job) -> int:
        """Tokens of a prompt in one forward call, at the job's length."""
        return self._chunks.get(job.cell.seq_len, engine.PREFILL_CHUNK)

    def take_less_memory(self, requests: Sequence[SampleRequest]) -> str | None:
        """Called after a batch ran out of memory: halve the chunk for later calls. In words what was reduced; None if
        nothing is left to reduce."""
        job, _, example = requests[0]
        half = min(self.chunk_size(job), len(example.prompt)) // 2
        if half < engine.SMALLEST_CHUNK:
            return None
        self._chunks[job.cell.seq_len] = half
        return f"{half} tokens a call"
