"""The search itself: rounds of an ordinary run in one folder, which the same command goes on with.

lcbench tune self_extend --task passkey --seq-len 2k
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lcbench.apps.tune.halving import Schedule
from lcbench.core.errors import UserError
from lcbench.engine.base import Host
from lcbench.results.compare.cells import LOWER_IS_BETTER, paired_effect
from lcbench.results.compare.result import Effect
from lcbench.results.report.runs import Run, read_runs
from lcbench.results.report.summary import TableRow, summarise_runs
from lcbench.results.schema import Record
from lcbench.run.plan import Plan
from lcbench.run.runner import run
from lcbench.run.tally import Progress

SURE = 0.05  # the chance of calling equal candidates different


@dataclass(frozen=True)
class Round:
    """The scores after a round, by candidate, on the samples that it had by then; None where its cell failed."""

    samples: int
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class Found:
    """The end of a search: its rounds, the best candidate, and rows of the best and of the method as typed over
    held-out samples, with the effect of the one against the other; None where the method as typed is the best, or
    failed."""

    typed: str
    best: str
    rounds: Sequence[Round]
    metric: str
    held_out: Mapping[str, TableRow]
    effect: Effect | None

    @property
    def lower_is_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER


@dataclass(frozen=True)
class Search:
    """`plan` has the jobs of all candidates, the method as typed first; how many samples each has, the search says."""

    plan: Plan
    folder: Path
    schedule: Schedule

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(str(job.method) for job in self.plan.jobs))

    def run(self, progress: Callable[[], Progress], tell: Callable[[str], None]) -> Found:
        """Raises: UserError if every candidate fails."""
        names, open_host = self.names, _once(self.plan.open_host)
        typed, going, reached = names[0], names, dict.fromkeys(names, 0)
        rounds: list[Round] = []
        for number, (kept, samples) in enumerate(zip(self.schedule.kept, self.schedule.samples, strict=True), start=1):
            going = going[:kept]
            asked = dict.fromkeys([typed, *going])
            reached |= dict.fromkeys(asked, samples)
            tell(
                f"round {number} of {len(self.schedule.kept)}: {len(asked)} candidates, {samples} samples per cell each"
            )
            self._answer(reached, progress(), open_host)
            done = Round(samples, self._scores(list(asked), samples))
            rounds.append(done)
            going = sorted(going, key=lambda name: self._rank(done.scores[name]))
        best = going[0]
        if rounds[-1].scores[best] is None:
            raise UserError(f"no candidate could be measured; see {self.folder}: `lcbench table {self.folder}`.")
        confirmed = dict.fromkeys((best, typed), self.schedule.all_samples)
        tell(f"held out: {self.schedule.held_out} further samples per cell for {' and '.join(confirmed)}")
        reached |= confirmed
        self._answer(reached, progress(), open_host)
        return self._found(typed, best, rounds)

    def _answer(self, reached: Mapping[str, int], progress: Progress, open_host: Callable[[], Host]) -> None:
        """Make the samples that are missing. Candidates that are out keep those that they have: the jobs are the same
        in every round, and so is the run."""
        jobs = [replace(job, samples=reached[str(job.method)] * job.task.repeats) for job in self.plan.jobs]
        run(replace(self.plan, jobs=jobs), self.folder, progress, open_host)

    def _rows(self, names: Sequence[str], wanted: Callable[[Record], bool]) -> dict[str, TableRow]:
        """A row for each of these candidates, over the samples that are wanted."""
        (read,) = read_runs([self.folder])
        kept = [one for one in read.records if one.identity.method in names and wanted(one)]
        rows = summarise_runs([Run(read.name, read.identity, kept)])
        return {row.method: row for row in rows}

    def _scores(self, names: Sequence[str], samples: int) -> dict[str, float | None]:
        rows = self._rows(names, lambda record: record.identity.sample < samples)
        return {name: None if rows[name].failed else rows[name].mean for name in names}

    def _rank(self, score: float | None) -> float:
        """Less for a better score; equal ones stay in the order of the candidates."""
        if score is None or not math.isfinite(score):
            return math.inf
        return score if self._metric in LOWER_IS_BETTER else -score

    @property
    def _metric(self) -> str:
        task = self.plan.jobs[0].task
        return "perplexity" if task.measure == "likelihood" else task.metric

    def _found(self, typed: str, best: str, rounds: Sequence[Round]) -> Found:
        first = self.schedule.samples[-1]

        def held_out(record: Record) -> bool:
            return first <= record.identity.sample < self.schedule.all_samples

        rows = self._rows([typed, best], held_out)
        effect = None
        if best != typed and typed in rows and not rows[typed].failed:
            effect = self._effect(typed, best, held_out)
        return Found(typed, best, rounds, self._metric, rows, effect)

    def _effect(self, typed: str, best: str, wanted: Callable[[Record], bool]) -> Effect | None:
        """What the best changes, over the same wanted samples."""
        (read,) = read_runs([self.folder])
        base, new = (
            {_place(one): one for one in read.records if one.identity.method == name and wanted(one)}
            for name in (typed, best)
        )
        job = self.plan.jobs[0]
        return paired_effect((job.task.name, f"{typed} {best}", job.cell.seq_len), base, new, SURE)


def _place(record: Record) -> str:
    one = record.identity
    return f"{one.cell_depth}/{one.sample}/{one.repeat}"


def _once(open_host: Callable[[], Host]) -> Callable[[], Host]:
    """The same host at every call."""
    opened: list[Host] = []

    def open_once() -> Host:
        if not opened:
            opened.append(open_host())
        return opened[0]

    return open_once
