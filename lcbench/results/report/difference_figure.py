"""The figure of paired differences: one panel per task, with intervals side by side instead of overlapping bands."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lcbench.results.report.curves import LEGEND_INCHES, TITLE_WIDTH, add_legend, finish, legend_names, style_of
from lcbench.results.report.difference import Differences, caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 0.07  # offset between methods, as a share of a doubling of the length
ALL = 0.6  # largest offset of all methods together, as a share of the distance to the next length


def draw(found: Sequence[Differences], trained: int | None, model: str) -> Figure:
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(method for one in found for method in one.methods))
    lines = sum(name.count("\n") + 1 for name in legend_names(methods).values())
    height = max(3.3 * len(found) + 0.9, 0.19 * lines + 0.6)
    figure = Figure(figsize=(6.4 + LEGEND_INCHES, height), layout="constrained")
    grid = figure.subplots(len(found), 1, squeeze=False)
    for (axes,), one in zip(grid, found, strict=True):
        _draw(axes, one, methods, trained)
    add_legend(figure, figure.axes, methods)
    text = f"{model}; {caption(found, trained)}"
    figure.supxlabel(textwrap.fill(text, int(figure.get_figwidth() * 13)), fontsize=9)
    return figure


def _draw(axes: Axes, one: Differences, methods: Sequence[str], trained: int | None) -> None:
    axes.axhline(0.0, color="#555555", linewidth=1.2, zorder=1)
    lengths = sorted({point.seq_len for point in one.points})
    gap = min((math.log2(longer / shorter) for shorter, longer in pairwise(lengths)), default=1.0)
    apart = min(APART, ALL * gap / max(len(methods) - 1, 1))
    for place, method in enumerate(methods):
        points = one.methods.get(method, [])
        shift = 2 ** (apart * (place - (len(methods) - 1) / 2))
        style = style_of(place, len(methods)) | {"markersize": 5.5}
        at = [point.seq_len * shift for point in points]
        axes.plot(at, [point.value for point in points], label=method, linewidth=1.0, **style)
        for x, point in zip(at, points, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot([x, x], [point.low, point.high], color=style["color"], linewidth=2.2, alpha=0.55, zorder=1.5)
    finish(axes, lengths, [], "", trained)
    title = "\n".join(textwrap.wrap(f"{one.task}: difference to {one.base}", TITLE_WIDTH))
    axes.set(title=title, xlabel="length in tokens", ylabel=one.words.replace(", ", "\n"))
    axes.title.set_fontsize(9.5)
