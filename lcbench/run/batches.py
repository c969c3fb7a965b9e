"""The order of a plan's work: which jobs share one steered block, and which samples share a prefix of the KV cache.

The longest prompts come first, so that a lack of memory shows in the first minutes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from lcbench.engine.base import AT_ONCE
from lcbench.run.plan import Job

TOKENS_AT_ONCE = 131_072  # summed lengths in a batch: a long sample should not wait while others are built


@dataclass(frozen=True)
class Batch:
    """Samples that one process claims and works through, as (job, sample number), in lists of samples with a common
    prefix. Its name is the same in all processes, however much of the run is done, so that it can be the key of a
    lock."""

    name: str
    prefix_groups: list[list[tuple[Job, int]]]

    @property
    def samples(self) -> list[tuple[Job, int]]:
        return [sample for samples in self.prefix_groups for sample in samples]


@dataclass(frozen=True)
class Group:
    """Jobs of one task and method that run in one steered block; samples may share a prefix of the KV cache if
    `shares`."""

    jobs: list[Job]
    shares: bool
    name: str = ""

    def batches(self, processes: int = 1) -> list[Batch]:
        """All samples in batches: samples with a common prefix stay together, others fill a batch up to AT_ONCE. With
        several processes, batches are small enough that each process gets at least two: parallel work saves more time
        than a shared prefix."""
        by_prefix: dict[Hashable, list[tuple[Job, int]]] = {}
        for job in sorted(self.jobs, key=lambda job: -job.cell.seq_len):
            for sample in range(job.samples):
                key = job.task.shares(job.cell, sample // job.task.repeats) if self.shares else job.record_id(sample)
                by_prefix.setdefault(key, []).append((job, sample))
        total = sum(map(len, by_prefix.values()))
        most = total if processes == 1 else math.ceil(total / (2 * processes))
        few = AT_ONCE if processes == 1 else min(AT_ONCE, math.ceil(total / (8 * processes)))
        batches: list[Batch] = []
        for key, samples in by_prefix.items():
            if batches:
                together = Batch(batches[-1].name, [*batches[-1].prefix_groups, samples])
                length = sum(job.cell.seq_len for job, _ in together.samples)
                if len(together.samples) <= few and length <= TOKENS_AT_ONCE:
                    batches[-1] = together
                    continue
            pieces = math.ceil(len(samples) / most)
            batches += [Batch(f"{self.name} {key!r} {n}/{pieces}", [samples[n::pieces]]) for n in range(pieces)]
        return batches


def grouped(jobs: Iterable[Job], *, by_length: bool) -> list[Group]:
    """Jobs grouped so that within a group the keys of a prefix do not depend on what follows it: all lengths at which
    the options of a `prefix_stable` method resolve to the same values. Each length is a group of its own if the model's
    own RoPE changes with the length (`by_length`), and each cell if the method is not prefix-stable or its KV cache
    drops keys and so cannot be cropped to a prefix. The longest group comes first, else in the order of the plan."""
    groups: dict[str, Group] = {}
    for job in sorted(jobs, key=lambda job: -job.cell.seq_len):
        shares = job.resolved.prefix_stable and not (job.resolved.forgets or job.resolved.evicts)
        apart = job.cell if not shares else job.cell.seq_len if by_length else None
        name = f"{job.task.name} {job.method} {job.resolved!r} {apart!r}"
        groups.setdefault(name, Group([], shares, name)).jobs.append(job)
    return list(groups.values())
