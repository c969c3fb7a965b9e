"""What all tables in a terminal share: whether one fits, and how a method is named in it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lcbench.core.specs import split_options

METHOD_WIDTH = 18


def fits(console: Console, table: Table) -> bool:
    """Whether a table can be shown whole, long options folded at METHOD_WIDTH at worst; it is left that narrow."""
    table.columns[0].max_width = METHOD_WIDTH
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum <= console.width


def method_label(method: str, *more: str) -> Text:
    """The name, and each option and whatever else tells rows apart on a line of its own: a row is two lines high
    anyway."""
    name, colon, options = method.partition(":")
    lines = [*(split_options(options) if colon else []), *more]
    return Text.assemble(name, ("".join(f"\n{each}" for each in lines), "dim"))
