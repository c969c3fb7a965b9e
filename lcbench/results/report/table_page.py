"""Tables for a page (Markdown) and for a paper (LaTeX)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lcbench.results.report.layout import Grid, columns, costs, equal, grids, interval, notes, number, titled
from lcbench.results.report.summary import TableRow
from lcbench.results.report.text import escaped, printable, row

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {char: f"\\{char}" for char in "&%$#_{}"}


def markdown(rows: Sequence[TableRow], trained: int | None) -> str:
    """One table per task, with the 95 % interval after each score.

    `trained` is the trained length of the models in tokens, None if it is unknown or not the same for all.
    """

    def score(cell: TableRow) -> str:
        value = number(cell.mean or 0.0, cell.metric)
        value = f"**{value}**" if cell.best else value
        return " ".join(filter(None, (value, interval(cell), equal(cell))))

    parts = []
    for grid in grids(rows):
        head = columns(grid, trained)
        names = len(head) - len(grid.lengths) - len(grid.cost_columns)
        lines = [row(head), "|" + " --- |" * names + " ---: |" * (len(head) - names)]
        lines += [row(cells) for cells in _body(grid, lambda text: f"`{text}`".replace("|", "\\|"), escaped, score)]
        if grid.failures:
            lines.append("")
        lines += [
            f"- failed: `{line.name}` at {cell.seq_len:,}: {escaped(printable(cell.failed or ''))}"
            for line, cell in grid.failures
        ]
        parts.append(f"**{escaped(titled(grid, trained))}**\n\n" + "\n".join(lines) + "\n")
    parts += [f"{escaped(note)}\n" for note in notes(rows)]
    return "\n".join(parts)


def latex(rows: Sequence[TableRow], trained: int | None) -> str:
    """A `table` environment a task, for a document that uses the package booktabs."""

    def score(cell: TableRow) -> str:
        value = number(cell.mean or 0.0, cell.metric)
        value = rf"\textbf{{{value}}}" if cell.best else value
        return rf"{value} {{\scriptsize {' '.join(filter(None, (interval(cell), equal(cell))))}}}"

    parts = ["% \\usepackage{booktabs}"]
    for grid in grids(rows):
        head = columns(grid, trained)
        names = len(head) - len(grid.lengths) - len(grid.cost_columns)
        failures = [
            f"Failed: {line.name} at {cell.seq_len:,}: {printable(cell.failed or '')}." for line, cell in grid.failures
        ]
        caption = " ".join([f"{titled(grid, trained)}.", *map(_sentence, notes(grid.rows)), *failures])
        body = _body(grid, lambda text: rf"\texttt{{{_tex(text)}}}", _tex, score)
        parts += [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(caption)}}}",
            rf"  \begin{{tabular}}{{{'l' * names}{'r' * (len(head) - names)}}}",
            r"    \toprule",
            rf"    {' & '.join(map(_tex, head))} \\",
            r"    \midrule",
            *(rf"    {' & '.join(cells)} \\" for cells in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _body(
    grid: Grid, code: Callable[[str], str], plain: Callable[[str], str], score: Callable[[TableRow], str]
) -> list[list[str]]:
    """The cells of a table, line by line, in the order of `columns`."""
    body = []
    for line in grid.lines:
        cells = (line.cells.get(length) for length in grid.lengths)
        scores = ["" if cell is None else _without_score(cell) if cell.mean is None else score(cell) for cell in cells]
        labels = [plain(text) for text in (line.model, line.run) if text]
        cost = map(plain, costs(grid, line, grid.lengths))
        body.append([code(line.method), *labels, *scores, *cost])
    return body


def _without_score(cell: TableRow) -> str:
    return "failed" if cell.failed else "left out"


def _tex(text: str) -> str:
    """Text that shows as it is in LaTeX, which would draw two hyphens as one dash."""
    return "".join(SPECIAL.get(char, char) for char in text).replace("--", "-{}-")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
