"""The prompts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lcbench.core.errors import RowError
from lcbench.engine.prefix_cache import shared_length
from lcbench.run.batches import Batch
from lcbench.run.measures import SampleRequest
from lcbench.run.plan import Job, Plan


class Built(NamedTuple):
    """The samples of a batch with their prompts, in groups with a common prefix; and those without a prompt: job,
    sample and reason."""

    prefix_groups: list[list[SampleRequest]]
    unusable: list[tuple[Job, int, RowError]]


def build(plan: Plan, batch: Batch) -> Built:
    """The requests of a batch, recorded ones included, so that a resumed run splits it into the same portions and gets
    the same floating-point results. Within a prefix group, requests with the longest common prefixes are adjacent."""
    found = Built([], [])
    for samples in batch.prefix_groups:
        requests = []
        for job, sample in samples:
            try:
                example = job.example(sample, plan.tokenizer, plan.seed)
            except RowError as error:
                found.unusable.append((job, sample, error))
            else:
                requests.append(SampleRequest(job, sample, example))
        found.prefix_groups.append(sorted(requests, key=lambda one: one.example.prompt, reverse=True))
    return found


def chains(requests: Sequence[SampleRequest]) -> list[list[SampleRequest]]:
    """Requests in chains in which each shares at least half of its prompt with the one before it, so that a server's
    prefix cache saves more time than sending both at once."""
    found: list[list[SampleRequest]] = []
    before: list[int] = []
    for one in requests:
        prompt = one.example.prompt
        if found and 2 * shared_length(before, prompt) >= len(prompt):
            found[-1].append(one)
        else:
            found.append([one])
        before = prompt
    return found
