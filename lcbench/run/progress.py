"""The progress of a run: a bar on a terminal, one plain line per cell in a pipe."""

from __future__ import annotations

import time
from collections import defaultdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from lcbench.results.schema import Record
from lcbench.run.plan import Job, Plan


def describe(job: Job) -> str:
    """A job in a few words: `passkey  2048  dca:mscale=0.1`, the depth too where it is fixed."""
    depth = "" if job.cell.depth is None else f"  depth {job.cell.depth:.2f}"
    return f"{job.task.name}  {job.cell.seq_len}{depth}  {job.method}"


class TerminalProgress:
    """A live bar: samples done, the current cell, prompt tokens per second, time left."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._seconds = 0.0
        self._tokens = 0

    def start(self, plan: Plan, done: int) -> None:
        self._task = self._bar.add_task("loading the model", total=plan.samples, completed=done, rate="")
        self._bar.start()

    def sample(self, job: Job, record: Record, left: int) -> None:
        if record.error:
            self._bar.console.print(
                f"failed: {describe(job)}: {record.error}", style="red", markup=False, highlight=False
            )
            self._bar.advance(self._task, 1 if record.row_failed else 1 + left)
            return
        cost = record.measured.cost
        self._tokens += record.prompt.prompt_tokens - cost.reused_tokens
        self._seconds += cost.prefill_seconds
        rate = f"{self._tokens / max(self._seconds, 1e-9):,.0f} tok/s"
        self._bar.update(self._task, advance=1, description=describe(job), rate=rate)

    def note(self, text: str) -> None:
        self._bar.console.print(text, style="yellow", markup=False, highlight=False)

    def finish(self) -> None:
        self._bar.stop()


class PlainProgress:
    """A line when a cell is done: its score and how long it took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._scores: dict[str, list[float]] = defaultdict(list)
        self._seconds: dict[str, float] = defaultdict(float)
        self._since = time.monotonic()

    def start(self, plan: Plan, done: int) -> None:
        again = f", {done} of them recorded already" if done else ""
        self._say(f"{plan.size}{again}")

    def sample(self, job: Job, record: Record, left: int) -> None:
        scores = self._scores[job.record_id(0)]
        if record.error:
            self._say(f"failed: {describe(job)}: {record.error}")
            if not record.row_failed:
                return
        else:
            scores.append(record.measured.scores.scores[record.measured.scores.metric])
        self._seconds[job.record_id(0)] += time.monotonic() - self._since
        self._since = time.monotonic()
        if not left and scores:
            mean, seconds = sum(scores) / len(scores), self._seconds[job.record_id(0)]
            self._say(f"{describe(job)}  {job.task.metric} {mean:.2f}  {len(scores)} samples  {seconds:.1f} s")

    def note(self, text: str) -> None:
        self._say(text)

    def finish(self) -> None:
        pass

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class SilentProgress:
    """No output: for all processes but the main one."""

    def start(self, plan: Plan, done: int) -> None: ...
    def sample(self, job: Job, record: Record, left: int) -> None: ...
    def note(self, text: str) -> None: ...
    def finish(self) -> None: ...
