"""Progress of a run: which samples are missing and which jobs failed, over all processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from lcbench.results.schema import Record
from lcbench.run.plan import Job, Plan


class Progress(Protocol):
    """Receives the progress of a run."""

    def start(self, plan: Plan, missing: Sequence[int]) -> None: ...  # samples of each job, in the order of the plan
    def prefilled(self, job: Job, tokens: int, total: int) -> None: ...  # of a prompt's `total` tokens, those computed
    def sample(self, job: Job, record: Record, left: int) -> None: ...  # left: samples of its job that are missing
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...


class Tally:
    """Counts a plan's samples and reports each to `progress`. `done` are the ids of recorded samples, kept up to date
    by the writer; the caller passes every new record to `note` as well."""

    def __init__(self, plan: Plan, done: set[str], progress: Progress) -> None:
        self.failed: dict[str, tuple[Job, str]] = {}
        self.failed_rows: dict[str, tuple[Job, str]] = {}
        self._plan, self._done, self._progress = plan, done, progress
        self._jobs = {job.record_id(0): job for job in plan.jobs}
        self._left = {id: len(self.missing(job)) for id, job in self._jobs.items()}
        progress.start(plan, list(self._left.values()))

    @property
    def complete(self) -> bool:
        """Whether all samples are recorded or failed."""
        return not any(map(self.missing, self._plan.jobs))

    def missing(self, job: Job) -> list[int]:
        """The samples of a job that are not recorded yet; none if the job failed."""
        return [sample for sample in range(job.samples) if self.is_missing(job, sample)]

    def is_missing(self, job: Job, sample: int) -> bool:
        id = job.record_id(sample)
        return id not in self._done and id not in self.failed_rows and not self.gave_up(job)

    def wants(self, job: Job, sample: int, *, failed: bool) -> bool:
        """Whether to record a result; after its job has failed, only one that did not fail."""
        return self.is_missing(job, sample) or not (failed or job.record_id(sample) in self._done)

    @property
    def failures(self) -> list[tuple[Job, str]]:
        """The jobs that failed, and those with a row that cannot be used, with the reasons."""
        return [*self.failed.values(), *self.failed_rows.values()]

    def gave_up(self, job: Job) -> bool:
        return job.record_id(0) in self.failed

    def note(self, records: Iterable[Record]) -> None:
        """Count new records; only the first of a job's failures counts, since several processes may record one."""
        for record in records:
            id = f"{record.identity.id.rpartition('/')[0]}/0"
            job = self._jobs.get(id)
            if job is None or self.gave_up(job) or not job.has(record):
                continue
            if record.row_failed and record.identity.id in self.failed_rows:
                continue
            self._left[id] -= 1
            if record.failed:
                failed = self.failed_rows if record.row_failed else self.failed
                failed[record.identity.id if record.row_failed else id] = job, str(record.error)
            self._progress.sample(job, record, self._left[id])
