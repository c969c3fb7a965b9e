"""In which order a plan is worked through: which jobs one steered block serves, and which samples follow one another.

What is longest comes first, so that memory which does not suffice shows in the first minutes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from lcbench.run.plan import Job

AT_ONCE = 16  # samples that are kept together though they do not begin alike, for a measure that takes several at once
TOKENS_AT_ONCE = 131_072  # of all their lengths: where a sample takes long, none should wait for others to be built


@dataclass(frozen=True)
class Batch:
    """Samples which one process works through, those together in `alike` that begin alike; its name is the same in all
    processes, whatever is done already."""

    name: str
    alike: list[list[tuple[Job, int]]]

    @property
    def samples(self) -> list[tuple[Job, int]]:
        return [sample for samples in self.alike for sample in samples]


@dataclass(frozen=True)
class Group:
    """Jobs of one task and method that one steered block serves; their samples may share prefixes if `shares`."""

    jobs: list[Job]
    shares: bool
    name: str = ""

    def batches(self, processes: int = 1) -> list[Batch]:
        """All samples, those together that begin alike, and as many beside them as may be measured at once; but for
        several processes so small that each gets two at least: to work at once is worth more than a prefix that is
        shared."""
        alike: dict[Hashable, list[tuple[Job, int]]] = {}
        for job in sorted(self.jobs, key=lambda job: -job.cell.seq_len):
            for sample in range(job.samples):
                key = job.task.shares(job.cell, sample) if self.shares else job.record_id(sample)
                alike.setdefault(key, []).append((job, sample))
        total = sum(map(len, alike.values()))
        most = total if processes == 1 else math.ceil(total / (2 * processes))
        few = AT_ONCE if processes == 1 else min(AT_ONCE, math.ceil(total / (8 * processes)))
        batches: list[Batch] = []
        for key, samples in alike.items():
            if batches:
                together = Batch(batches[-1].name, [*batches[-1].alike, samples])
                length = sum(job.cell.seq_len for job, _ in together.samples)
                if len(together.samples) <= few and length <= TOKENS_AT_ONCE:
                    batches[-1] = together
                    continue
            pieces = math.ceil(len(samples) / most)
            batches += [Batch(f"{self.name} {key!r} {n}/{pieces}", [samples[n::pieces]]) for n in range(pieces)]
        return batches


def grouped(jobs: Iterable[Job], *, by_length: bool) -> list[Group]:
    """Jobs together whose method treats a prefix alike, whatever follows it: all lengths at which the options of a
    `prefix_stable` method come out the same, unless the model's own rotation changes with the length (`by_length`). A
    cache that forgets cannot go back to a prefix. The longest first, else in order."""
    groups: dict[str, Group] = {}
    for job in sorted(jobs, key=lambda job: -job.cell.seq_len):
        shares = job.resolved.prefix_stable and not job.resolved.forgets
        apart = job.cell if not shares else job.cell.seq_len if by_length else None
        name = f"{job.task.name} {job.method} {job.resolved!r} {apart!r}"
        groups.setdefault(name, Group([], shares, name)).jobs.append(job)
    return list(groups.values())
