"""Curves of a score by length, one per method with its 95 % band: as a figure, and as text bars for a terminal.

lcbench plot pg19 --out pg19.svg

For likelihoods a second panel shows the mean NLL by position in the text, at the longest length.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from lcbench.core.errors import unknown
from lcbench.results.compare.cells import LOWER_IS_BETTER
from lcbench.results.nll import mean_buckets
from lcbench.results.report.draws import counted
from lcbench.results.report.figure import TRAINED_COLOR, broken, length_label
from lcbench.results.report.layout import number, view
from lcbench.results.report.longppl import with_longppl
from lcbench.results.report.panels import in_panels, panels_of
from lcbench.results.report.runs import Run
from lcbench.results.report.scale import full_score
from lcbench.results.report.summary import TableRow, by_task, summarise_runs
from lcbench.results.schema import Record

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lcbench.results.longppl import LongPpl

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/, without yellow, which is too faint for a line.
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#000000",
    "#7a4b2a",
)  # the last one is added
MARKERS, DASHES = "osD^vPX*", ("-", (0, (4, 1.5)), (0, (1, 1)))
LOG_FROM = 4  # values that spread over more than this ratio are drawn on a logarithmic scale
LEGEND_WIDTH = 34  # characters of a method in the legend
LEGEND_INCHES = 2.7
RIGHT_OF_ALL, RIGHT_OF_PANEL = {"loc": "outside right upper"}, {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0)}
FILLED = 4  # most methods with filled bands: more would hide each other
FIRST_POSITION = 4  # first position drawn: the NLL of the first tokens would dwarf all others
TITLE_WIDTH = 56  # characters of a panel's title in a line
BAR = 36  # characters of the longest bar


@dataclass(frozen=True)
class Curves:
    """One task: its rows by method, and at the longest length the mean NLL by position [(first, last, nats)]."""

    task: str
    methods: dict[str, list[TableRow]]
    positions: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[TableRow]:
        return [row for rows in self.methods.values() for row in rows]

    def of_key_tokens(self) -> Curves | None:
        """The curves of LongPPL; None if it is unknown."""
        shown = {method: known for method, rows in self.methods.items() if (known := view(rows, "longppl"))}
        return replace(self, methods=shown, positions={}) if shown else None

    def only(self, methods: Container[str]) -> Curves:
        """The curves of some methods."""
        return Curves(
            self.task,
            {method: rows for method, rows in self.methods.items() if method in methods},
            {method: means for method, means in self.positions.items() if method in methods},
        )

    @property
    def longest(self) -> int:
        """The longest length in tokens that has a score; the longest at all if none has one."""
        return max(self.rows, key=lambda row: (row.mean is not None, row.seq_len)).seq_len

    @property
    def metric(self) -> str:
        return next((row.metric for row in self.rows if row.metric), "score")


def curves(run: Run, task: str, longppl: Mapping[tuple[object, ...], LongPpl] | None = None) -> list[Curves]:
    """The curves of a task and of every variant of it, in the order in which they first occur. `longppl` is keyed by
    the `place` of a row.

    Raises: UserError for a run without this task.
    """
    found = []
    for name, rows in by_task(with_longppl(summarise_runs([run]), longppl or {})):
        if task not in (name, name.partition(":")[0]):
            continue
        methods: dict[str, list[TableRow]] = {}
        for row in rows:
            methods.setdefault(row.method, []).append(row)
        found.append(Curves(name, {m: sorted(own, key=lambda row: row.seq_len) for m, own in methods.items()}))
    if not found:
        raise unknown("task of this run", task, {record.identity.task for record in run.records})
    return [Curves(one.task, one.methods, _positions(run.records, one)) for one in found]


def _positions(records: Iterable[Record], of: Curves) -> dict[str, list[tuple[int, int, float]]]:
    buckets: dict[str, list[list[tuple[int, int, float, int]]]] = {}
    for record in records:
        one, nll = record.identity, record.result and record.result.nll
        if (one.task, one.seq_len) == (of.task, of.longest) and nll:
            buckets.setdefault(one.method, []).append(nll.buckets)
    return {method: means for method, each in buckets.items() if (means := mean_buckets(each))}


def print_curves(console: Console, all_curves: Sequence[Curves], trained: int | None) -> None:
    """A bar and a number for every method and length; bars are logarithmic if the scores spread by more than
    LOG_FROM."""
    for one in [each for whole in all_curves for each in (whole, whole.of_key_tokens()) if each]:
        values = _finite(row.mean for row in one.rows)
        bars = _Bars(values, one.metric, max(4, min(BAR, console.width - 42)))
        scale = ", bars are logarithmic" if bars.log else ""
        console.print(Text(f"{one.task}: {_words(one.metric)} by length{scale}", style="bold"))
        for method, rows in one.methods.items():
            console.print(Text(method), soft_wrap=True)
            for row in rows:
                label = length_label(row.seq_len) + ("*" if row.seq_len == trained else " ")
                line = Text(f"{label:>9} ")
                if row.mean is None:
                    line.append(f"failed: {row.failed}", style="red")
                else:
                    line.append("█" * bars.size(row.mean), style="blue").append(f" {number(row.mean, row.metric)}")
                    if row.low is not None and row.high is not None:
                        line.append(f"  {number(row.low, row.metric)} to {number(row.high, row.metric)}", style="dim")
                console.print(line, soft_wrap=True)
    console.print(Text(caption(all_curves, trained, star=True), style="dim"))


@dataclass(frozen=True)
class _Bars:
    """The scale of the bars: from a value to a length in characters."""

    values: list[float]
    metric: str
    width: int

    @property
    def log(self) -> bool:
        return _logarithmic(self.values, self.metric)

    def size(self, value: float) -> int:
        if not math.isfinite(value):
            return self.width
        top = full_score(self.metric, self.values) or max(self.values)
        if self.log:
            low = min(self.values) / 2  # the smallest has a bar, too
            return round(self.width * math.log(value / low) / math.log(top / low))
        return round(self.width * max(value, 0.0) / top) if top > 0 else 0


def draw(all_curves: Sequence[Curves], trained: int | None, model: str) -> Figure:
    """One row of panels per task: the score by length, and for likelihoods the NLL by position. With more methods than
    one panel can show, a task has several rows, with equal axes and a legend each."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(method for one in all_curves for method in one.methods))
    parts = in_panels(methods, str)
    rows = [(one, part) for one in all_curves for part in panels_of(one.methods, parts)]
    kinds = [bool(one.positions) + (one.of_key_tokens() is not None) for one in all_curves]
    columns = 1 + max(kinds)
    legend_lines = max(sum(name.count("\n") + 1 for name in legend_names(part).values()) for part in parts)
    height = 3.3 if len(parts) == 1 else max(3.3, 0.19 * legend_lines + 0.3)
    figure = Figure(
        figsize=(5.2 * columns + LEGEND_INCHES, max(height * len(rows) + 0.9, 0.19 * legend_lines + 0.6)),
        layout="constrained",
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for panels, (one, part) in zip(grid, rows, strict=True):
        axes, *others = panels
        _draw_lengths(axes, one, part, trained)
        if key_tokens := one.of_key_tokens():
            _draw_lengths(others.pop(0), key_tokens, part, trained)
        if one.positions:
            _draw_positions(others.pop(0), one, part, trained)
        for other in others:
            other.set_axis_off()
        if len(parts) > 1:
            add_legend(panels[-1], panels, part, RIGHT_OF_PANEL)
    if len(parts) == 1:
        add_legend(figure, figure.axes, methods)
    _share_values(all_curves, rows, grid)
    text = f"{model}; {caption(all_curves, trained)}"
    figure.supxlabel(textwrap.fill(text, int(figure.get_figwidth() * 13)), fontsize=9)
    return figure


def legend_names(methods: Iterable[str]) -> dict[str, str]:
    """The methods, broken into lines."""
    return {method: broken(method, LEGEND_WIDTH) for method in methods}


def _share_values(all_curves: Sequence[Curves], rows: Sequence[tuple[Curves, object]], grid: Any) -> None:
    """Give the panels of a task, one below the other, the same scale of values."""
    for one in all_curves:
        for column in zip(*(panels for panels, (of, _) in zip(grid, rows, strict=True) if of is one), strict=True):
            ends = [end for axes in column for end in axes.get_ylim()]
            for axes in column:
                axes.set_ylim(min(ends), max(ends))


def add_legend(
    where: Figure | Axes, panels: Iterable[Axes], methods: Sequence[str], place: Mapping[str, Any] = RIGHT_OF_ALL
) -> None:
    """Add one legend for several panels, in the order of the methods."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    names = legend_names(methods)
    labels = [method for method in methods if method in handles]
    where.legend(
        [handles[label] for label in labels],
        [names[label] for label in labels],
        fontsize=8.5,
        frameon=False,
        **place,
    )


def caption(all_curves: Sequence[Curves], trained: int | None, *, star: bool = False) -> str:
    """The number of samples per point, the protocol, and what the marks mean; `star`: marks of text, not of figures."""
    rows = [row for one in all_curves for row in one.rows]
    noun = "book" if any(one.metric == "perplexity" for one in all_curves) else "sample"
    parts = [counted([(row.samples, row.questions) for row in rows], noun, "per point")]
    if any(row.low is not None for row in rows):
        parts.append("95 % intervals" if star else "95 % bands")
    protocols = dict.fromkeys(row.protocol for row in rows if row.protocol)
    if protocols:
        parts.append(f"protocol {'; '.join(protocols)}")
    if trained:
        parts.append(f"trained at {trained:,} tokens{_mark(rows, trained, star=star)}")
    failed = [row for row in rows if row.failed]
    if failed:
        parts.append(f"{len(failed)} failed ({textwrap.shorten(str(failed[0].failed), 60)})")
    return ", ".join(parts)


def _mark(rows: Sequence[TableRow], trained: int, *, star: bool) -> str:
    """How the trained length is marked, empty if it is not: in text by a star at exactly that length, in a figure by a
    dashed line anywhere between the shortest and the longest length."""
    lengths = [row.seq_len for row in rows]
    if star:
        return " (*)" if trained in lengths else ""
    return " (dashed)" if min(lengths) <= trained <= max(lengths) else ""


def _draw_lengths(axes: Axes, one: Curves, methods: Sequence[str], trained: int | None) -> None:
    shown = one.only(methods)
    for method, rows in shown.methods.items():
        style = style_of(methods.index(method), len(methods))
        for known, part in groupby(rows, key=lambda row: row.mean is not None and math.isfinite(row.mean)):
            members = list(part)
            if not known:
                axes.plot(
                    [row.seq_len for row in members], [0.03] * len(members), transform=axes.get_xaxis_transform(),
                    color=style["color"], marker="x", linestyle="", zorder=5,
                )  # fmt: skip
                continue
            lengths, means = zip(*((row.seq_len, row.mean or 0.0) for row in members), strict=True)
            axes.plot(lengths, means, label=method, linewidth=1.6, **style)
            banded = own_band([row for row in members if row.low is not None and row.high is not None], shown.methods)
            low, high = ([getattr(row, end) for row in banded] for end in ("low", "high"))
            ends = [row.seq_len for row in banded]
            many = len(methods) > FILLED
            axes.fill_between(ends, low, high, color=style["color"], alpha=0.04 if many else 0.12, linewidth=0)
            if len(banded) == 1:  # a band without width
                axes.plot([ends[0]] * 2, [low[0], high[0]], color=style["color"], linewidth=2.2, alpha=0.55, zorder=1.5)
            for edge in (low, high) if many else ():
                axes.plot(ends, edge, color=style["color"], linewidth=0.6, alpha=0.6, linestyle=style["linestyle"])
    values = _finite(value for row in one.rows for value in (row.mean, row.low, row.high))
    if top := full_score(one.metric, values):
        axes.set_ylim(-0.03 * top, 1.03 * top)
    finish(axes, sorted({row.seq_len for row in one.rows}), values, one.metric, trained)
    title = "\n".join(textwrap.wrap(one.task, TITLE_WIDTH))
    axes.set(title=title, xlabel="length in tokens", ylabel=_words(one.metric))
    axes.title.set_fontsize(9.5)


def _draw_positions(axes: Axes, one: Curves, methods: Sequence[str], trained: int | None) -> None:
    ticks: set[int] = set()
    for method, all_buckets in one.only(methods).positions.items():
        buckets = [bucket for bucket in all_buckets if bucket[0] >= FIRST_POSITION] or all_buckets
        middle = [math.sqrt(first * (last + 1)) for first, last, _ in buckets]
        ticks.update(first for first, _, _ in buckets)
        style = style_of(methods.index(method), len(methods))
        axes.plot(middle, [nats for *_, nats in buckets], label=method, linewidth=1.6, **style)
    finish(axes, sorted(ticks), [], "nll", trained)
    axes.set(
        title=f"by position in the text, at {one.longest:,} tokens",
        xlabel="tokens before the token",
        ylabel="nats per token",
    )
    axes.title.set_fontsize(9.5)


def finish(axes: Axes, ticks: list[int], values: list[float], metric: str, trained: int | None) -> None:
    """Finish a panel: a logarithmic axis of lengths, labels, a grid, and the trained length."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log", base=2)
    every = -(-len(ticks) // 9)
    shown = ticks[::-1][::every][::-1]
    axes.set_xticks(shown, [length_label(tick) for tick in shown])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    if _logarithmic(values, metric):
        axes.set_yscale("log")
        decades = math.log10(max(values) / min(values))
        subs = (1, 1.5, 2, 3, 5, 7) if decades < 1.5 else (1, 2, 5) if decades < 3 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.4g}" if value < 1e5 else f"{value:.0e}")
        )
    axes.tick_params(labelsize=8.5)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if trained and ticks[0] <= trained <= ticks[-1]:
        axes.axvline(trained, color=TRAINED_COLOR, linewidth=1.4, linestyle=(0, (3, 1.2)), zorder=1)


def own_band(rows: Sequence[TableRow], methods: Container[str]) -> list[TableRow]:
    """The rows of a curve, ascending, between which its band is drawn: where it equals another of the drawn `methods`,
    only that one has the band, since many on top of each other would hide what is below."""
    own = [place for place, row in enumerate(rows) if row.equals not in methods]
    return list(rows[max(0, own[0] - 1) : own[-1] + 2]) if own else []


def style_of(index: int, count: int) -> dict[str, Any]:
    """The style of method `index` of `count`: where points coincide, earlier methods show as rings."""
    return {
        "markersize": 4 + 5 * (count - 1 - index) / max(count - 1, 3),
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[(index + index // (len(COLORS) * len(DASHES))) % len(MARKERS)],
        "linestyle": DASHES[index // len(COLORS) % len(DASHES)],
    }


def _logarithmic(values: Sequence[float], metric: str) -> bool:
    return metric in LOWER_IS_BETTER and bool(values) and min(values) > 0 and max(values) / min(values) > LOG_FROM


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _words(metric: str) -> str:
    return metric.replace("_", " ")
