"""Heatmaps as tables: accessible to screen readers, narrow enough for a phone, each cell linked to its samples.

Colours are those of `lcbench plot`, as 101 CSS classes: the page's policy allows no style attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lcbench.results.report.heatmap import SCALE, Heatmap, Point, caption, color_scale, heatmaps, lightness
from lcbench.results.report.html.frame import text
from lcbench.results.report.html.tables import Colors, line_name, samples_link
from lcbench.results.report.layout import Grid, Line
from lcbench.results.report.runs import Run
from lcbench.results.report.scale import full_score


def heat_section(grid: Grid, runs: Mapping[str, Run], colors: Colors) -> str:
    """HTML: all heatmaps of a task side by side, as many as fit the width, with the colour scale and a caption.

    Empty for a task without a grid of depths, or with scores that do not go from 0 to 1.
    """
    maps = [(line, each) for line in grid.lines for each in _heatmaps(line, runs)]
    if not maps or any(full_score(each.metric, _scores(each)) != 1 for _, each in maps):
        return ""
    trained = {runs[_run(line)].identity.pretraining_length for line, _ in maps}
    said = caption([heatmap for _, heatmap in maps], trained.pop() if len(trained) == 1 else None)
    panels = "".join(_panel(line, each, runs[_run(line)], colors) for line, each in maps)
    return (
        f'<h3>By depth of the needle and length</h3>\n<div class="maps">{panels}</div>\n'
        f'<p class="scale"><span>0</span><span class="bar"></span><span>1</span><small>{text(said)}</small></p>\n'
    )


def heat_style() -> str:
    """CSS for the classes s0 (score 0) to s100 (score 1), each with a readable text colour."""
    scale, rules = color_scale(), []
    for step in range(101):
        color = scale(step / 100)
        ink = "#000" if lightness(color) > 52 else "#fff"
        background = "".join(f"{round(channel * 255):02x}" for channel in color[:3])
        rules.append(f".s{step}{{background:#{background};color:{ink}}}")
    return "\n".join([*rules, f".bar{{background:linear-gradient(90deg,{','.join(SCALE)})}}\n"])


def _heatmaps(line: Line, runs: Mapping[str, Run]) -> Sequence[Heatmap]:
    """One or none."""
    row = next(iter(line.cells.values()))
    records = [
        record
        for record in runs[row.run].records
        if (record.identity.task, record.identity.method) == (row.task, row.method)
        and record.identity.cell_depth is not None
    ]
    return heatmaps(records, row.task) if records else []


def _scores(heatmap: Heatmap) -> list[float]:
    return [point.score for point in heatmap.points.values() if point.score is not None]


def _run(line: Line) -> str:
    return next(iter(line.cells.values())).run


def _panel(line: Line, heatmap: Heatmap, run: Run, colors: Colors) -> str:
    lengths = sorted({length for _, length in heatmap.points})
    trained = run.identity.pretraining_length or 0
    last = max((length for length in lengths if length <= trained), default=None)  # the mark follows it

    def marked(length: int, classes: str = "") -> str:
        classes = " ".join(filter(None, (classes, "trained" if length == last else "")))
        return f' class="{classes}"' if classes else ""

    def cell(point: Point | None, length: int, depth: float) -> str:
        if point is None:
            return f"<td{marked(length)}></td>"
        if point.failed or point.score is None:
            return f'<td{marked(length, "failed")} title="{text(point.failed)}">failed</td>'
        link = samples_link(f"{point.score:.2f}".removeprefix("0"), line.cells[length], depth)
        return f"<td{marked(length, f's{round(100 * point.score)}')}>{link}</td>"

    head = "".join(f'<th scope="col"{marked(length)}>{length:,}</th>' for length in lengths)
    body = "".join(
        f'<tr><th scope="row">{100 * depth:.3g}%</th>'
        + "".join(cell(heatmap.points.get((depth, length)), length, depth) for length in lengths)
        + "</tr>\n"
        for depth in sorted({depth for depth, _ in heatmap.points})
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(line.name)} by depth and length">'
        f'<table class="heat"><caption>{line_name(line, colors)}</caption>'
        f'<thead><tr><th scope="col">depth</th>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'
    )
