"""Tables in every format: for a terminal, a page (Markdown), a paper (LaTeX), and other programs (CSV, JSON)."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields

from lcbench.core.errors import printable
from lcbench.results.report.headline import Headlines
from lcbench.results.report.headline_table import as_rows
from lcbench.results.report.layout import human_bytes
from lcbench.results.report.summary import TableRow, by_task
from lcbench.results.report.table_page import latex, markdown
from lcbench.results.report.table_text import print_tables

__all__ = ["FORMATS", "WRITERS", "as_csv", "as_json", "human_bytes", "latex", "markdown", "print_tables"]


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(rows: Sequence[TableRow], trained: int | None = None, headlines: Sequence[Headlines] = ()) -> str:
    """One line per row, numbers unrounded; unknown values are empty, lists are joined with spaces. Headlines are rows
    whose task is `headline: ...`. Texts that a spreadsheet would take for a formula are prefixed with an apostrophe;
    control characters are escaped."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(TableRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in asdict(row).items()} for row in _all(rows, headlines))
    return text.getvalue()


def _all(rows: Sequence[TableRow], headlines: Sequence[Headlines]) -> list[TableRow]:
    return [*_ascending(rows), *as_rows(headlines)]


def _ascending(rows: Sequence[TableRow]) -> list[TableRow]:
    """The rows of each task by ascending length, methods in their given order."""
    return [row for _, members in by_task(rows) for row in sorted(members, key=lambda row: row.seq_len)]


def _no_formula(value: object) -> object:
    """https://owasp.org/www-community/attacks/CSV_Injection"""
    if isinstance(value, tuple):
        value = " ".join(value)
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(FORMULA) else "") + printable(value)


def as_json(rows: Sequence[TableRow], trained: int | None = None, headlines: Sequence[Headlines] = ()) -> str:
    """A list with one object per row, headlines as in `as_csv`, numbers unrounded; unknown and non-finite values are
    null."""
    known = [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in map(asdict, _all(rows, headlines))
    ]
    return json.dumps(known, indent=2) + "\n"  # ASCII: all other characters are escaped


WRITERS: dict[str, Callable[[Sequence[TableRow], int | None, Sequence[Headlines]], str]] = {
    "markdown": markdown,
    "csv": as_csv,
    "latex": latex,
    "json": as_json,
}
FORMATS = ("text", *WRITERS)
