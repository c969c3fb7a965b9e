"""Progress display of a run: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn

from lcbench.results.schema import Record
from lcbench.run.pace import LONG, Pace, duration, work
from lcbench.run.plan import Job, Plan


def describe(job: Job) -> str:
    """A job in a few words: `passkey  2048  dca:mscale=0.1`, with the depth if it is fixed."""
    depth = "" if job.cell.depth is None else f"  depth {job.cell.depth:.2f}"
    return f"{job.task.name}  {job.cell.seq_len}{depth}  {job.method}"


def equal(job: Job) -> str:
    """A suffix for the description of a job whose method equals another at this length: `  = vanilla`, or empty."""
    return f"  = {job.equals}" if job.equals else ""


def _left(pace: Pace) -> str:
    seconds = pace.seconds_left
    return "" if seconds is None else f"{duration(seconds)} left"


def live_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """A bar that disappears when done: description, share, count, the field `rate`, and further columns."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        *columns,
        console=console,
        transient=True,
    )


class TerminalProgress:
    """A live bar: samples done, the current cell, prompt tokens per second, time left."""

    def __init__(self, console: Console) -> None:
        self._bar = live_bar(console, TextColumn("{task.fields[left]}"))
        self._seconds = 0.0
        self._tokens = 0

    def start(self, plan: Plan, missing: Sequence[int]) -> None:
        self._plan, self._pace, self._done = plan, Pace(plan, missing), plan.samples - sum(missing)
        self._task = self._bar.add_task("loading the model", total=plan.samples, completed=self._done, rate="", left="")
        self._bar.start()

    def prefilled(self, job: Job, tokens: int, total: int) -> None:
        self._pace.prefilled(job, tokens)
        begun = self._pace.begun / work(self._plan, job, job.cell.seq_len)
        self._bar.update(
            self._task,
            completed=min(self._done + begun, self._plan.samples),
            description=f"{describe(job)}  {tokens:,} of {total:,} tokens",
            left=_left(self._pace),
        )

    def sample(self, job: Job, record: Record, left: int) -> None:
        if record.error:
            if record.failed:
                self._bar.console.print(
                    f"failed: {describe(job)}: {record.error}", style="red", markup=False, highlight=False
                )
            failed = 1 if record.row_failed else 1 + left
            self._pace.finished(job, failed, failed=True)
            self._done += failed
            self._bar.update(self._task, completed=self._done)
            return
        self._pace.finished(job)
        self._done += 1
        cost = record.measured.cost
        self._tokens += record.prompt.prompt_tokens - cost.reused_tokens
        self._seconds += cost.prefill_seconds
        rate = f"{self._tokens / max(self._seconds, 1e-9):,.0f} tok/s"
        self._bar.update(self._task, completed=self._done, description=describe(job), rate=rate, left=_left(self._pace))

    def note(self, text: str) -> None:
        self._bar.console.print(text, style="yellow", markup=False, highlight=False)

    def finish(self) -> None:
        self._bar.stop()


class PlainProgress:
    """A line for each finished cell, with its score and time; in long runs also one line per minute with the time left.

    `clock` is for tests.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._scores: dict[str, list[float]] = defaultdict(list)
        self._seconds: dict[str, float] = defaultdict(float)
        self._since, self._told = clock(), -math.inf

    def start(self, plan: Plan, missing: Sequence[int]) -> None:
        self._plan, self._pace, self._done = plan, Pace(plan, missing, self._clock), plan.samples - sum(missing)
        again = f", {self._done} of them already recorded" if self._done else ""
        self._say(f"{plan.size}{again}")

    def prefilled(self, job: Job, tokens: int, total: int) -> None:
        self._pace.prefilled(job, tokens)
        self._tell(job, f"{tokens:,} of {total:,} tokens, ")

    def sample(self, job: Job, record: Record, left: int) -> None:
        gone = 1 + left if record.error and not record.row_failed else 1
        self._done += gone
        scores = self._scores[job.record_id(0)]
        if record.error:
            self._pace.finished(job, gone, failed=True)
            if record.failed:
                self._say(f"failed: {describe(job)}: {record.error}")
            if not record.row_failed:
                return
        else:
            self._pace.finished(job)
            scores.append(record.measured.scores.scores[record.measured.scores.metric])
        self._seconds[job.record_id(0)] += self._clock() - self._since
        self._since = self._clock()
        if not left and scores:
            mean, seconds = sum(scores) / len(scores), self._seconds[job.record_id(0)]
            self._say(
                f"{describe(job)}  {job.task.metric} {mean:.2f}  {len(scores)} samples  {seconds:.1f} s{equal(job)}"
            )
        elif not record.error:
            self._tell(job)

    def note(self, text: str) -> None:
        self._say(text)

    def finish(self) -> None:
        pass

    def _tell(self, job: Job, tokens: str = "") -> None:
        """Print progress and the time left, at most once a minute, and not for runs shorter than that."""
        seconds, now = self._pace.seconds_left, self._clock()
        if seconds is None or now - self._told < LONG or (self._told == -math.inf and seconds < LONG):
            return
        self._told = now
        self._say(
            f"{describe(job)}  sample {self._done + 1} of {self._plan.samples}, {tokens}about {duration(seconds)} left"
        )

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class SilentProgress:
    """No output: for all processes but the main one."""

    def start(self, plan: Plan, missing: Sequence[int]) -> None: ...
    def prefilled(self, job: Job, tokens: int, total: int) -> None: ...
    def sample(self, job: Job, record: Record, left: int) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...
