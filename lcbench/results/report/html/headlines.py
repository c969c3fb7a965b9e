"""The headlines as tables of a page: one row per method, the interval below each number."""

from __future__ import annotations

from collections.abc import Sequence

from lcbench.core.specs import split_options
from lcbench.results.report import headline_table
from lcbench.results.report.headline import Headline, Headlines
from lcbench.results.report.html.frame import text


def headline_section(headlines: Sequence[Headlines]) -> str:
    """HTML: a table for each benchmark and for all tasks; empty without headlines."""
    if not headlines:
        return ""
    notes = "".join(f"<li>{text(note)}</li>" for note in headline_table.notes(headlines))
    tables = "".join(map(_table, headlines))
    return f'<section id="headlines"><h2>Headlines</h2>\n{tables}<ul class="about">{notes}</ul>\n</section>'


def _table(one: Headlines) -> str:
    caption = text(headline_table.title(one))
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in headline_table.columns(one))
    body = "".join(
        f'<tr><th scope="row">{_name(line)}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in headline_table.cells(one, line))
        + "</tr>\n"
        for line in one.lines
    )
    return (
        f'<p class="caption">{caption}</p>\n<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table class="grid"><thead><tr><th scope="col">method</th>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _name(line: Headline) -> str:
    if line.published:
        return f"{text(line.method)}<small>published</small>"
    name, colon, options = line.method.partition(":")
    small = [*(split_options(options) if colon else []), *filter(None, (line.model, line.run))]
    return text(name) + "".join(f"<small>{text(each)}</small>" for each in small)


def _cell(cell: headline_table.Shown) -> str:
    return text(cell.value) + (f"<small>{text(f'{cell.low} to {cell.high}')}</small>" if cell.low else "")
