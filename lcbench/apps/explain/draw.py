"""The figure of an explanation: a row a method, with heads by layers, strips of the context, and ranks by layer."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from lcbench.apps.explain.result import FLOOR, NEEDLE, Explanation, Look
from lcbench.results.report.curves import COLORS, MARKERS
from lcbench.results.report.figure import TRAINED_COLOR
from lcbench.results.report.heatmap import color_scale, lightness

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 128  # cells of a map up to which each has its number
WRAP = 46  # characters of a title in a line


def draw(explanation: Explanation) -> Figure:
    """Each method's heads on one scale and its strips on another; below them the lens, if the model has one."""
    from matplotlib.figure import Figure

    looks = explanation.looks
    lens = any(look.lens for look in looks)
    L, H = looks[0].shares.shape[:2]
    height = min(5.0, max(1.5, 0.24 * L + 0.7))
    figure = Figure(figsize=(11, height * len(looks) + (2.8 if lens else 0.4) + 0.6), layout="constrained")
    ratios = [height] * len(looks) + ([2.8] if lens else [])
    grid = figure.add_gridspec(len(ratios), 2, height_ratios=ratios, width_ratios=[min(1.4, 0.5 + 0.05 * H), 2])
    for row, look in enumerate(looks):
        _draw_heads(figure.add_subplot(grid[row, 0]), explanation, look)
        _draw_strips(figure.add_subplot(grid[row, 1]), explanation, look, last=row == len(looks) - 1)
    if lens:
        _draw_lens(figure.add_subplot(grid[len(looks), :]), explanation)
        figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    figure.suptitle(f"{explanation.title}, {explanation.model}: {explanation.reference!r} wanted", fontsize=10.5)
    return figure


def _draw_heads(axes: Axes, explanation: Explanation, look: Look) -> None:
    from matplotlib.patches import Rectangle

    shares, scale = look.shares[:, :, NEEDLE], color_scale()
    axes.imshow(shares, cmap=scale, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if shares.size <= NUMBERED:
        for (row, head), share in np.ndenumerate(shares):
            ink = "black" if lightness(scale(float(share))) > 52 else "white"
            axes.text(head, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5, color=ink)
    for one in look.retrieving:
        corner = (one.head - 0.5, look.layers.index(one.layer) - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=TRAINED_COLOR, linewidth=2))
    said = f"{look.method}\nanswers {look.answer.strip()!r}; % on the needle, framed: retrieves"
    axes.set_title("\n".join(textwrap.fill(line, WRAP) for line in said.split("\n")), fontsize=8.5, loc="left")
    every = -(-len(look.layers) // 12)
    axes.set_yticks(range(0, len(look.layers), every), [str(layer) for layer in look.layers[::every]], fontsize=8)
    axes.set_xticks(range(0, shares.shape[1], -(-shares.shape[1] // 16)))
    axes.tick_params(labelsize=8, length=2)
    axes.set_ylabel("layer", fontsize=8.5)
    axes.set_xlabel("head", fontsize=8.5)


def _draw_strips(axes: Axes, explanation: Explanation, look: Look, *, last: bool) -> None:
    from matplotlib.colors import LogNorm

    strips = explanation.strips(look)
    rows = np.stack([shares for _, shares in strips]).clip(min=FLOOR)
    extent = (0, explanation.tokens, len(strips) - 0.5, -0.5)
    norm = LogNorm(FLOOR, 1)
    axes.imshow(rows, cmap=color_scale(), norm=norm, aspect="auto", interpolation="nearest", extent=extent)
    for edge in (explanation.needle.start, explanation.needle.stop):
        axes.axvline(edge, color=TRAINED_COLOR, linewidth=1.2)
    axes.set_yticks(range(len(strips)), [name for name, _ in strips], fontsize=8)
    axes.tick_params(labelsize=8, length=2)
    axes.set_title("attention over the context (log), the needle between the lines", fontsize=8.5, loc="left")
    if last:
        axes.set_xlabel("token of the prompt", fontsize=8.5)


def _draw_lens(axes: Axes, explanation: Explanation) -> None:
    from matplotlib.ticker import FuncFormatter

    for place, look in enumerate(explanation.looks):
        if not look.lens:
            continue
        style: dict[str, Any] = {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)]}
        axes.plot(range(len(look.lens)), [one.rank for one in look.lens], label=look.method, markersize=4, **style)
    longest = max(len(look.lens) for look in explanation.looks)
    axes.set_xticks(range(0, longest, -(-longest // 16)))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.invert_yaxis()
    axes.set_ylabel("rank of the right token", fontsize=8.5)
    axes.set_xlabel("after layer (logit lens)", fontsize=8.5)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
