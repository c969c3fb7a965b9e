"""Tables for a terminal, for a page (Markdown) and for another program (CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.options import split_options
from lcbench.report.summary import Row, by_task

FORMATS = ("text", "markdown", "csv")
METHOD_WIDTH = 18


def print_tables(console: Console, rows: Sequence[Row], trained: int | None) -> None:
    """One table a task: a row a method, a column a length, the 95 % interval under each score.

    Lengths that do not fit beside one another go on in a further table.
    """
    for task, members in by_task(rows):
        console.print(Text(_title(task, members), style="italic"))
        lengths = sorted({row.seq_len for row in members})
        while lengths:
            fitting = (n for n in range(len(lengths), 1, -1) if _fits(console, _table(members, lengths[:n], trained)))
            count = next(fitting, 1)
            console.print(_table(members, lengths[:count], trained))
            lengths = lengths[count:]
        for row in members:
            if row.failed:
                console.print(
                    f"failed: {row.method} at {row.seq_len:,}: {row.failed}", style="red", markup=False, highlight=False
                )


def markdown(rows: Sequence[Row], trained: int | None) -> str:
    """The same tables in Markdown, the interval behind each score."""
    parts = []
    for task, members in by_task(rows):
        lengths = sorted({row.seq_len for row in members})
        cost = [f"{what} at {lengths[-1]:,}" for what in ("prefill tok/s", "peak memory")]
        head = ["method", *(_heading(length, trained, " ") for length in lengths), *cost]
        lines = ["| " + " | ".join(head) + " |", "|" + " --- |" + " ---: |" * (len(head) - 1)]
        for method, cells in _by_method(members).items():
            longest = cells.get(lengths[-1])
            scores = [_score(cells.get(length)) for length in lengths]
            costs = [_rate(longest), _memory(longest)] if longest else ["", ""]
            lines.append("| " + " | ".join([f"`{method}`", *scores, *costs]) + " |")
        lines += [""] * any(row.failed for row in members)
        lines += [f"- failed: `{row.method}` at {row.seq_len:,}: {row.failed}" for row in members if row.failed]
        parts.append(f"**{_title(task, members)}**\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def as_csv(rows: Sequence[Row]) -> str:
    """A line a row, numbers unrounded; what is not known is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def _table(rows: Sequence[Row], lengths: Sequence[int], trained: int | None) -> Table:
    """The scores at some lengths, and what the longest of them cost."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", overflow="fold")
    for length in lengths:
        table.add_column(Text(_heading(length, trained, "\n")), justify="right", no_wrap=True)
    table.add_column(Text(f"cost at\n{lengths[-1]:,}"), justify="right", no_wrap=True)
    for method, cells in _by_method(rows).items():
        longest = cells.get(lengths[-1])
        cost = f"{_rate(longest)} tok/s\n{_memory(longest)}" if longest and longest.samples else ""
        table.add_row(_method_text(method), *(_score_text(cells.get(length)) for length in lengths), Text(cost))
    return table


def _fits(console: Console, table: Table) -> bool:
    """Whether a table can be shown whole, long options folded at METHOD_WIDTH at worst."""
    table.columns[0].max_width = METHOD_WIDTH
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width


def _by_method(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    methods: dict[str, dict[int, Row]] = {}
    for row in rows:
        methods.setdefault(row.method, {})[row.seq_len] = row
    return methods


def _title(task: str, rows: Sequence[Row]) -> str:
    metric = next((row.metric for row in rows if row.metric), "")
    counts = sorted({row.samples for row in rows if row.samples})
    samples = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "no"
    return f"{task}: {metric.replace('_', ' ')}, {samples} samples a score, 95 % intervals"


def _heading(length: int, trained: int | None, separator: str) -> str:
    """The length, and how many times the trained length it is where that is a round number."""
    if not trained or length % trained:
        return f"{length:,}"
    return f"{length:,}{separator}({length // trained}x)"


def _method_text(method: str) -> Text:
    """The name, and each option on a line of its own: a row is two lines high anyway."""
    name, colon, options = method.partition(":")
    return Text.assemble(name, ("\n" + "\n".join(split_options(options)) if colon else "", "dim"))


def _score(row: Row | None) -> str:
    if row is None:
        return ""
    if row.mean is None:
        return "failed"
    return f"{row.mean:.2f} [{row.low:.2f}, {row.high:.2f}]"


def _score_text(row: Row | None) -> Text:
    if row is None or row.mean is None:
        return Text(_score(row), style="red")
    return Text.assemble((f"{row.mean:.2f}", "bold"), "\n", (f"{_short(row.low)}-{_short(row.high)}", "dim"))


def _short(share: float | None) -> str:
    """A share without its leading zero: `.84`, `1.00`."""
    return f"{share:.2f}".removeprefix("0")


def _rate(row: Row) -> str:
    return "" if row.prefill_tokens_per_second is None else f"{row.prefill_tokens_per_second:,.0f}"


def _memory(row: Row) -> str:
    return "" if row.peak_memory_bytes is None else human_bytes(row.peak_memory_bytes)


def human_bytes(count: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
