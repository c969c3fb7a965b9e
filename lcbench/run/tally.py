"""How far a run is: what is missing, and what failed, whichever process has done it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lcbench.results.schema import Record
from lcbench.run.plan import Job, Plan


class Progress(Protocol):
    """Who is told how far a run is."""

    def start(self, plan: Plan, done: int) -> None: ...
    def sample(self, job: Job, record: Record, left: int) -> None: ...  # left: how many more its job has
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...


class Tally:
    """Keeps count of a plan's samples, and tells the progress of each. `done` are the ids of what is recorded; whoever
    adds to it calls `note`, too."""

    def __init__(self, plan: Plan, done: set[str], progress: Progress) -> None:
        self.failed: dict[str, tuple[Job, str]] = {}
        self._plan, self._done, self._progress = plan, done, progress
        self._jobs = {job.record_id(0): job for job in plan.jobs}
        self._left = {id: len(self.missing(job)) for id, job in self._jobs.items()}
        progress.start(plan, done=plan.samples - sum(self._left.values()))

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not any(map(self.missing, self._plan.jobs))

    def missing(self, job: Job) -> list[int]:
        """The samples of a job that are to be done: none that is recorded, none of a job that failed."""
        return [sample for sample in range(job.samples) if self.is_missing(job, sample)]

    def is_missing(self, job: Job, sample: int) -> bool:
        return job.record_id(sample) not in self._done and not self.gave_up(job)

    def gave_up(self, job: Job) -> bool:
        return job.record_id(0) in self.failed

    def note(self, records: Iterable[Record]) -> None:
        """Count records that were written, the job's first failure only: several processes may find it."""
        for record in records:
            id = f"{record.identity.id.rpartition('/')[0]}/0"
            job = self._jobs.get(id)
            if job is None or self.gave_up(job) or record.identity.sample >= job.samples:
                continue
            self._left[id] -= 1
            if record.error:
                self.failed[id] = job, record.error
            self._progress.sample(job, record, self._left[id])
