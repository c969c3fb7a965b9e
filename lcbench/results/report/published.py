"""Published figures beside one's own: further rows of a table, never compared with measured ones and never bold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from statistics import fmean

from lcbench.core.errors import UserError
from lcbench.results.references import Figures, read_references
from lcbench.results.report.headline import Estimate, Headline, Headlines, Reach, area, longest
from lcbench.results.report.runs import Run
from lcbench.results.report.summary import TableRow, by_task
from lcbench.results.report.text import printable


def figures_of(runs: Iterable[Run]) -> tuple[list[Figures], list[str]]:
    """The figures that the runs name, and remarks on files that cannot be read."""
    found: list[Figures] = []
    notes = []
    for name in dict.fromkeys(name for run in runs for name in run.references):
        try:
            found += read_references(name)
        except UserError as error:
            notes.append(f"published figures are left out: {error}")
    return found, notes


def with_published(rows: Sequence[TableRow], figures: Iterable[Figures]) -> list[TableRow]:
    """The rows, those of each task followed by the figures of that task at its lengths."""
    known = list(figures)
    merged = []
    for task, members in by_task(rows):
        lengths = sorted({row.seq_len for row in members})
        metrics = {row.metric for row in members}
        merged += members
        merged += [
            TableRow(task, name, length, "", "", "", one.metric, mean=scores[length], published=one.source)
            for one in known
            if one.metric in metrics and one.matches(task)
            for name, scores in one.rows.items()
            for length in lengths
            if length in scores
        ]
    return merged


def beside(headlines: Iterable[Headlines], figures: Iterable[Figures]) -> list[Headlines]:
    """The headlines, those of a benchmark followed by its published means over as many tasks."""
    known = list(figures)
    return [
        replace(one, lines=(*one.lines, *(line for each in known if _same(each, one) for line in _lines(each, one))))
        for one in headlines
    ]


def _same(figures: Figures, headlines: Headlines) -> bool:
    return figures.mean_of == len(headlines.tasks) and figures.task == headlines.of


def _lines(figures: Figures, headlines: Headlines) -> list[Headline]:
    """A line for each model with a figure at one of our lengths; mean and area if it has all of them."""
    lines = []
    for name, scores in figures.rows.items():
        common = {length: scores[length] for length in headlines.lengths if length in scores}
        whole = len(common) == len(headlines.lengths)
        if common:
            known = list(takewhile(common.__contains__, headlines.lengths))
            reached = longest(known, [scores[length] for length in known], headlines.threshold)
            lines.append(
                Headline(
                    printable(name),
                    by_length={length: Estimate(score) for length, score in common.items()},
                    mean=Estimate(fmean(common.values())) if whole else None,
                    effective=Reach(reached, known=known[-1]) if known else None,
                    area=Estimate(area(common)) if whole and len(common) > 1 else None,
                    published=figures.source,
                )
            )
    return lines
