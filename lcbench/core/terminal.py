"""The border to the terminal: text of models, data and names reaches it through here, and can only be read there.

Control characters could move the cursor, retitle the window or hide what follows; they are shown as escapes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lcbench.core.errors import printable


class SafeConsole(Console):
    """A console of rich that shows control characters in what it renders, and sends those of styles only."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console(**options: Any) -> SafeConsole:
    """A console without markup and highlights: a name such as `[red]run` is no style. Options are those of rich."""
    return SafeConsole(markup=False, highlight=False, **options)


def say(text: object, *, err: bool = False, end: str = "\n") -> None:
    """Print text as it is, not wrapped, with control characters shown."""
    typer.echo(printable(str(text)) + end, nl=False, err=err)


def write_any_character() -> None:
    """From here on, what the encoding of a stream lacks (halves of surrogate pairs, in UTF-8) is written as escapes;
    what goes to a stream that is closed (`>&-`) goes nowhere, and no file that is opened later takes its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (as long as we run)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
