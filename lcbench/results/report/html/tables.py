"""Tables of scores and of cost: one row per method, one column per length. Each score links to its samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from lcbench.core.specs import split_options
from lcbench.results.lengths import in_tokens
from lcbench.results.report.html.frame import text
from lcbench.results.report.layout import PUBLISHED, Grid, Line, equal, grids, memory, multiple, number, rate, titled
from lcbench.results.report.panels import ALL, is_base
from lcbench.results.report.summary import TableRow, by_task


class Colors:
    """The CSS classes of methods, whose colours are the same everywhere on the page. A method with several lines in a
    task has a colour for each run.

    There are eight colours; from the ninth method on they repeat with dashed lines, then with dotted ones. If there are
    more methods than fit one figure, vanilla, which is in every figure, has the first colour to itself.
    """

    def __init__(self, rows: Iterable[TableRow]) -> None:
        tasks = [grids(members)[0].lines for _, members in by_task(rows)]
        methods = (Counter(line.method for line in lines) for lines in tasks)
        self._several = {method for counts in methods for method, count in counts.items() if count > 1}
        keys = dict.fromkeys(self._key(line) for lines in tasks for line in lines)
        if len(keys) <= ALL:
            self._classes = {key: f"c{place % 8} d{place // 8 % 3}" for place, key in enumerate(keys)}
            return
        bases, others = ([key for key in keys if is_base(key[0]) is kind] for kind in (True, False))
        self._classes = {key: f"c0 d{place % 3}" for place, key in enumerate(bases)}
        self._classes |= {key: f"c{1 + place % 7} d{place // 7 % 3}" for place, key in enumerate(others)}

    def of(self, line: Line) -> str:
        """Raises: KeyError for a line of other rows."""
        return self._classes[self._key(line)]

    def _key(self, line: Line) -> tuple[str, str]:
        run = next(iter(line.cells.values())).run
        return line.method, run if line.method in self._several else ""


def score_table(grid: Grid, trained: int | None, colors: Colors) -> str:
    """Means with their intervals below them, bold where `best`."""

    def show(row: TableRow) -> str:
        failed = '<small class="bad">failed</small>' if row.failed else ""
        if row.mean is None:
            return failed or "<small>left out</small>"
        score = number(row.mean, row.metric)
        if row.published:
            return score
        link = samples_link(f"<b>{score}</b>" if row.best else score, row)
        known = row.low is not None and row.high is not None
        ends = " to ".join(number(end, row.metric) for end in (row.low, row.high) if end is not None)
        same = f"<small>{text(equal(row))}</small>" if row.equals else ""
        return f"{link}<small>{ends if known else 'interval unknown'}</small>{same}{failed}"

    models = dict.fromkeys(row.model for row in grid.rows if not row.published)
    return _table(f"{titled(grid, trained)}, on {', '.join(models)}", grid, trained, colors, show)


def cost_table(grid: Grid, trained: int | None, colors: Colors) -> str:
    """Prefill tokens per second with their spread over the samples, and the largest peak memory of a sample."""

    def show(row: TableRow) -> str:
        small = filter(None, (memory(row), equal(row) if row.taken else ""))
        return (f"{rate(row)} tok/s" if rate(row) else "") + "".join(f"<small>{text(each)}</small>" for each in small)

    return _table(
        "prefill tokens per second ± their standard deviation over samples, and peak memory",
        grid,
        trained,
        colors,
        show,
    )


def failures(grid: Grid) -> str:
    """HTML: a line with the reason for every failed cell; empty without any."""
    lines = [f"{line.name} at {in_tokens(row.seq_len)}: {row.failed}" for line, row in grid.failures]
    return f'<ul class="bad">{"".join(f"<li>failed: {text(line)}</li>" for line in lines)}</ul>' if lines else ""


def line_name(line: Line, colors: Colors) -> str:
    """HTML: colour and method, and in small print its options, and model and run if these distinguish lines."""
    if line.published:
        return f"{text(line.method.removesuffix(PUBLISHED))}<small>published</small>"
    name, colon, options = line.method.partition(":")
    small = [*(split_options(options) if colon else []), *filter(None, (line.model, line.run))]
    below = "".join(f"<small>{text(each)}</small>" for each in small)
    return f'<span class="swatch {colors.of(line)}"></span>{text(name)}{below}'


def samples_link(shown: str, row: TableRow, depth: float | None = None) -> str:
    """A link to the samples behind a number, by which the page's script filters; `shown` is HTML."""
    at = "" if depth is None else f' data-depth="{depth:.12g}"'
    return (
        f'<a href="#samples" data-run="{text(row.run)}" data-task="{text(row.task)}" data-method="{text(row.method)}" '
        f'data-tokens="{row.seq_len}"{at}>{shown}</a>'
    )


def _table(caption: str, grid: Grid, trained: int | None, colors: Colors, show: Callable[[TableRow], str]) -> str:
    head = "".join(f'<th scope="col">{_heading(length, trained)}</th>' for length in grid.lengths)
    body = "".join(
        f'<tr><th scope="row">{line_name(line, colors)}</th>'
        + "".join(f"<td>{show(line.cells[length]) if length in line.cells else ''}</td>" for length in grid.lengths)
        + "</tr>\n"
        for line in grid.lines
    )
    return (
        f'<p class="caption">{text(caption)}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table class="grid">'
        f'<thead><tr><th scope="col">method</th>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'
    )


def _heading(length: int, trained: int | None) -> str:
    """The length in tokens, and below it its ratio to the trained length."""
    return f"{length:,}<small>{multiple(length, trained)}</small>" if trained else f"{length:,}"
