"""The border to the terminal: text of models, data and names reaches it through here, and can only be read there.

Control characters could move the cursor, retitle the window or hide what follows; they are shown as escapes. What
lcbench itself writes beyond ASCII has a plain form for where the encoding lacks it.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Text

from lcbench.core.errors import printable

PLAIN = {"±": "+-", "≥": ">=", "█": "#"}


class SafeConsole(Console):
    """A console of rich that shows control characters in what it renders, and sends those of styles only; texts, in
    tables too, are in plain forms before they are laid out."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(self._plain, objects), **options)

    def measure(self, renderable: RenderableType, **options: Any) -> Measurement:
        return super().measure(self._plain(renderable), **options)

    def _plain(self, shown: Any) -> Any:
        for char, plain in PLAIN.items():
            if not _has(self.encoding, char):
                shown = _replaced(shown, char, plain)
        return shown

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def _has(encoding: str, char: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _replaced(shown: Any, char: str, plain: str) -> Any:
    from rich.table import Table  # where it is needed, which is hardly anywhere

    if isinstance(shown, Table):
        for column in shown.columns:
            column.header = _replaced(column.header, char, plain)
            column._cells = [_replaced(cell, char, plain) for cell in column.cells]
    if isinstance(shown, Text) and char in shown.plain:
        return Text(plain, end=shown.end).join(shown.split(char, allow_blank=True))
    return shown.replace(char, plain) if isinstance(shown, str) else shown


def _plain_or_escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """For `codecs`: plain forms, and escapes for all other characters."""
    if isinstance(error, UnicodeEncodeError) and (plain := PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    if isinstance(error, UnicodeEncodeError):
        error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error("lcbench", _plain_or_escape)


def console(**options: Any) -> SafeConsole:
    """A console without markup and highlights: a name such as `[red]run` is not a style. Options are those of rich."""
    return SafeConsole(markup=False, highlight=False, **options)


def say(text: object, *, err: bool = False, end: str = "\n") -> None:
    """Print text as it is, not wrapped, with control characters shown."""
    typer.echo(printable(str(text)) + end, nl=False, err=err)


def write_any_character() -> None:
    """From here on, what the encoding of a stream lacks (halves of surrogate pairs, in UTF-8) is written in PLAIN or as
    escapes; what goes to a stream that is closed (`>&-`) goes nowhere, and no file that is opened later takes its
    number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (as long as we run)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="lcbench")
