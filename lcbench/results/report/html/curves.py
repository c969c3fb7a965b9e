"""Score by length, one curve per method with its 95 % band, as an SVG in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from lcbench.results.compare.cells import LOWER_IS_BETTER
from lcbench.results.lengths import in_tokens
from lcbench.results.report.curves import own_band
from lcbench.results.report.html.frame import text
from lcbench.results.report.html.tables import Colors, line_name
from lcbench.results.report.layout import Grid, Line, number
from lcbench.results.report.panels import in_panels
from lcbench.results.report.scale import full_score
from lcbench.results.report.summary import TableRow

WIDTH, HEIGHT = 560, 300
LETTER = 11  # width of a letter at the size of a phone
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 16, 40
LOG_FROM = 20  # values that spread over more than this ratio are drawn on a logarithmic scale


@dataclass(frozen=True)
class Axis:
    """The position of a value, in pixels, and the values that get a tick."""

    place: Callable[[float], float]
    ticks: list[float]


def curves(grid: Grid, trained: Iterable[int], colors: Colors) -> str:
    """HTML: the figure of a task with the trained lengths marked, or several if it has too many methods for one. Empty
    for a single length or no score, which the table shows as well."""
    values = [value for line in grid.lines for row in line.cells.values() for value in _known(row)]
    if len(grid.lengths) < 2 or not values:
        return ""
    metric = next(row.metric for line in grid.lines for row in line.cells.values() if row.samples)
    x, y = length_axis(grid.lengths), _value_axis(values, metric)
    marks = [length for length in sorted(trained) if grid.lengths[0] <= length <= grid.lengths[-1]]
    axes = "".join(
        [
            *(horizontal(y, tick) for tick in y.ticks),
            *(vertical(x, int(tick)) for tick in x.ticks),
            *(trained_mark(x, length) for length in marks),
        ]
    )
    bands = any(row.low is not None for row in grid.rows)
    caption = f"{metric.replace('_', ' ')} by length in tokens{', with 95 % bands' * bands}"
    caption += "".join(f"; trained at {length:,} tokens (dashed line)" for length in marks)
    panels = in_panels(grid.lines, lambda line: line.method)
    figures = []
    for place, lines in enumerate(panels, start=1):
        drawn = [_band(line, lines, colors, x, y) for line in lines]
        drawn += [_line(line, size, colors, x, y) for line, size in zip(lines, _radii(lines), strict=True)]
        said = text(f"{caption}; figure {place} of {len(panels)}" if len(panels) > 1 else caption)
        legend = "".join(f"<li>{line_name(line, colors)}</li>" for line in lines)
        figures.append(
            f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{said}; the table has the numbers">{axes}{"".join(drawn)}</svg>\n'
            f'<figcaption>{said}</figcaption>\n<ul class="legend">{legend}</ul></figure>\n'
        )
    return f"<h3>By length</h3>\n{''.join(figures)}"


def _known(row: TableRow) -> list[float]:
    return [value for value in (row.mean, row.low, row.high) if value is not None and math.isfinite(value)]


def _parts(line: Line) -> list[list[TableRow]]:
    """The rows of a curve, ascending, split where a length has no score."""
    rows = [row for _, row in sorted(line.cells.items())]
    return [list(part) for known, part in groupby(rows, key=_drawable) if known]


def _drawable(row: TableRow) -> bool:
    return row.mean is not None and math.isfinite(row.mean)


def length_axis(lengths: list[int]) -> Axis:
    """A logarithmic axis; if not all labels fit, the longest length has one, and those below it that do not overlap."""
    low, high = math.log2(lengths[0]), math.log2(lengths[-1])
    span = WIDTH - LEFT - RIGHT - 40

    def place(length: float) -> float:
        return LEFT + 20 + span * ((math.log2(length) - low) / (high - low) if high > low else 0.5)

    ticks: list[float] = []
    for length in reversed(lengths):
        if not ticks or place(ticks[-1]) - place(length) >= LETTER * len(f"{length:,}") + 12:
            ticks.append(length)
    return Axis(place, ticks)


def _value_axis(values: list[float], metric: str) -> Axis:
    """From 0 to the full score if there is one; from 0 for other scores; else the range of the values."""
    low, high = min(values), max(values)
    top = full_score(metric, values)
    if metric not in LOWER_IS_BETTER:
        low, high = min(low, 0.0), top or high
    elif low > 0 and high / low > LOG_FROM:
        return _log_axis(low, high)
    return linear_axis(low, high, top / 4 if top else None)


def linear_axis(low: float, high: float, step: float | None = None) -> Axis:
    """Ticks at multiples of `step` (default: a round number) that enclose all values."""
    step = step or _step(high - low or abs(high) or 1.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    span = HEIGHT - TOP - BOTTOM

    def place(value: float) -> float:
        return TOP + span * (last - value / step) / (last - first)

    return Axis(place, [step * tick for tick in range(first, last + 1)])


def _log_axis(low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    span = HEIGHT - TOP - BOTTOM
    every = max(1, (last - first) // 6)

    def place(value: float) -> float:
        return TOP + span * (last - math.log10(value)) / (last - first)

    return Axis(place, [10.0**power for power in range(first, last + 1, every)])


def _step(span: float) -> float:
    """A round step that divides a span into four to eight parts."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return max(factor * power for factor in (1, 2, 2.5, 5) if factor * power <= span / 4)


