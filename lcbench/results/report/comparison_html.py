"""A comparison of two runs as one self-contained page: no script, no network, everything escaped."""

from __future__ import annotations

from lcbench.results.compare.result import CellResult, Comparison, Verdict
from lcbench.results.report.comparison import by_task, columns, remarks, title, values
from lcbench.results.report.html.frame import asset, document, text


def page(comparison: Comparison) -> str:
    """The page. On a narrow screen each cell of the tables becomes a card; colours follow the reader's dark mode."""
    counts = "".join(_count(verdict, len(comparison.having(verdict))) for verdict in comparison.verdicts)
    tables = "".join(
        f"<h2>{text(title(task, cells))}</h2>\n{_table(comparison, cells)}\n"
        for task, cells in by_task(comparison.cells)
    )
    notes = "".join(f"<li>{text(line)}</li>\n" for line in remarks(comparison))
    facts = "".join(
        f'<tr><th scope="row">{text(name)}</th><td>{text(base)}</td><td>{text(new)}</td></tr>\n'
        for name, base, new in comparison.facts
    )
    compared = f"{comparison.new.folder} against {comparison.base.folder}"
    body = f"""<header><p>lcbench compare</p><h1>{text(compared)}</h1></header>
<ul class="counts">{counts}</ul>
<main>
{tables}<h2>Remarks</h2>
<ul>
{notes}</ul>
<h2>What was compared</h2>
<table class="facts">
<thead><tr><th scope="col">setting</th><th scope="col">BASE</th><th scope="col">NEW</th></tr></thead>
<tbody>
{facts}</tbody></table>
</main>"""
    return document(f"lcbench compare: {comparison.summary}", body, asset("comparison.css"))


def _count(verdict: Verdict, count: int) -> str:
    """The number of cells of a verdict, coloured unless it is 0."""
    style = f' class="{_class(verdict)}"' if count else ""
    return f"<li{style}>{count} {verdict}</li>"


def _table(comparison: Comparison, cells: list[CellResult]) -> str:
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns(comparison))
    rows = "".join(_row(comparison, cell) for cell in cells)
    return f'<table class="cells"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>'


def _row(comparison: Comparison, cell: CellResult) -> str:
    method, *numbers = (
        f'<td data-label="{text(column)}"{_verdict_class(column, cell)}>{text(value)}</td>'
        for column, value in zip(columns(comparison), values(comparison, cell), strict=True)
    )
    return f"<tr>{method.replace(',', ',<wbr>')}{''.join(numbers)}</tr>\n"


def _verdict_class(column: str, cell: CellResult) -> str:
    return f' class="{_class(cell.verdict)}"' if column == "verdict" else ""


def _class(verdict: str) -> str:
    return verdict.replace(" ", "-")
