"""Tables for a page (Markdown) and for a paper (LaTeX)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lcbench.results.lengths import in_tokens
from lcbench.results.report import headline_table
from lcbench.results.report.headline import Headline, Headlines
from lcbench.results.report.layout import Grid, columns, costs, equal, grids, interval, number, titled
from lcbench.results.report.notes import notes
from lcbench.results.report.summary import TableRow
from lcbench.results.report.text import escaped, printable, row

Writer = Callable[[str], str]
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {char: f"\\{char}" for char in "&%$#_{}"}
SPECIAL |= {"<": r"\textless{}", ">": r"\textgreater{}", "≥": r"\ensuremath{\geq}"}


def markdown(rows: Sequence[TableRow], trained: int | None, headlines: Sequence[Headlines] = ()) -> str:
    """One table per task, with the 95 % interval after each score; then one for each of the headlines.

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
        lines += [row(cells) for cells in _body(grid, _quoted, escaped, score)]
        if grid.failures:
            lines.append("")
        lines += [
            f"- failed: `{line.name}` at {in_tokens(cell.seq_len)}: {escaped(printable(cell.failed or ''))}"
            for line, cell in grid.failures
        ]
        parts.append(f"**{escaped(titled(grid, trained))}**\n\n" + "\n".join(lines) + "\n")
    for one in headlines:
        head, names = _heads(one)
        lines = [row(head), "|" + " --- |" * names + " ---: |" * (len(head) - names)]
        lines += [row(_headline(one, line, _quoted, escaped, str)) for line in one.lines]
        parts.append(f"**{escaped(headline_table.title(one))}**\n\n" + "\n".join(lines) + "\n")
    parts += [f"{escaped(note)}\n" for note in dict.fromkeys([*notes(rows), *headline_table.notes(headlines)])]
    return "\n".join(parts)


def _heads(one: Headlines) -> tuple[list[str], int]:
    """The headings of headlines, and how many of them are names of a line."""
    names = headline_table.labels(one)
    return [*names, *headline_table.columns(one)], len(names)


def _headline(one: Headlines, line: Headline, code: Writer, plain: Writer, number: Writer) -> list[str]:
    """The cells of a line: its method as code, other names, and numbers."""
    method, *names = headline_table.names(one, line)
    numbers = (number(cell.bracketed) for cell in headline_table.cells(one, line))
    return [code(method), *map(plain, names), *numbers]


def _quoted(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def latex(rows: Sequence[TableRow], trained: int | None, headlines: Sequence[Headlines] = ()) -> str:
    """One `table` environment per task and per headline, for a document that uses the package booktabs."""

    def score(cell: TableRow) -> str:
        value = number(cell.mean or 0.0, cell.metric)
        value = rf"\textbf{{{value}}}" if cell.best else value
        small = " ".join(filter(None, (interval(cell), equal(cell))))
        return rf"{value} {{\scriptsize {small}}}" if small else value

    parts = ["% \\usepackage{booktabs}"]
    for grid in grids(rows):
        head = columns(grid, trained)
        names = len(head) - len(grid.lengths) - len(grid.cost_columns)
        failures = [
            f"Failed: {line.name} at {in_tokens(cell.seq_len)}: {printable(cell.failed or '')}."
            for line, cell in grid.failures
        ]
        caption = " ".join([f"{titled(grid, trained)}.", *map(_sentence, notes(grid.rows)), *failures])
        parts += _environment(caption, head, names, _body(grid, _code, _tex, score))
    for number_of, one in enumerate(headlines, start=1):
        head, names = _heads(one)
        said = headline_table.notes(headlines) if number_of == len(headlines) else []
        caption = " ".join([f"{_sentence(headline_table.title(one))}.", *map(_sentence, said)])
        body = [_headline(one, line, _code, _tex, _tex) for line in one.lines]
        parts += _environment(caption, head, names, body)
    return "\n".join(parts) + "\n"


def _environment(caption: str, head: Sequence[str], names: int, body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first `names` columns are names; `body` is TeX."""
    return [
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


def _code(text: str) -> str:
    return rf"\texttt{{{_tex(text)}}}"


def _body(grid: Grid, code: Writer, plain: Writer, score: Callable[[TableRow], str]) -> list[list[str]]:
    """The cells of a table, line by line, in the order of `columns`."""
    body = []
    for line in grid.lines:
        cells = (line.cells.get(length) for length in grid.lengths)
        scores = ["" if cell is None else _without_score(cell) if cell.mean is None else score(cell) for cell in cells]
        labels = [plain(getattr(line, label)) for label in grid.labels]
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
