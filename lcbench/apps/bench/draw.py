"""The figure of a bench: by length, what each part costs, and how many times what vanilla attention costs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from lcbench.apps.bench.result import PARTS, Measurement, Result
from lcbench.apps.bench.show import TITLES
from lcbench.results.report.curves import COLORS, MARKERS
from lcbench.results.report.figure import length_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (3.4, 3.0)  # inches
TITLE_WIDTH = 36  # characters in a line


def draw(result: Result) -> Figure:
    """Two rows of panels, a column a part: the cost with its quartiles, and its ratio to the model's own SDPA."""
    from matplotlib.figure import Figure

    parts = [part for part in PARTS if result.part(part)]
    names = list(dict.fromkeys(row.subject for row in result.rows))
    figure = Figure(figsize=(max(6.8, PANEL[0] * len(parts)), 2 * PANEL[1] + 0.9), layout="constrained")
    if not parts:
        figure.suptitle("nothing was measured")
        return figure
    panels = figure.subplots(2, len(parts), squeeze=False)
    for column, part in enumerate(parts):
        rows = result.part(part)
        _draw_cost(panels[0][column], part, rows, names)
        _draw_ratio(panels[1][column], rows, names)
    handles: dict[str, Any] = {}
    for axes in panels[0]:
        lines, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)), frameon=False
    )
    about = result.about
    figure.suptitle(
        f"{about['model']}, {about['layers']} layers, {about['dtype']}, {about['hardware']}, {about['clock']}",
        fontsize=10,
    )
    return figure


def _draw_cost(axes: Axes, part: str, rows: list[Measurement], names: list[str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in dict.fromkeys(row.subject for row in rows):
        own = [row for row in rows if row.subject == name]
        lengths, style = [row.length for row in own], _style(name, names, own)
        if part == "memory":
            axes.plot(lengths, [(row.peak_bytes or 0) / 2**20 for row in own], label=name, **style)
            continue
        spreads = [row.seconds for row in own if row.seconds is not None]
        axes.plot(lengths, [1000 * spread.median for spread in spreads], label=name, **style)
        ends = [(spread.low or spread.median, spread.high or spread.median) for spread in spreads]
        low, high = ([1000 * end for end in side] for side in zip(*ends, strict=True))
        axes.fill_between(lengths, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(textwrap.fill(TITLES[part], TITLE_WIDTH), fontsize=8.5)
    axes.set_ylabel("MiB" if part == "memory" else "ms")
    _finish(axes, rows)


def _draw_ratio(axes: Axes, rows: list[Measurement], names: list[str]) -> None:
    first = next((name for row in rows for name in row.ratios), None)
    for name in dict.fromkeys(row.subject for row in rows):
        own = [row for row in rows if row.subject == name and first in row.ratios]
        if own and first is not None and name != first:
            axes.plot(
                [row.length for row in own], [row.ratios[first].median for row in own], **_style(name, names, own)
            )
    axes.axhline(1, color="#777777", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"times {first}" if first else "no baseline")
    axes.set_xlabel("tokens")
    _finish(axes, rows)


def _style(name: str, names: list[str], own: list[Measurement]) -> dict[str, Any]:
    place = names.index(name)
    return {
        "color": COLORS[place % len(COLORS)],
        "marker": MARKERS[(place + place // len(COLORS)) % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.4,
        "linestyle": (0, (4, 1.5)) if own[0].baseline else "-",
    }


def _finish(axes: Axes, rows: list[Measurement]) -> None:
    lengths = sorted({row.length for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [length_label(length) for length in lengths])
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
