"""Shared code of all figures: writing files, labels of lengths, and the colour that marks the trained length."""

from __future__ import annotations

import re
import textwrap
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from lcbench.core.errors import UserError, printable
from lcbench.results.lengths import in_tokens
from lcbench.results.outputs import write_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = ("png", "svg", "pdf")
TRAINED_COLOR = "#1b4fd6"


def save(figure: Figure, path: Path) -> None:
    """Write PNG, SVG or PDF by suffix, completely or not at all; equal figures give equal bytes.

    Raises: UserError."""
    from matplotlib import rc_context

    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        raise UserError(f"cannot draw {path}: its name must end with .{', .'.join(SUFFIXES[:-1])} or .{SUFFIXES[-1]}.")
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[suffix]
    _show_as_they_are(figure)
    drawn = BytesIO()
    with rc_context({"svg.hashsalt": "lcbench"}):
        figure.savefig(drawn, format=suffix, dpi=160, metadata=undated)
    write_output(path, drawn.getvalue(), "--out")


def _show_as_they_are(figure: Figure) -> None:
    """Show names of models, tasks and methods as plain text: no formulas between dollar signs, no control characters.
    (Tick labels are matplotlib's own, whose powers are formulas.)"""
    from matplotlib.text import Text

    both = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = {id(tick) for axis in both for which in ("major", "minor") for tick in axis.get_ticklabels(which=which)}
    for shown in figure.findobj(Text):
        if isinstance(shown, Text) and id(shown) not in ticks:
            shown.set_parse_math(False)
            shown.set_text(printable(shown.get_text()))


def broken(name: str, width: int) -> str:
    """The name of a method or task in lines of at most `width` characters, broken between options and parts, and within
    one only if it is longer."""
    lines = textwrap.wrap(re.sub("([,+])", r"\1 ", name), width, break_on_hyphens=False)
    return re.sub("([,+]) ", r"\1", "\n".join(lines))


def length_label(length: int) -> str:
    """`4k` for 4096; all digits if the length is not a multiple of 1,024."""
    return f"{length // 1024}k" if length and length % 1024 == 0 else in_tokens(length)
