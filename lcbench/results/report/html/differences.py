"""The paired difference to a base by length, as an SVG in the page's colours: a point and its interval per method, side
by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lcbench.results.report.difference import Differences, Point, between, caption, interval
from lcbench.results.report.html.curves import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    horizontal,
    length_axis,
    linear_axis,
    trained_mark,
    vertical,
)
from lcbench.results.report.html.frame import text
from lcbench.results.report.html.tables import Colors, line_name
from lcbench.results.report.layout import Grid, Line
from lcbench.results.schema import Record

APART = 9  # pixels between methods


@dataclass(frozen=True)
class Base:
    """The method that others are compared with by default, and the records of each cell of each line:
    `records[row.place]`."""

    method: str
    records: Mapping[tuple[object, ...], Sequence[Record]]


def differences(grid: Grid, base: Base, trained: Iterable[int], colors: Colors) -> str:
    """HTML: the figures of a task, one for each base, of which the page shows one at a time, first that of `base`;
    empty if the base did not run the task, or nothing can be paired with it."""
    lines = {line.name: line for line in grid.lines}
    name = next((line.name for line in grid.lines if line.method == base.method), "")
    if not name:
        return ""
    task = grid.rows[0].task
    own = {line.name: {n: base.records[row.place] for n, row in line.cells.items()} for line in grid.lines}
    first = between(task, own, name)
    if not first.points:
        return ""
    others = (between(task, own, other) for other in lines if other != name)
    group = text(f"base of {task}")  # a browser opens one per group
    figures = (
        f'<details name="{group}"{" open" if found is first else ""}><summary>to {text(found.base)}</summary>\n'
        f"{_figure(found, grid, lines, trained, colors)}</details>\n"
        for found in (first, *others)
        if found.points
    )
    return f"<h3>Differences</h3>\n{''.join(figures)}"


def _figure(found: Differences, grid: Grid, lines: Mapping[str, Line], trained: Iterable[int], colors: Colors) -> str:
    words = f"difference to {found.base}: {found.words}; {caption([found], None)}"
    drawn = _axes(found, grid.lengths, trained)
    legend = "".join(f"<li>{line_name(lines[method], colors)}</li>" for method in found.methods)
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{text(words)}">{drawn}'
        f"{_points(found, lines, colors, *_scales(found, grid.lengths))}</svg>\n"
        f'<figcaption>{text(words)}</figcaption>\n<ul class="legend">{legend}</ul></figure>\n'
    )


def _scales(found: Differences, lengths: Sequence[int]) -> tuple[Axis, Axis]:
    ends = [end for point in found.points for end in (point.value, point.low, point.high) if end is not None]
    return length_axis(list(lengths)), linear_axis(min(0.0, *ends), max(0.0, *ends))


def _axes(found: Differences, lengths: Sequence[int], trained: Iterable[int]) -> str:
    x, y = _scales(found, lengths)
    zero = f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.place(0):.1f}" y2="{y.place(0):.1f}"/>'
    marks = (trained_mark(x, length) for length in trained if lengths[0] <= length <= lengths[-1])
    return "".join([*(horizontal(y, t) for t in y.ticks), *(vertical(x, int(t)) for t in x.ticks), *marks, zero])


def _points(found: Differences, lines: Mapping[str, Line], colors: Colors, x: Axis, y: Axis) -> str:
    shapes = []
    for place, (method, points) in enumerate(found.methods.items()):
        shift = APART * (place - (len(found.methods) - 1) / 2)
        at = [(x.place(point.seq_len) + shift, point) for point in points]
        shapes.append(f'<g class="band {colors.of(lines[method])}">{"".join(_bar(a, y, p) for a, p in at)}</g>')
        dots = "".join(
            f'<circle cx="{a:.1f}" cy="{y.place(p.value):.1f}" r="3.5"><title>{text(method)} at {p.seq_len:,}: '
            f"{p.value:+.3f}, {interval(p)}</title></circle>"
            for a, p in at
        )
        shapes.append(f'<g class="line {colors.of(lines[method])}">{dots}</g>')
    return "".join(shapes)


def _bar(at: float, y: Axis, point: Point) -> str:
    if point.low is None or point.high is None:
        return ""
    return f'<polyline points="{at:.1f},{y.place(point.low):.1f} {at:.1f},{y.place(point.high):.1f}"/>'
