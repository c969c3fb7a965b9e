"""Run a plan: every sample that is not recorded yet, one record each."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lcbench.core import provenance
from lcbench.core.errors import EngineError, NotFiniteError, UserError, out_of_memory
from lcbench.core.processes import Processes, launched
from lcbench.engine.base import Host
from lcbench.results.records import RunWriter
from lcbench.results.schema import Record, Result
from lcbench.run import assemble
from lcbench.run.batches import Batch, Group, grouped
from lcbench.run.measures import MEASURES, Measure, SampleRequest
from lcbench.run.plan import Job, Plan
from lcbench.run.progress import describe
from lcbench.run.prompts import Built, build, chains
from lcbench.run.side_by_side import side_by_side
from lcbench.run.tally import Progress, Tally
from lcbench.run.tensor_parallel import NullWriter, lead, null_writer, process_group

OUT_OF_MEMORY = "out of memory"
POLL_SECONDS = 0.5  # between two reads of what other processes have recorded


@dataclass(frozen=True)
class Outcome:
    """The result of a run: its folder, and the jobs that failed, each with the reason."""

    folder: Path
    failed: list[tuple[Job, str]]


class Unit(NamedTuple):
    """Samples that are measured one after another, and their batch."""

    batch: Batch
    requests: list[SampleRequest]


def run(
    plan: Plan,
    folder: Path,
    progress: Progress,
    open_host: Callable[[], Host] | None = None,
    processes: Processes | None = None,
) -> Outcome:
    """Compute the records that the folder lacks. The same call resumes one that was interrupted.

    A job whose model call fails (out of memory, say) is recorded as failed with the reason, and the others continue.
    Several `processes` (by default those that a launcher started) share the work, each with its own model; the main one
    stays until everything is done and takes over the work of processes that died. If the model is `tensor_parallel`,
    each process has a shard of it, and only the main one writes.

    Raises: UserError for problems that the user can fix: the folder, the model, a method that it does not support.
    """
    processes = processes or launched()
    with _writer(plan, folder, processes) as writer, ThreadPoolExecutor(1, "prompts") as builder:
        tally = Tally(plan, writer.done, progress)
        try:
            _Run(plan, writer, tally, progress, processes, builder).finish_all(open_host or plan.open_host)
        finally:
            progress.finish()
        return Outcome(folder, tally.failures)


@contextlib.contextmanager
def _writer(plan: Plan, folder: Path, processes: Processes) -> Iterator[RunWriter | NullWriter]:
    """The writer of this process's records; one that discards them in all ranks but 0 of a tensor-parallel model."""
    together = plan.source.tensor_parallel
    session = provenance.session() | plan.source.provenance()
    session |= {"advice": plan.advice, "samples": [job.samples for job in plan.jobs]}
    if plan.references:
        session["references"] = list(plan.references)
    if plan.source.display_name:
        session["model_name"] = plan.source.display_name
    if processes.count > 1:
        session |= {"process": processes.rank, "processes": processes.count, "tensor_parallel": together}
    shared = processes.count > 1 and not together
    with contextlib.ExitStack() as stack:
        if together:
            stack.enter_context(process_group(processes))
        if together and not processes.main:
            yield stack.enter_context(null_writer())
            return
        options = {job.record_id(0).rpartition("/")[0]: job.resolved.options() for job in plan.jobs}
        writer = stack.enter_context(RunWriter(folder, plan.identity(), session, shared=shared, options=options))
        if together:
            lead(writer.done)
        yield writer


