"""Heatmaps by needle depth and length, one per method: as a figure, and as text for a terminal or a pipe.

lcbench plot needle --out needle.svg
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.text import Text

from lcbench.core.errors import UserError, unknown
from lcbench.results.report.draws import counted
from lcbench.results.report.figure import TRAINED_COLOR, broken, length_label
from lcbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

# From dark red over orange and yellow to light green: lightness rises monotonically (CIE L* 15 to 87), so that the
# scale also works in grey and for colour-blind readers.
SCALE = ("#4a0d1f", "#97242f", "#d2603a", "#e6a648", "#b9e6a0")
COLUMNS = 4  # panels beside one another
TITLE_WIDTH = 30  # characters of a panel's title in a line


@dataclass(frozen=True)
class Point:
    """One cell: the mean score of its samples (0 to 1), None if none was answered; the reason if it failed; and the
    number of questions, which is smaller than that of samples if they were answered several times."""

    score: float | None
    samples: int
    failed: str | None
    questions: int


@dataclass(frozen=True)
class Heatmap:
    """The scores of one task and method by (depth from 0 to 1, length in tokens); cells never run are missing."""

    task: str
    method: str
    metric: str
    points: dict[tuple[float, int], Point]


def heatmaps(records: Iterable[Record], task: str) -> list[Heatmap]:
    """A heatmap for every method and every variant of the task, in the order in which they first occur.

    Raises: UserError for records without this task, or whose depths were drawn at random.
    """
    cells: dict[tuple[str, str], dict[tuple[float, int], list[Record]]] = {}
    tasks: dict[str, None] = {}
    for record in records:
        one = record.identity
        tasks[one.task] = None
        if task in (one.task, one.task.partition(":")[0]) and one.cell_depth is not None:
            grid = cells.setdefault((one.task, one.method), {})
            grid.setdefault((one.cell_depth, one.seq_len), []).append(record)
    if not any(task in (name, name.partition(":")[0]) for name in tasks):
        raise unknown("task of this run", task, tasks)
    if not cells:
        raise UserError(
            f"the depths of {task} were drawn at random in this run; run it with --depths 11 for a heatmap."
        )
    return [
        Heatmap(
            name,
            method,
            next((r.result.scores.metric for members in grid.values() for r in members if r.result), ""),
            {place: _point(members) for place, members in grid.items()},
        )
        for (name, method), grid in cells.items()
    ]


def print_heatmaps(console: Console, maps: Sequence[Heatmap], trained: int | None) -> None:
    """Print scores as numbers, in cells of the scale's colours if the terminal has them.

    Lengths that do not fit the width continue below.
    """
    scale = color_scale()
    for heatmap in maps:
        depths, lengths = _axes([heatmap])
        fitting = max(1, (console.width - 6) // 7)
        console.print(Text(f"{heatmap.task}, {heatmap.method}: {_metric(heatmap)} by depth and length", style="bold"))
        for start in range(0, len(lengths), fitting):
            columns = lengths[start : start + fitting]
            header = "".join(f"{length_label(n) + ('*' if n == trained else ' '):>7}" for n in columns)
            console.print(Text("depth " + header, style="dim"))
            for depth in depths:
                line = Text(f"{_percent(depth):>5} ")
                for length in columns:
                    line.append(_text_cell(heatmap.points.get((depth, length)), scale))
                console.print(line)
    console.print(Text(caption(maps, trained), style="dim"))


def draw(maps: Sequence[Heatmap], trained: int | None, model: str) -> Figure:
    """All heatmaps side by side on one scale; failed cells are hatched, cells that were not run are blank."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    depths, lengths = _axes(maps)
    columns = min(COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    titles = [_title(heatmap, several=len({m.task for m in maps}) > 1) for heatmap in maps]
    title_lines = max(title.count("\n") + 1 for title in titles)
    width = max(2.6, 0.46 * len(lengths) + 0.5)
    height = max(1.8, 0.27 * len(depths)) + 0.75 + 0.17 * title_lines
    figure = Figure(figsize=(max(4.8, columns * width + 1.6), rows * height + 0.9), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    panels: list[Axes] = list(grid.flat)
    for axes, heatmap, title in zip(panels, maps, titles):
        _draw_panel(axes, heatmap, depths, lengths, trained)
        axes.set_title(title, fontsize=9.5, loc="left", y=1)
    for unused in panels[len(maps) :]:
        unused.set_axis_off()
    for index, axes in enumerate(panels[: len(maps)]):
        axes.tick_params(labelbottom=index + columns >= len(maps))
    mappable = ScalarMappable(Normalize(0, 1), color_scale())
    bar = figure.colorbar(mappable, ax=panels, fraction=0.05, pad=0.02, aspect=25)
    bar.set_label(_metric(maps[0]), fontsize=10)
    bar.ax.tick_params(labelsize=9)
    figure.supylabel("depth of the needle", fontsize=10)
    text = f"length in tokens, answer included\n{model}; {caption(maps, trained)}"
    characters = int(figure.get_figwidth() * 13)
    figure.supxlabel("\n".join(textwrap.fill(line, characters) for line in text.split("\n")), fontsize=9)
    return figure


def caption(maps: Sequence[Heatmap], trained: int | None) -> str:
    """The number of samples per cell, the trained length and the failures."""
    points = [point for heatmap in maps for point in heatmap.points.values()]
    counts = [(point.samples, point.questions) for point in points if point.score is not None]
    parts = [counted(counts, "sample", "per cell")]
    if trained:
        parts.append(f"trained at {trained:,} tokens")
    failed = sum(point.failed is not None for point in points)
    if failed:
        reasons = sorted({point.failed for point in points if point.failed})
        parts.append(f"{failed} {'cell' if failed == 1 else 'cells'} failed ({textwrap.shorten(reasons[0], 60)})")
    return ", ".join(parts)


def color_scale() -> LinearSegmentedColormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("lcbench", list(SCALE))


def lightness(rgb: Sequence[float]) -> float:
    """CIE L* (0 black, 100 white) of an sRGB colour with channels from 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def _draw_panel(
    axes: Axes, heatmap: Heatmap, depths: Sequence[float], lengths: Sequence[int], trained: int | None
) -> None:
    from matplotlib.patches import Rectangle

    scale = color_scale()
    for row, depth in enumerate(depths):
        for column, length in enumerate(lengths):
            point = heatmap.points.get((depth, length))
            if point is None:
                continue
            color = scale(point.score) if point.score is not None else (0.93, 0.93, 0.93, 1.0)
            hatch = "////" if point.failed else None
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="#555555", linewidth=0, hatch=hatch))
            if point.score is not None and not point.failed:
                ink = "black" if lightness(color) > 52 else "white"
                axes.text(column, row, _short(point.score), ha="center", va="center", fontsize=7.5, color=ink)
    axes.set(xlim=(-0.5, len(lengths) - 0.5), ylim=(len(depths) - 0.5, -0.5))
    axes.set_xticks(range(len(lengths)), [length_label(length) for length in lengths], fontsize=9)
    if sum(len(length_label(length)) for length in lengths) > 4 * len(lengths):
        axes.tick_params(axis="x", labelrotation=45)
    every = -(-len(depths) // 17)
    axes.set_yticks(range(0, len(depths), every), [_percent(depth) for depth in depths[::every]], fontsize=9)
    axes.tick_params(length=2)
    if trained:
        within = sum(length <= trained for length in lengths)
        axes.axvline(within - 0.5, color="white", linewidth=3.6, zorder=3)
        axes.axvline(within - 0.5, color=TRAINED_COLOR, linewidth=2, linestyle=(0, (3, 1.2)), zorder=4)


def _point(records: list[Record]) -> Point:
    scores = [record.score for record in records if record.score is not None]
    failed = next((record.failure for record in records if record.failure), None)
    questions = len({record.question for record in records if record.score is not None})
    return Point(sum(scores) / len(scores) if scores else None, len(scores), failed, questions)


def _axes(maps: Sequence[Heatmap]) -> tuple[list[float], list[int]]:
    """The depths and lengths of all maps, ascending."""
    places = [place for heatmap in maps for place in heatmap.points]
    return sorted({depth for depth, _ in places}), sorted({length for _, length in places})


def _text_cell(point: Point | None, scale: LinearSegmentedColormap) -> Text:
    if point is None:
        return Text(" " * 7)
    if point.failed:
        return Text(f"{'failed':>7}", style="red")
    assert point.score is not None
    red, green, blue, _ = scale(point.score)
    ink = "black" if lightness((red, green, blue)) > 52 else "white"
    background = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
    return Text(f"{_short(point.score):>5}  ", style=Style(color=ink, bgcolor=background))


def _title(heatmap: Heatmap, several: bool) -> str:
    """The method, and the task if there are several, in lines that fit a panel."""
    parts = [heatmap.task, heatmap.method] if several else [heatmap.method]
    return "\n".join(broken(part, TITLE_WIDTH) for part in parts)


def _metric(heatmap: Heatmap) -> str:
    return heatmap.metric.replace("_", " ") or "score"


def _short(score: float) -> str:
    return f"{score:.2f}".removeprefix("0")


def _percent(depth: float) -> str:
    return f"{100 * depth:.3g}%"
