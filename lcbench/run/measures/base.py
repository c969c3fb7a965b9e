"""The interface of a measure: from examples and one engine to what is recorded of them."""

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

    `scores` are set by measures of likelihood; None where the task scores the prediction.
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
    """Measures examples with one engine, one after another or several at once. `folder` is the run's, for what is too
    large for a record."""

    def __init__(self, plan: Plan, engine: Engine, folder: Path) -> None:
        self.plan, self.engine, self.folder = plan, engine, folder
        self.on_prefill: Callable[[Job, int, int], None] | None = None  # job, tokens in the cache, of how many

    @abstractmethod
    def __call__(self, requests: Sequence[SampleRequest]) -> list[Measured]:
        """The results, in the order of the requests. Any exception but a UserError fails the job."""

    def portions(self, requests: Sequence[SampleRequest]) -> Iterator[Sequence[SampleRequest]]:
        """The requests split into batches, one a call, in their order; batches of one unless a measure overrides
        this."""
        return ([one] for one in requests)

    def take_less_memory(self, requests: Sequence[SampleRequest]) -> str | None:
        """Called after a batch ran out of memory: take less in later calls. In words what was reduced; None if nothing
        is left to reduce."""
        return self.engine.take_less_memory([self.request(one) for one in requests])

    def request(self, one: SampleRequest) -> PromptRequest:
        """The example's prompt for the engine."""
        return self._request(one, one.example.prompt)

    def _request(self, one: SampleRequest, prompt: list[int]) -> PromptRequest:
        job, on_prefill, total = one.job, self.on_prefill, len(prompt)
        tell = None if on_prefill is None else lambda tokens: on_prefill(job, tokens, total)
        return PromptRequest(prompt, job.cell.seq_len, one.example.max_new_tokens, on_prefill=tell)


def cost_of(costs: Sequence[CallCost]) -> Cost:
    """The cost of a record whose measurement took these calls."""
    return Cost(**asdict(CallCost.total(costs)))
