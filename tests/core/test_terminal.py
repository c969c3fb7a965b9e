"""What is beyond ASCII has a plain form where the encoding lacks it, before it is laid out."""

from __future__ import annotations

import io

from rich import box
from rich.table import Table
from rich.text import Text

from lcbench.core.terminal import console


def shown(encoding: str) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding, "lcbench", write_through=True)
    table = Table("a", "b", box=box.ASCII)
    table.add_row(Text.assemble(("4 \u00b1 1", "bold"), "\n9"), Text("\u226516k"))
    table.add_row("400", "\u2588")
    own = console(file=file, width=40)
    own.print(table)
    own.print(Text("cost: \u00b1 \u2713"))
    file.seek(0)
    return file.read().splitlines()


def test_plain_forms_where_the_encoding_lacks_a_character() -> None:
    plain, whole = shown("ascii"), shown("utf-8")
    assert len({len(line) for line in plain[:-1]}) == 1, "cells stay below one another"
    assert plain[-1] == "cost: +- \\u2713" and "4 +- 1" in plain[3] and ">=16k" in plain[3]
    assert whole[-1] == "cost: \u00b1 \u2713" and "4 \u00b1 1" in whole[3]
    assert "4 \u00b1 1" in shown("latin-1")[3] and ">=16k" in shown("latin-1")[3]
