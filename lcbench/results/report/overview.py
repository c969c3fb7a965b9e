"""All content of a table of some runs: rows, headlines, and published figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lcbench.core.errors import UserError
from lcbench.results.report.groups import is_group
from lcbench.results.report.headline import RULER, Headlines, headlines
from lcbench.results.report.longppl import longppl_of, with_longppl
from lcbench.results.report.published import beside, figures_of, with_published
from lcbench.results.report.runs import Run, differences, trained_length
from lcbench.results.report.summary import TableRow, summarise_records
from lcbench.results.schema import Record


@dataclass(frozen=True)
class Overview:
    """`rows` are the measured rows, `published` the same with published figures after each task's; `trained` is the
    trained length of all models, None if unknown or different; `remarks` are sentences to show beside the tables.
    `records` are those of each row, by its `place`.
    """

    rows: list[TableRow]
    published: list[TableRow]
    trained: int | None
    headlines: list[Headlines]
    remarks: list[str]
    records: dict[tuple[object, ...], list[Record]]


def require_threshold(threshold: float) -> None:
    """Raises: UserError for a threshold of the effective length that is not between 0 and 1."""
    if not 0 < threshold <= 1:
        raise UserError(f"--effective must be a share of the full score, such as 0.856, not {threshold:g}.")


def overview(runs: Sequence[Run], threshold: float = RULER, *, grouped: bool = False) -> Overview:
    """The overview of some runs. `threshold` is that of the effective length, a share of the full score; `grouped`: see
    `summarise_runs`.

    Raises: UserError for an invalid threshold, or an official score whose parts are missing in the records.
    """
    require_threshold(threshold)
    members = summarise_records(runs, grouped=grouped)
    longppl, unread = longppl_of(runs)
    rows = with_longppl((row for row, _ in members), longppl)
    records = {row.place: each for row, each in members}
    figures, notes = figures_of(runs)
    found = beside(headlines([each for each in members if not is_group(each[0].task)], threshold), figures)
    remarks = [*differences(runs), *notes, *unread]
    return Overview(rows, with_published(rows, figures), trained_length(runs), found, remarks, records)
