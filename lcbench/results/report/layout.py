"""Shared by all tables: one grid of methods by lengths per task, and the formatting of scores, methods and lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lcbench.results.compare.cells import LOWER_IS_BETTER
from lcbench.results.lengths import in_tokens
from lcbench.results.report.draws import counted
from lcbench.results.report.summary import TableRow, by_task
from lcbench.results.report.text import printable

UNKNOWN = "[unknown]"  # interval
PUBLISHED = " (published)"  # after the name of a line


@dataclass(frozen=True)
class Line:
    """A row of a table: a method, model and run if these distinguish rows (else empty), and one cell per length."""

    method: str
    model: str
    run: str
    cells: dict[int, TableRow]

    @property
    def published(self) -> bool:
        """Whether its figures are published ones, not measured here."""
        return any(row.published for row in self.cells.values())

    @property
    def name(self) -> str:
        """In words: `dca on lcbench-tiny in results-1`."""
        return self.method + (f" on {self.model}" if self.model else "") + (f" in {self.run}" if self.run else "")


@dataclass(frozen=True)
class Grid:
    """One table: its title, its lengths in tokens, ascending, and its lines. The `first` table of a task also shows
    cost and failures."""

    title: str
    lengths: list[int]
    lines: list[Line]
    first: bool

    @property
    def rows(self) -> list[TableRow]:
        return [row for line in self.lines for row in line.cells.values()]

    @property
    def labels(self) -> list[str]:
        """What identifies a line besides its method: the model, the run, both or neither."""
        return [name for name in ("model", "run") if any(getattr(line, name) for line in self.lines)]

    @property
    def served(self) -> bool:
        """Whether a server ran one of its models."""
        return any(row.first_token_seconds is not None or row.retries for row in self.rows)

    @property
    def cost_columns(self) -> list[str]:
        """The headings of `costs`; none if no row has a cost."""
        known = any(row.prefill_tokens_per_second is not None or row.peak_memory_bytes is not None for row in self.rows)
        served = ["first token", "decode tok/s", "repeated"] if self.served else []
        return ["prefill tok/s", "peak memory", *served] if self.first and (known or served) else []

    @property
    def failures(self) -> list[tuple[Line, TableRow]]:
        return [(line, row) for line in self.lines for row in line.cells.values() if row.failed] if self.first else []


def grids(rows: Sequence[TableRow]) -> list[Grid]:
    """One table per task; for likelihoods one each for perplexity, bits per byte and bits per word."""
    measured = [row for row in rows if not row.published]
    models = len({row.model for row in measured}) > 1
    seen = [(row.task, row.method, row.seq_len, row.model) for row in measured]
    runs = len(set(seen)) < len(seen)
    found = []
    for task, members in by_task(rows):
        for place, view in enumerate(_views(members)):
            lines: dict[tuple[str, str, str], Line] = {}
            for row in view:
                key = (printable(row.method), printable(row.model) * models, printable(row.run) * runs)
                if row.published:
                    key = (printable(row.method) + PUBLISHED, "", "")
                lines.setdefault(key, Line(*key, {})).cells[row.seq_len] = row
            lengths = sorted({row.seq_len for row in view})
            ordered = [replace(line, cells=dict(sorted(line.cells.items()))) for line in lines.values()]
            found.append(Grid(_title(task, view), lengths, ordered, first=place == 0))
    return found


def noun(row: TableRow) -> str:
    """What a score averages over: books, questions or samples."""
    return "samples" if row.bits_per_byte is None else "books"


def heading(length: int, trained: int | None, separator: str) -> str:
    """The length in tokens, with its ratio to the trained length, such as `(1.5x)`."""
    return f"{length:,}{separator}({multiple(length, trained)})" if trained and length else in_tokens(length)


def titled(grid: Grid, trained: int | None) -> str:
    """The title of a table, with the trained length if known."""
    return f"{grid.title}, trained at {trained:,} tokens" if trained else grid.title


def multiple(length: int, trained: int) -> str:
    """`4x`, `1.5x`, `0.12x`: exact, or rounded to two digits."""
    times = length / trained
    return f"{times:.0f}x" if times >= 100 or times == round(times) else f"{times:.2g}x"


def number(value: float, metric: str) -> str:
    """A score with as many digits as are meaningful: two for shares and perplexities, three for bits."""
    if metric.startswith("bits_per_"):
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.1e}"


def interval(row: TableRow) -> str:
    """`[0.84, 1.00]`, or `[unknown]` if there are too few samples; empty for a published score."""
    if row.published:
        return ""
    if row.low is None or row.high is None:
        return UNKNOWN
    return f"[{number(row.low, row.metric)}, {number(row.high, row.metric)}]"


def costs(grid: Grid, line: Line, lengths: Sequence[int]) -> list[str]:
    """At the longest of the lengths: prefill tokens per second with their standard deviation over samples, such as
    `4,025 ± 310`, and peak memory, marked if other programs used the processor; if a server ran a model of this table,
    also the time to first token in seconds, decode tokens per second, and retries. Unknown values are empty."""
    row = line.cells.get(lengths[-1])
    if row is None or not grid.cost_columns:
        return [""] * len(grid.cost_columns)
    return [rate(row), memory(row), *(_seen_by_client(row) if grid.served else ())]


def _seen_by_client(row: TableRow) -> list[str]:
    first, decode = row.first_token_seconds, row.decode_tokens_per_second
    return [
        "" if first is None else f"{first:.2f} s",
        "" if decode is None else f"{decode:,.0f}",
        f"{row.retries}" if first is not None or row.retries else "",
    ]


def rate(row: TableRow) -> str:
    if row.prefill_tokens_per_second is None:
        return ""
    sd = row.prefill_tokens_per_second_sd
    return f"{row.prefill_tokens_per_second:,.0f}{'' if sd is None else f' ± {sd:,.0f}'}"


def memory(row: TableRow) -> str:
    known = "" if row.peak_memory_bytes is None else human_bytes(row.peak_memory_bytes)
    return f"{known} (busy)".lstrip() if row.busy else known


def equal(row: TableRow) -> str:
    """`= vanilla` if the method changes nothing at this length, else empty."""
    return f"= {row.equals}" if row.equals else ""


def columns(grid: Grid, trained: int | None) -> list[str]:
    """The column headings of a table that is not split by width, as on a page."""
    cost = [f"{what} at {grid.lengths[-1]:,}" for what in grid.cost_columns]
    return ["method", *grid.labels, *(heading(length, trained, " ") for length in grid.lengths), *cost]


def human_bytes(count: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _views(rows: Sequence[TableRow]) -> Iterable[list[TableRow]]:
    """The rows themselves, and again with LongPPL, bits per byte and bits per word as their score, if they have
    these."""
    yield list(rows)
    for metric in ("longppl", "bits_per_byte", "bits_per_word"):
        shown = view(rows, metric)
        if any(row.mean is not None for row in shown):
            yield shown


def view(rows: Iterable[TableRow], metric: str) -> list[TableRow]:
    """The rows with another of their numbers as the score; without rows that cannot have it."""
    return [
        replace(
            row,
            metric=metric,
            mean=getattr(row, metric),
            low=getattr(row, f"{metric}_low"),
            high=getattr(row, f"{metric}_high"),
            best=row.best and metric != "longppl",  # its tokens are not those that were compared
        )
        for row in rows
        if not row.published and (metric != "longppl" or row.longppl is not None)
    ]


def _asked(rows: Sequence[TableRow]) -> list[str]:
    """In words, whether prompts are in the chat template; if rows differ, which ones are."""
    if not any(row.chat for row in rows):
        return []
    if all(row.chat for row in rows if row.samples):
        return ["in the chat template"]
    models, runs = ({getattr(row, name) for row in rows if row.chat} for name in ("model", "run"))
    plain = {row.model for row in rows if not row.chat}
    return [f"in the chat template: {', '.join(sorted(runs if models & plain else models))}"]


def _title(task: str, rows: Sequence[TableRow]) -> str:
    metrics = dict.fromkeys(row.metric for row in rows if row.samples)
    what = ", ".join(metric.replace("_", " ") for metric in metrics)
    likelihood = any(noun(row) == "books" for row in rows)
    counts = [(row.samples, row.questions) for row in rows]
    protocols = dict.fromkeys(row.protocol for row in rows if row.protocol and f"protocol={row.protocol}" not in task)
    direction = " (lower is better)" if metrics.keys() & LOWER_IS_BETTER else ""
    words = [
        f"{task}: {what}{direction}",
        counted(counts, "book" if likelihood else "sample", "per score"),
        f"95 % intervals{' over books' if likelihood else ''}",
    ]
    words += _asked(rows)
    if protocols:
        words.append(f"protocol {'; '.join(protocols)}")
    return printable(", ".join(words))