class _Run:
    """The work of this process on a plan."""

    def __init__(
        self,
        plan: Plan,
        writer: RunWriter | NullWriter,
        tally: Tally,
        progress: Progress,
        processes: Processes,
        builder: ThreadPoolExecutor,
    ) -> None:
        self._plan, self._writer, self._tally, self._progress = plan, writer, tally, progress
        self._processes, self._builder = processes, builder

    def finish_all(self, open_host: Callable[[], Host]) -> None:
        """Work until every sample is recorded or claimed by another process; the main process waits for the others."""
        if self._tally.complete:
            return
        host = open_host()
        each = {str(job.method): job for job in self._plan.jobs}.values()
        groups = grouped(
            self._to_compute(), by_length=host.follows_length((job.method, job.cell.seq_len) for job in each)
        )
        while True:
            for group in groups:
                self._work_on(group, host)
            if not self._processes.main or self._tally.complete:
                return
            time.sleep(POLL_SECONDS)
            self._tally.note(self._writer.news())

    def _to_compute(self) -> list[Job]:
        """The jobs that take over no results, and those whose donor was recorded before they existed."""
        late = (
            job
            for job in self._plan.jobs
            if (donor := self._plan.donors.get(job.record_id(0)))
            and any(donor.record_id(sample) in self._writer.done for sample in self._tally.missing(job))
        )
        return [*self._plan.computed, *late]

    def _work_on(self, group: Group, host: Host) -> None:
        """Measure all samples of a group that are missing and that no other process has claimed."""
        claimed = self._claimed(group)
        first = next(claimed, None)
        if first is None:
            return
        job = group.jobs[0]
        longest = max(job.cell.seq_len for job in group.jobs)
        with host.engine(job.resolved, longest, self._plan.lengths_like(job), shares=group.shares) as engine:
            measure = MEASURES[job.task.measure](self._plan, engine, self._writer.folder)
            measure.on_prefill = self._progress.prefilled
            left: Counter[str] = Counter()  # unfinished units of each claimed batch
            units = self._units(itertools.chain([first], claimed), left, apart=engine.concurrency > 1)
            for unit, measured in side_by_side(units, lambda unit: self._results(measure, unit), engine.concurrency):
                if measured is not None:
                    one, found = measured
                    if self._tally.wants(one.job, one.sample, failed=isinstance(found, str)):
                        layers, backends = engine.layers_steered, engine.backends
                        self._record(one.job, assemble.record(self._plan, one, found, layers, backends))
                    continue
                left[unit.batch.name] -= 1
                if not left[unit.batch.name]:
                    self._writer.release(unit.batch.name)

    def _units(self, claimed: Iterable[tuple[Batch, bool]], left: Counter[str], *, apart: bool) -> Iterator[Unit]:
        """The units of the batches: one per batch, or, if units may run `apart`, one per chain of prompts with a common
        prefix. Samples without a prompt are recorded on the way."""
        for batch, built in self._built(claimed):
            prefix_groups, unusable = built.result()
            for job, sample, error in unusable:
                if self._tally.is_missing(job, sample):
                    self._record(job, assemble.unbuilt(self._plan, job, sample, error))
            whole = [list(itertools.chain.from_iterable(prefix_groups))]
            groups = [chain for group in prefix_groups for chain in chains(group)] if apart else whole
            left[batch.name] = len(groups)
            yield from (Unit(batch, requests) for requests in groups)

    def _results(self, measure: Measure, unit: Unit) -> Iterator[tuple[SampleRequest, Result | str]]:
        for portion in measure.portions(unit.requests):
            yield from self._measured(measure, portion)

    def _record(self, job: Job, record: Record) -> None:
        """Append the record of a sample, after those that take over its result: so they exist whenever it does, even if
        the process is killed."""
        sample = job.number(record)
        heirs = [heir for heir in self._plan.heirs(job) if sample < heir.samples]
        taken = [assemble.taken_over(record, heir) for heir in heirs if self._tally.is_missing(heir, sample)]
        for each in [*taken, record]:
            self._writer.append(each)
        self._tally.note([record, *taken])

    def _claimed(self, group: Group) -> Iterator[tuple[Batch, bool]]:
        """The batches that this process claims, each with whether it may claim the next one before finishing this one:
        not if few batches are left, which idle processes could start at once."""
        batches = group.batches(1 if self._plan.source.tensor_parallel else self._processes.count)
        for left, batch in zip(reversed(range(len(batches))), batches):
            if not self._is_missing(batch.samples) or not self._writer.claim(batch.name):
                continue
            self._tally.note(self._writer.news())
            if self._is_missing(batch.samples):
                yield batch, self._processes.count == 1 or left > 2 * self._processes.count
            else:  # another process may have finished it before this one claimed it
                self._writer.release(batch.name)

    def _is_missing(self, samples: Iterable[tuple[Job, int]]) -> bool:
        """Whether any of these samples is missing."""
        return any(self._tally.is_missing(job, sample) for job, sample in samples)

    def _built(self, claimed: Iterable[tuple[Batch, bool]]) -> Iterator[tuple[Batch, Future[Built]]]:
        """The batches with their examples, which a thread builds while the model works on the previous batch."""
        waiting: deque[tuple[Batch, Future[Built]]] = deque()
        for batch, ahead in claimed:
            waiting.append((batch, self._builder.submit(build, self._plan, batch)))
            while len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting

    def _measured(
        self, measure: Measure, portion: Sequence[SampleRequest]
    ) -> Iterator[tuple[SampleRequest, Result | str]]:
        """The result of each request, or why it failed. A failed batch is halved and retried; a single request that ran
        out of memory is retried with a smaller prefill chunk."""
        waiting = [portion]
        while waiting:
            left = [one for one in waiting.pop() if not self._tally.gave_up(one.job)]
            if not self._is_missing((one.job, one.sample) for one in left):
                continue
            these, *rest = measure.portions(left)  # smaller than before, if memory ran out meanwhile
            waiting += reversed(rest)
            try:
                started = time.perf_counter(), time.process_time()
                measured = measure(these)
                wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
                cores = cpu / wall if self._plan.facts.local else None
                found = [assemble.result(*each, cores) for each in zip(these, measured)]
            except NotFiniteError as error:
                reason = _reason(error)
            except UserError:
                raise
            except Exception as error:
                reason = _reason(error)
            else:
                yield from zip(these, found)
                continue
            # After the handler: only now are the traceback and the tensors of the failed call freed.
            measure.engine.release()
            less = measure.take_less_memory(these) if reason == OUT_OF_MEMORY else None
            if less:
                self._progress.note(f"out of memory: {describe(these[0].job)}; trying again with {less}.")
            if len(these) > 1:
                waiting += [these[len(these) // 2 :], these[: len(these) // 2]]
            elif less:
                waiting.append(these)
            else:
                yield these[0], reason


def _reason(error: Exception) -> str:
    if out_of_memory(error):
        return OUT_OF_MEMORY
    said = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())