def horizontal(y: Axis, tick: float) -> str:
    at = y.place(tick)
    return (
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text x="{LEFT - 8}" y="{at + 5:.1f}" text-anchor="end">{_tick(tick)}</text>'
    )


def _tick(value: float) -> str:
    """A number without trailing zeros."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 10_000 else f"{value:.3g}".replace("e+0", "e")


def vertical(x: Axis, tick: int) -> str:
    at, floor = x.place(tick), HEIGHT - BOTTOM
    return (
        f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 5}"/>'
        f'<text x="{at:.1f}" y="{floor + 22}" text-anchor="middle">{tick:,}</text>'
    )


def trained_mark(x: Axis, length: int) -> str:
    at = x.place(length)
    return (
        f'<line class="trained" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
        f"<title>trained at {length:,} tokens</title></line>"
    )


def _radii(lines: Sequence[Line]) -> list[float]:
    """The point radius of each line: where points coincide, earlier lines show as rings."""
    return [3.5 + 3 * (len(lines) - 1 - place) / max(len(lines) - 1, 3) for place in range(len(lines))]


def _band(line: Line, lines: Sequence[Line], colors: Colors, x: Axis, y: Axis) -> str:
    shapes = []
    methods = {each.method for each in lines if (each.model, each.run) == (line.model, line.run)}
    for rows in _parts(line):
        banded = own_band([row for row in rows if len(_known(row)) == 3], methods)
        ends = [(x.place(row.seq_len), *_known(row)[1:]) for row in banded]
        upper = [f"{at:.1f},{y.place(high):.1f}" for at, _, high in ends]
        lower = [f"{at:.1f},{y.place(low):.1f}" for at, low, _ in ends]
        if len(ends) > 1:
            shapes.append(f'<polygon points="{" ".join([*upper, *reversed(lower)])}"/>')
        elif ends:  # a single length between failures: a bar
            shapes.append(f'<polyline points="{upper[0]} {lower[0]}"/>')
    return f'<g class="band {colors.of(line)}">{"".join(shapes)}</g>'


def _line(line: Line, radius: float, colors: Colors, x: Axis, y: Axis) -> str:
    """The curve, its points, and a cross on the axis for a length without answers."""
    shapes = []
    for rows in _parts(line):
        points = [(x.place(row.seq_len), y.place(row.mean), row) for row in rows if row.mean is not None]
        shapes.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)}"/>')
        shapes += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius:.1f}"><title>{text(line.name)} at {in_tokens(row.seq_len)}: '
            f"{number(row.mean or 0.0, row.metric)}</title></circle>"
            for a, b, row in points
        ]
    shapes += [
        f'<path d="M{x.place(length) - 5:.1f} {HEIGHT - BOTTOM - 5}l10 10m0 -10l-10 10"><title>{text(line.name)} at '
        f"{length:,}: {text(row.failed or 'not finite')}</title></path>"
        for length, row in line.cells.items()
        if not _drawable(row)
    ]
    return f'<g class="line {colors.of(line)}">{"".join(shapes)}</g>'
