"""The interface of a measure: what is recorded of examples, measured with one engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from lcbench.engine.base import CallCost, Engine, PromptRequest
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

    `scores` are set by measures of likelihood; None if the task scores the prediction.
    """

    cost: Cost
    prediction: str = ""
    output_tokens: int = 0
    finish_reason: str | None = None
    reasoning: str | None = None
    reasoning_tokens: int | None = None
    reasoning_cut: bool | None = None
    choices: dict[str, float] | None = None
    scores: dict[str, float] | None = None
    nll: Likelihood | None = None


class Measure(ABC):
    """Measures examples with one engine, one after another or several at once. `folder` is the run's, for data too
    large for a record."""

    def __init__(self, plan: Plan, engine: Engine, folder: Path) -> None:
        self.plan, self.engine, self.folder = plan, engine, folder
        self.on_prefill: Callable[[Job, int, int], None] | None = None  # job, tokens in the cache, total tokens

    @abstractmethod
    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        """The results, in the order of the requests. Any exception but a UserError fails the job."""

    def portions(self, requests: Sequence[SampleRequest]) -> Iterator[Sequence[SampleRequest]]:
        """The requests in order, split into batches, one per call; batches of one unless a measure overrides this."""
        return ([one] for one in requests)

    def take_less_memory(self, requests: Sequence[SampleRequest]) -> str | None:
        """Reduce the memory of later calls after a batch ran out of it. Returns in words what was reduced; None if
        nothing can be."""
        return self.engine.take_less_memory([self.request(one) for one in requests])

    def request(self, one: SampleRequest) -> PromptRequest:
        """The example's prompt for the engine."""
        return self._request(one, one.example.prompt)

    def _request(self, one: SampleRequest, prompt: list[int]) -> PromptRequest:
        job, on_prefill, total = one.job, self.on_prefill, len(prompt)
        tell = None if on_prefill is None else lambda tokens: on_prefill(job, tokens, total)
        return PromptRequest(prompt, job.cell.seq_len, one.example.max_new_tokens, on_prefill=tell)


def cost_of(costs: Sequence[CallCost]) -> Cost:
    """The cost, as recorded, of a measurement by these calls."""
    return Cost(**asdict(CallCost.total(costs)))
