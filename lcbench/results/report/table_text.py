"""Tables in a terminal, of any width."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.results.report.layout import Grid, costs, equal, grids, heading, notes, number, titled
from lcbench.results.report.summary import TableRow
from lcbench.results.report.terminal import fits, method_label
from lcbench.results.report.text import printable

STAR = "*"  # before a score that would be bold, where the output has no styles


def print_tables(console: Console, rows: Sequence[TableRow], trained: int | None) -> None:
    """One table per task: a row per method, a column per length in tokens, the 95 % interval under each score.

    Lengths that do not fit the width go into a further table. Where the output has no styles, as in a pipe, a star
    replaces bold.
    """
    star = "" if console.color_system else STAR
    for grid in grids(rows):
        console.print(Text(titled(grid, trained), style="italic"))
        lengths = grid.lengths
        while lengths:
            fitting = (n for n in range(len(lengths), 1, -1) if fits(console, _table(grid, lengths[:n], trained, star)))
            count = next(fitting, 1)
            console.print(_table(grid, lengths[:count], trained, star))
            lengths = lengths[count:]
        for line, row in grid.failures:
            console.print(Text(f"failed: {line.name} at {row.seq_len:,}: {printable(row.failed or '')}", style="red"))
    for note in notes(rows, star or "bold"):
        console.print(Text(note, style="dim"))


def _table(grid: Grid, lengths: Sequence[int], trained: int | None, star: str) -> Table:
    """The scores at some lengths, and the cost at the longest of them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", overflow="fold")
    for length in lengths:
        table.add_column(Text(heading(length, trained, "\n")), justify="right", no_wrap=True)
    if grid.first:
        table.add_column(Text(f"tok/s at\n{lengths[-1]:,}"), justify="right", no_wrap=True)
    for line in grid.lines:
        if not line.cells.keys() & set(lengths):
            continue
        units = zip(costs(grid, line, lengths), ("{}", "{}", "{} to 1st", "{} tok/s out", "{} repeated"))
        cost = [Text("\n".join(unit.format(text) for text, unit in units if text))] if grid.first else []
        apart = [f"{word} {text}" for word, text in (("on", line.model), ("in", line.run)) if text]
        scores = (_score(line.cells.get(length), star) for length in lengths)
        table.add_row(method_label(line.method, *apart), *scores, *cost)
    return table


def _score(row: TableRow | None, star: str) -> Text:
    if row is None:
        return Text("")
    if row.mean is None:
        return Text("failed", style="red") if row.failed else Text("left out", style="dim")
    known = row.low is not None and row.high is not None
    between = f"{_end(row.low, row.metric)}-{_end(row.high, row.metric)}" if known else "unknown"
    mean, same = number(row.mean, row.metric), f"\n{equal(row)}" if row.equals else ""
    return Text.assemble((f"{star}{mean}", "bold") if row.best else mean, "\n", (f"{between}{same}", "dim"))


def _end(value: float | None, metric: str) -> str:
    """An end of an interval without a leading zero: `.84`, `1.00`."""
    return "" if value is None else number(value, metric).removeprefix("0")
