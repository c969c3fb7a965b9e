"""Headlines as tables: columns and cells as text, their notes, and rows for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lcbench.results.report.figure import length_label
from lcbench.results.report.headline import Estimate, Headline, Headlines, Reach
from lcbench.results.report.layout import PUBLISHED
from lcbench.results.report.notes import NAMED, published_notes
from lcbench.results.report.summary import TableRow
from lcbench.results.report.text import printable

ALL = "all tasks"


@dataclass(frozen=True)
class Shown:
    """A cell: the value, and the ends of its interval (empty for a published value)."""

    value: str = ""
    low: str = ""
    high: str = ""

    @property
    def bracketed(self) -> str:
        return f"{self.value} [{self.low}, {self.high}]" if self.low else self.value


def title(one: Headlines) -> str:
    """`headline of ruler: share of the full score over 13 tasks at 4k to 128k, 95 % intervals`."""
    first, last = length_label(one.lengths[0]), length_label(one.lengths[-1])
    tasks = f" over {len(one.tasks)} tasks" if len(one.tasks) > 1 else ""
    lengths = f" at {first}" if first == last else f" at {first} to {last}"
    return printable(f"headline of {one.of or ALL}: share of the full score{tasks}{lengths}, 95 % intervals")


def columns(one: Headlines) -> list[str]:
    """The headings of `cells`, which follow the names of method, model and run."""
    depths = any(line.every_depth for line in one.lines)
    return [
        "mean",
        "effective length",
        *(["every depth"] if depths else []),
        *(["area"] if len(one.lengths) > 1 else []),
        *(f"{length:,}" for length in (one.lengths if len(one.tasks) > 1 else ())),
    ]


def cells(one: Headlines, line: Headline) -> list[Shown]:
    """In the order of `columns`."""
    depths = any(each.every_depth for each in one.lines)
    return [
        _share(line.mean),
        _length(line.effective, one.lengths[0]),
        *([_length(line.every_depth, one.lengths[0])] if depths else []),
        *([_share(line.area)] if len(one.lengths) > 1 else []),
        *(_share(line.by_length.get(length)) for length in (one.lengths if len(one.tasks) > 1 else ())),
    ]


def labels(one: Headlines) -> list[str]:
    """The headings of a line's names."""
    named = [("model", any(line.model for line in one.lines)), ("run", any(line.run for line in one.lines))]
    return ["method", *(name for name, there in named if there)]


def names(one: Headlines, line: Headline) -> list[str]:
    """The names of a line, in the order of `labels`."""
    method = f"{line.method}{PUBLISHED}" if line.published else line.method
    values = {"method": method, "model": line.model, "run": line.run}
    return [values[label] for label in labels(one)]


def _share(estimate: Estimate | None) -> Shown:
    if estimate is None:
        return Shown()
    ends = () if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)
    return Shown(f"{estimate.value:.3f}", *(f"{end:.3f}" for end in ends))


def _length(reach: Reach | None, shortest: int) -> Shown:
    if reach is None:
        return Shown()

    def words(length: float) -> str:
        if not length:
            return f"<{length_label(shortest)}"
        return f"{'≥' if length == reach.known else ''}{length_label(int(length))}"

    ends = () if reach.low is None or reach.high is None else (reach.low, reach.high)
    return Shown(words(reach.value), *map(words, ends))


def notes(headlines: Sequence[Headlines]) -> list[str]:
    """The meaning of the columns, lines that lack a cell, tasks left out, and the sources of published lines."""
    if not headlines:
        return []
    threshold = f"{headlines[0].threshold:g}"
    lines = [
        f"effective length: the longest up to which all means over tasks are at least {threshold}; ≥: no longer length "
        "was run."
    ]
    if any("every depth" in columns(one) for one in headlines):
        lines.append(
            f"every depth: the longest length with a mean of at least {threshold} at every depth of every task."
        )
    if any("area" in columns(one) for one in headlines):
        lines.append("area: under the mean over log2 of the length, scaled to 0 to 1 from the shortest to the longest.")
    lacking = {f"{line.method}{_where(line)}": line for one in headlines for line in one.lines if line.lacks}
    lines += [f"no mean of {name}: it lacks {_named(line)}, which others have." for name, line in lacking.items()]
    ragged = [one.of or ALL for one in headlines if one.ragged]
    lines += [f"headline of {', '.join(ragged)}: not all tasks have all lengths."] if ragged else []
    without = dict.fromkeys(task for one in headlines for task in one.without)
    lines += [f"no headline of {', '.join(without)}: it has no full score."] if without else []
    return [printable(line) for line in lines] + published_notes(
        line.published for one in headlines for line in one.lines
    )


def _where(line: Headline) -> str:
    return (f" on {line.model}" if line.model else "") + (f" in {line.run}" if line.run else "")


def _named(line: Headline) -> str:
    shown = ", ".join(f"{task} at {length:,}" for task, length in line.lacks[:NAMED])
    return shown + (f" and {len(line.lacks) - NAMED:,} more" if len(line.lacks) > NAMED else "")


def as_rows(headlines: Iterable[Headlines]) -> list[TableRow]:
    """A row for each number, as a table's rows are: `task` is `headline: ruler`, `metric` says which number it is,
    `protocol` what it is over. `seq_len` is the longest length that went into it, and lengths are values in tokens."""
    return [
        TableRow(
            f"headline: {one.of or ALL}", line.method, length, line.model, line.run, _over(one), metric,
            mean=estimate.value, low=estimate.low, high=estimate.high, published=line.published,
        )
        for one in headlines
        for line in one.lines
        for metric, length, estimate in _numbers(one, line)
        if estimate is not None
    ]  # fmt: skip


def _over(one: Headlines) -> str:
    return f"{len(one.tasks)} task{'' if len(one.tasks) == 1 else 's'}, threshold {one.threshold:g}"


def _numbers(one: Headlines, line: Headline) -> list[tuple[str, int, Estimate | None]]:
    last = one.lengths[-1]
    return [
        ("mean", last, line.mean),
        ("effective_length", last, line.effective),
        ("effective_length_at_every_depth", last, line.every_depth),
        ("area_under_lengths", last, line.area),
        *(("mean_at_length", length, mean) for length, mean in line.by_length.items()),
    ]
