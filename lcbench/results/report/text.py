"""Text that is safe in a terminal, a page and Markdown."""

from __future__ import annotations

import html
from collections.abc import Iterable


def printable(text: str) -> str:
    """Text on one line without control characters, which could steer a terminal or break a page."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Text on one line with Markdown's special characters escaped: error messages and names can contain anything."""
    safe = html.escape(printable(text), quote=False)
    return "".join("\\" + char if char in "\\`*_[]|~" else char for char in safe)
