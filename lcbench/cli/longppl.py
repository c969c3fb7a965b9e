"""`lcbench longppl`: perplexity over the tokens for which the long context matters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lcbench.core import terminal
from lcbench.core.errors import UserError

if TYPE_CHECKING:
    from lcbench.results.longppl import LongPpl

app = typer.Typer()


@app.command()
def longppl(
    long: Annotated[Path, typer.Argument(metavar="LONG", help="A run of pg19: whole texts in one window.")],
    short: Annotated[Path, typer.Argument(metavar="SHORT", help="The same books with protocol=sliding.")],
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Chooses the key tokens: `METHOD`, or `LONG,SHORT,METHOD` of other runs."),
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="text or json.")] = "text",
) -> None:
    """Show LongPPL beside perplexity, from the likelihoods under a long and a short context.

    LONG: lcbench run pg19 --seq-len 32k -o long

    SHORT: lcbench run pg19:protocol=sliding,stride=1k,book_tokens=32k --seq-len 5k -o short
    """
    import json
    from dataclasses import asdict

    from lcbench.core.errors import unknown
    from lcbench.results.longppl import longppl as compute

    if format not in ("text", "json"):
        raise unknown("format", format, ("text", "json"))
    rows = compute(long, short, _judge(judge, long, short))
    if format == "json":
        terminal.say(json.dumps([asdict(row) for row in rows], indent=2))
        return
    _show(rows, judge)


def _judge(judge: str | None, long: Path, short: Path) -> tuple[Path, Path, str] | None:
    """The runs and the method that choose the key tokens. Raises: UserError for another form."""
    if judge is None:
        return None
    parts = judge.split(",", 2)
    if len(parts) == 1:
        return long, short, judge
    if len(parts) != 3:
        raise UserError(f"--judge {judge} must be METHOD, or LONG,SHORT,METHOD.")
    return Path(parts[0]), Path(parts[1]), parts[2]


def _show(rows: list[LongPpl], judge: str | None) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    who = "each method itself" if judge is None else judge.rpartition(",")[2]
    context = f"{rows[0].context:,}"
    table = Table(
        box=box.SIMPLE_HEAD, title=f"LongPPL, lower is better; short context from {context} tokens; judge: {who}"
    )
    for name in ("method", "length", "LongPPL", "95 % interval", "perplexity", "key tokens", "texts"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        known = row.low is not None and row.high is not None
        table.add_row(
            Text(row.method),
            f"{row.seq_len:,}",
            "none" if row.longppl is None else f"{row.longppl:.3f}",
            f"{row.low:.3f} to {row.high:.3f}" if known else "unknown",
            f"{row.perplexity:.3f}",
            f"{row.key_tokens:,} of {row.tokens:,}",
            f"{row.texts}",
        )
    terminal.console().print(table)
