"""What a measure is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
    """A sample of a job, by its number, and its question."""

    job: Job
    sample: int
    example: Example


@dataclass(frozen=True)
class Measured:
    """What a measure found for a sample: the part of its record that only the model can tell.

    `scores` are those that follow from the likelihood alone; None where the task scores the prediction.
    """

    cost: Cost
    prediction: str = ""
    output_tokens: int = 0
    choices: dict[str, float] | None = None
    scores: dict[str, float] | None = None
    nll: Likelihood | None = None


class Measure(ABC):
    """Measures the examples of one steered block, one after another or several at once.

    If `shares`, the keys of a prefix do not depend on what follows it, and the examples come in an order in which those
    that begin alike follow one another, the longer before the shorter: what is known of one may serve the next.
    `folder` is the run's, for what is too large for a record.
    """

    def __init__(self, plan: Plan, model: PreTrainedModel, folder: Path, *, shares: bool) -> None:
        self.plan, self.model, self.folder, self.shares = plan, model, folder, shares
        self._chunks: dict[int, int] = {}  # by length: where the memory did not suffice for the usual one

    @abstractmethod
    def __call__(self, asked: Sequence[SampleRequest]) -> list[Measured]:
        """What is found for each. An exception of the model fails the job."""

    def portions(self, asked: Sequence[SampleRequest]) -> Iterator[Sequence[SampleRequest]]:
        """What one call after another is to take of these, in their order: one each, unless a measure gains by more."""
        return ([one] for one in asked)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return execution_device(self.model)

    def chunk_size(self, job: Job) -> int:
        """Tokens of a prompt that a forward call may take at this length."""
        return self._chunks.get(job.cell.seq_len, engine.PREFILL_CHUNK)

    def take_less_memory(self, asked: Sequence[SampleRequest]) -> str | None:
        """After a call for these ran out of memory: take less from now on, if that may help; in words, how."""
        job, _, example = asked[0]
        half = min(self.chunk_size(job), len(example.prompt)) // 2
        if half < engine.SMALLEST_CHUNK:
            return None
        self._chunks[job.cell.seq_len] = half
        return f"{half} tokens a call"
