"""The figure of a search: the score of each candidate by round, and what held-out samples say of the best."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from lcbench.apps.tune.search import Found
from lcbench.results.report.curves import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUT, TYPED, BEST = "#b8bec6", "#000000", COLORS[1]
NAME_WIDTH = 40  # characters of a candidate in a line of the legend


def draw(found: Found, title: str) -> Figure:
    """A line a candidate as far as it came: grey for those that are out, the best and the method as typed in colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    rounds = found.rounds
    others = [name for name in rounds[0].scores if name not in (found.best, found.typed)]
    for name in others:
        _line(axes, found, name, OUT, label=None, width=0.9)
    named = {found.typed: (f"as typed: {found.typed}", TYPED), found.best: (f"best: {found.best}", BEST)}
    if found.best == found.typed:
        named[found.best] = f"best, as typed: {found.best}", BEST
    for place, (name, (label, color)) in enumerate(named.items()):
        _line(axes, found, name, color, label=label, width=2.0)
        row = found.held_out.get(name)
        if row is None or row.mean is None:
            continue
        at = len(rounds) + 1 + 0.1 * place
        axes.plot([at], [row.mean], "D", color=color, markersize=6)
        if row.low is not None and row.high is not None:
            axes.plot([at, at], [row.low, row.high], color=color, linewidth=2)
    axes.axvline(len(rounds) + 0.5, color="#999999", linewidth=1, linestyle=(0, (3, 2)))
    ticks = [
        f"round {number}\n{len(each.scores)} candidates, {each.samples} samples"
        for number, each in enumerate(rounds, 1)
    ]
    held_out = max((row.samples for row in found.held_out.values()), default=0)
    axes.set_xticks(range(1, len(rounds) + 2), [*ticks, f"held out\n{held_out} samples, 95 %"], fontsize=8.5)
    better = ", lower is better" if found.lower_is_better else ""
    axes.set_ylabel(f"{found.metric.replace('_', ' ')}{better}", fontsize=9)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return figure


def _line(axes: Axes, found: Found, name: str, color: str, *, label: str | None, width: float) -> None:
    points = [
        (number, score) for number, each in enumerate(found.rounds, 1) if (score := each.scores.get(name)) is not None
    ]
    shown = None if label is None else "\n".join(textwrap.wrap(label.replace(",", ", "), NAME_WIDTH))
    axes.plot(
        [place for place, _ in points],
        [score for _, score in points],
        color=color,
        linewidth=width,
        marker="o",
        markersize=3 if label is None else 5,
        label=shown,
        zorder=2 if label is None else 3,
    )
