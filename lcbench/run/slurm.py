"""A run as an array of SLURM jobs, by submitit: each job claims batches of the run, and this process shows the
progress.

Needs the extra `lcbench[slurm]`. Jobs may start late, die or be preempted: the others take over their work.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcbench.attention.options import AttentionOptions
from lcbench.core.errors import UserError
from lcbench.core.processes import Processes
from lcbench.core.specs import split_options
from lcbench.engine.models import ModelSource
from lcbench.results.records import JOB_LOGS, RecordTail, require_ours
from lcbench.run.plan import Plan, make_plan
from lcbench.run.progress import SilentProgress
from lcbench.run.requests import Request
from lcbench.run.runner import Outcome, run
from lcbench.run.tally import Progress, Tally

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

POLL_SECONDS = 2.0
# Parameters that submitit has on every cluster; all others are passed to sbatch.
SUBMITIT = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")


@dataclass(frozen=True)
class Array:
    """Number of jobs, and the resources requested for each, named as in submitit (`gpus_per_node`, `timeout_min`,
    `mem_gb`, ...) or in sbatch (`partition`, `account`, ...). The cluster `local` runs them on this machine."""

    jobs: int
    parameters: dict[str, Any]
    cluster: str = "slurm"


def parse_array(text: str) -> Array:
    """`8,partition=gpu,gpus_per_node=1,timeout_min=600`. Raises: UserError."""
    count, *options = split_options(text)
    if not count.isdecimal() or int(count) < 1:
        raise UserError(f"--slurm {text!r} must begin with the number of jobs, as in `8,partition=gpu`.")
    parameters: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals and value):
            raise UserError(f"--slurm: {option!r} must be name=value, as in `8,partition=gpu,timeout_min=600`.")
        parameters[name] = int(value) if value.isdecimal() else value
    cluster = str(parameters.pop("cluster", "slurm"))
    if cluster not in ("slurm", "local"):
        raise UserError(f"--slurm: cluster must be slurm or local, not {cluster!r}.")
    return Array(int(count), parameters, cluster)


def run_array(plan: Plan, requests: Sequence[Request], folder: Path, progress: Progress, array: Array) -> Outcome:
    """Submit the jobs and wait for them; Ctrl-C cancels them.

    Raises: UserError if jobs cannot be submitted, or ended before everything was done.
    """
    executor = _executor(folder, array)
    tail = RecordTail(folder)
    done = {record.identity.id for record in tail.news() if record.error is None}
    tally = Tally(plan, done, progress)
    if tally.complete:
        progress.finish()
        return Outcome(folder, [])
    inputs = plan.source, list(requests), plan.seed, plan.attention, plan.references, folder.resolve(), sys.argv
    jobs: list[Job[None]] = []
    try:
        with executor.batch():
            for rank in range(1, array.jobs + 1):  # 0 is this process
                jobs.append(executor.submit(_work, *inputs, Processes(rank, array.jobs + 1)))
        progress.note(f"submitted {array.jobs} jobs; their logs are in {folder / JOB_LOGS}")
        ended = False
        while not ended:
            ended = all(job.done() for job in jobs)  # before the records are read: jobs may write until they end
            if not ended:
                time.sleep(POLL_SECONDS)
            news = tail.news()
            done |= {record.identity.id for record in news if record.error is None}
            tally.note(news)
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel()
        raise
    finally:
        progress.finish()
    if not tally.complete:
        raise UserError(
            f"the jobs ended before all samples were done ({_reason(jobs)}); the same command resumes. Their logs "
            f"are in {folder / JOB_LOGS}."
        )
    return Outcome(folder, tally.failures)


def _executor(folder: Path, array: Array) -> AutoExecutor:
    try:
        import submitit
    except ImportError as error:
        raise UserError("--slurm needs submitit: pip install 'lcbench[slurm]'.") from error
    if array.cluster == "slurm" and not shutil.which("sbatch"):
        raise UserError("sbatch was not found: --slurm needs a machine that can submit SLURM jobs.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_ours(folder)
        executor = submitit.AutoExecutor(folder / JOB_LOGS, cluster=array.cluster)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; pass another --output.") from error
    parameters = {name if name in SUBMITIT else f"slurm_{name}": value for name, value in array.parameters.items()}
    try:
        executor.update_parameters(name="lcbench", **parameters)
    except (NameError, ValueError, AssertionError) as error:
        raise UserError(f"--slurm: {str(error).splitlines()[0].rstrip('.')}.") from error
    return executor


def _work(
    source: ModelSource,
    requests: list[Request],
    seed: int,
    attention: AttentionOptions,
    references: tuple[str, ...],
    folder: Path,
    command: list[str],
    processes: Processes,
) -> None:
    """One job of the array."""
    sys.argv = command  # for the session in run.json
    run(make_plan(source, requests, seed, attention, references), folder, SilentProgress(), processes=processes)


def _reason(jobs: Sequence[Job[None]]) -> str:
    """Why the first failed job ended: its error, or the state that SLURM reports."""
    for job in jobs:
        error = job.exception()
        if error is not None:
            raised = re.findall(r"^[\w.]*\w+: .+$", str(error), re.MULTILINE)
            return f"job {job.job_id}: {(raised or str(error).splitlines() or ['it died'])[-1].strip()}"
    return "none of them failed"
