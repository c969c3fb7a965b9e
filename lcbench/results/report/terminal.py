"""Shared by all tables in a terminal: whether one fits, and the label of a method."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.core.specs import split_options

METHOD_WIDTH = 18


def fits(console: Console, table: Table) -> bool:
    """Whether a table fits the console once its first column is folded at METHOD_WIDTH characters; the fold stays."""
    table.columns[0].max_width = METHOD_WIDTH
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width


def method_label(method: str, *more: str) -> Text:
    """The method's name, with each option, and each of `more`, on a line of its own: rows are two lines high anyway."""
    if " -> " in method:  # a pair of methods
        return Text(method.replace(" -> ", " ->\n"))
    name, colon, options = method.partition(":")
    lines = [*(split_options(options) if colon else []), *more]
    return Text.assemble(name, ("".join(f"\n{each}" for each in lines), "dim"))
