"""Tables in a terminal, of any width."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.results.lengths import in_tokens
from lcbench.results.report import headline_table
from lcbench.results.report.headline import Headline, Headlines
from lcbench.results.report.layout import Grid, costs, equal, grids, heading, number, titled
from lcbench.results.report.notes import notes
from lcbench.results.report.summary import TableRow
from lcbench.results.report.terminal import fits, method_label
from lcbench.results.report.text import printable

STAR = "*"  # before a score that would be bold, if the output has no styles


def print_tables(
    console: Console, rows: Sequence[TableRow], trained: int | None, headlines: Sequence[Headlines] = ()
) -> None:
    """One table per task: a row per method, a column per length in tokens, the 95 % interval under each score; then one
    for each of the headlines.

    Columns that do not fit the width go into a further table. If the output has no styles, as in a pipe, a star
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
            console.print(
                Text(f"failed: {line.name} at {in_tokens(row.seq_len)}: {printable(row.failed or '')}", style="red")
            )
    for one in headlines:
        _print_headlines(console, one)
    for note in dict.fromkeys([*notes(rows, star or "bold"), *headline_table.notes(headlines)]):
        console.print(Text(note, style="dim"))


def _print_headlines(console: Console, one: Headlines) -> None:
    console.print(Text(headline_table.title(one), style="italic"))
    places = list(range(len(headline_table.columns(one))))
    while places:
        fitting = (n for n in range(len(places), 1, -1) if fits(console, _headline_table(one, places[:n])))
        count = next(fitting, 1)
        console.print(_headline_table(one, places[:count]))
        places = places[count:]


def _headline_table(one: Headlines, places: Sequence[int]) -> Table:
    """Some columns; the interval stands under each number."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", overflow="fold")
    headings = headline_table.columns(one)
    for place in places:
        table.add_column(Text(headings[place].replace(" ", "\n")), justify="right", no_wrap=True)
    for line in one.lines:
        cells = headline_table.cells(one, line)
        if any(cells[place].value for place in places):
            table.add_row(_headline_label(line), *(_headline_cell(cells[place]) for place in places))
    return table


def _headline_label(line: Headline) -> Text:
    if line.published:
        return Text.assemble(line.method, (" published", "dim"))
    return method_label(
        line.method, *(f"{word} {text}" for word, text in (("on", line.model), ("in", line.run)) if text)
    )


def _headline_cell(cell: headline_table.Shown) -> Text:
    if not cell.low:
        return Text(cell.value)
    return Text.assemble(cell.value, "\n", (f"{cell.low.removeprefix('0')}-{cell.high.removeprefix('0')}", "dim"))


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
    if row.published:
        return Text(number(row.mean, row.metric))
    known = row.low is not None and row.high is not None
    between = f"{_end(row.low, row.metric)}-{_end(row.high, row.metric)}" if known else "unknown"
    mean, same = number(row.mean, row.metric), f"\n{equal(row)}" if row.equals else ""
    return Text.assemble((f"{star}{mean}", "bold") if row.best else mean, "\n", (f"{between}{same}", "dim"))


def _end(value: float | None, metric: str) -> str:
    """An end of an interval without a leading zero: `.84`, `1.00`."""
    return "" if value is None else number(value, metric).removeprefix("0")
