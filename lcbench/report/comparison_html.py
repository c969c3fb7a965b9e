"""A comparison of two runs as one self-contained page: no script, no network, everything escaped."""

from __future__ import annotations

from html import escape

from lcbench.compare.result import VERDICTS, CellResult, Comparison
from lcbench.report.comparison import COLUMNS, by_task, remarks, title, values

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #b3261e; --good: #1b6e3c; --odd: #7a5900; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #7ddc9a; --odd: #ffd166; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .5rem; border-bottom: 1px solid var(--line); }
.cells td { overflow-wrap: normal; }
.cells td:first-child, .cells td[class] { overflow-wrap: anywhere; min-width: 9rem; }
.regressed { color: var(--bad); font-weight: 600; } .improved { color: var(--good); font-weight: 600; }
.not-comparable { color: var(--odd); } .counts { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; padding: 0; }
.counts li { list-style: none; }
@media (max-width: 60rem) {
  .cells thead { display: none; }
  .cells tr { display: block; padding: .6rem 0; border-bottom: 2px solid var(--line); }
  .cells td { display: flex; gap: 1rem; border: 0; padding: .1rem 0; }
  .cells td:empty { display: none; }
  .cells td::before { content: attr(data-label); flex: 0 0 9rem; opacity: .7; font-weight: 400; }
}
"""


def page(comparison: Comparison) -> str:
    """The page. On a narrow screen each cell of the tables becomes a card; colours follow the reader's dark mode."""
    counts = "".join(
        f'<li class="{_class(verdict)}">{len(comparison.having(verdict))} {verdict}</li>' for verdict in VERDICTS
    )
    tables = "".join(
        f"<h2>{escape(title(task, cells))}</h2>\n{_table(cells)}\n" for task, cells in by_task(comparison.cells)
    )
    notes = "".join(f"<li>{escape(line)}</li>\n" for line in remarks(comparison))
    facts = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(base)}</td><td>{escape(new)}</td></tr>\n"
        for name, base, new in comparison.facts
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>lcbench compare: {escape(comparison.summary)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(comparison.summary)}</h1>
<ul class="counts">{counts}</ul>
{tables}<h2>Remarks</h2>
<ul>
{notes}</ul>
<h2>What was compared</h2>
<table><thead><tr><th></th><th>BASE</th><th>NEW</th></tr></thead>
<tbody>
{facts}</tbody></table>
</body>
</html>
"""


def _table(cells: list[CellResult]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
    return f'<table class="cells"><thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(map(_row, cells))}</tbody></table>'


def _row(cell: CellResult) -> str:
    entries = "".join(
        f'<td data-label="{escape(column)}"{_verdict_class(column, cell)}>{escape(value)}</td>'
        for column, value in zip(COLUMNS, values(cell), strict=True)
    )
    return f"<tr>{entries}</tr>\n"


def _verdict_class(column: str, cell: CellResult) -> str:
    return f' class="{_class(cell.verdict)}"' if column == "verdict" else ""


def _class(verdict: str) -> str:
    return verdict.replace(" ", "-")
