"""The difference of methods to a base, paired by sample: it can be clear where the curves of the scores overlap.

lcbench plot pg19 --difference vanilla

The pairs, the difference and its 95 % interval are those of `lcbench compare`; intervals hold one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from lcbench.core.errors import UserError, unknown
from lcbench.core.stats import RESAMPLES
from lcbench.results.compare.cells import LOWER_IS_BETTER, paired_effect
from lcbench.results.report.best import by_sample, place_of
from lcbench.results.report.figure import length_label
from lcbench.results.report.runs import Run
from lcbench.results.schema import Record

SMALLEST_P = 2 / RESAMPLES  # no p-value is shown, and an interval needs fewer resamples


@dataclass(frozen=True)
class Point:
    """The mean of method - base over `pairs` samples, each counted once, however often it was answered. The ends of its
    95 % interval are None if too few samples differ to estimate them; they equal the mean if both methods share one
    computation (`same`)."""

    seq_len: int
    value: float
    low: float | None
    high: float | None
    pairs: int
    same: bool = False


@dataclass(frozen=True)
class Differences:
    """The differences in one task: the points of each method but the base, by ascending length. `unpaired` names, by
    method, the lengths without samples in common with the base."""

    task: str
    base: str
    metric: str
    methods: dict[str, list[Point]]
    unpaired: dict[str, list[int]]

    @property
    def points(self) -> list[Point]:
        return [point for points in self.methods.values() for point in points]

    @property
    def words(self) -> str:
        """The unit of the difference, and which direction is better."""
        what = "nats per token" if self.metric == "nll" else self.metric.replace("_", " ")
        return f"{what}, {'below 0 is better' if self.metric in LOWER_IS_BETTER else 'above 0 is better'}"


def differences(run: Run, task: str, base: str) -> list[Differences]:
    """The differences in a task and in every variant of it that the base ran, in the order in which they first occur.

    Raises: UserError for a run without this task, without this base, or with nothing to pair with it.
    """
    tasks: dict[str, dict[str, dict[int, list[Record]]]] = {}
    for record in run.records:
        one = record.identity
        if task in (one.task, one.task.partition(":")[0]):
            methods = tasks.setdefault(one.task, {})
            methods.setdefault(one.method, {}).setdefault(one.seq_len, []).append(record)
    if not tasks:
        raise unknown("task of this run", task, {record.identity.task for record in run.records})
    known = {name: methods for name, methods in tasks.items() if base in methods}
    if not known:
        raise unknown("method to differ from", base, {method for methods in tasks.values() for method in methods})
    found = [each for name, methods in known.items() if (each := between(name, methods, base)).points]
    if not found:
        raise UserError(
            f"no other method has samples in common with {base} in {task}; run another method with the same seed."
        )
    return found


def between(task: str, methods: Mapping[str, Mapping[int, Sequence[Record]]], base: str) -> Differences:
    """The differences in one task; `methods` are its records by method and length, the base among them."""
    found: dict[str, list[Point]] = {}
    unpaired: dict[str, list[int]] = {}
    for method, lengths in methods.items():
        if method == base:
            continue
        for length, records in sorted(lengths.items()):
            point = _point(task, f"{base} {method}", length, methods[base].get(length, []), records)
            if point is None:
                unpaired.setdefault(method, []).append(length)
            else:
                found.setdefault(method, []).append(point)
    metrics = (r.measured.scores.metric for each in methods[base].values() for r in each if r.result)
    return Differences(task, base, next(metrics, "score"), found, unpaired)


def _point(task: str, name: str, length: int, base: Sequence[Record], new: Sequence[Record]) -> Point | None:
    one, other = by_sample(base), by_sample(new)
    effect = paired_effect((task, name, length), one, other, SMALLEST_P)
    if effect is None:
        return None
    scored = [record for record in base if record.failure is None]
    answered = {key for key, record in other.items() if record.failure is None}
    pairs = len({record.question for record in scored if place_of(record) in answered})
    sides = [{record.equals or record.identity.method for record in side} for side in (base, new)]
    same = effect.identical and sides[0] == sides[1] and len(sides[0]) == 1
    low, high = (0.0, 0.0) if same else (effect.low, effect.high)
    return Point(length, effect.difference, low, high, pairs, same)


def print_differences(console: Console, found: Iterable[Differences], trained: int | None) -> None:
    """A line for every method and length."""
    found = list(found)
    for one in found:
        console.print(Text(f"{one.task}: difference to {one.base}, {one.words}", style="bold"))
        for method, points in one.methods.items():
            console.print(Text(method), soft_wrap=True)
            for point in points:
                label = length_label(point.seq_len) + ("*" if point.seq_len == trained else " ")
                line = Text.assemble(f"{label:>9} {point.value:+.3f}", (f"  {interval(point)}", "dim"))
                console.print(line, soft_wrap=True)
    console.print(Text(caption(found, trained, star=True), style="dim"))


def interval(point: Point) -> str:
    if point.same:
        return "the same computation"
    if point.low is None or point.high is None:
        return "interval unknown"
    return f"{point.low:+.3f} to {point.high:+.3f}"


def caption(found: Sequence[Differences], trained: int | None, *, star: bool = False) -> str:
    """The number of pairs per point, the meaning of the interval, and what could not be paired."""
    points = [point for one in found for point in one.points]
    counts = sorted({point.pairs for point in points}) or [0]
    said = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = [f"{said} pairs per point on the same samples", "95 % intervals, one at a time"]
    lengths = [point.seq_len for point in points]
    if trained and lengths and min(lengths) <= trained <= max(lengths):
        parts.append(f"trained at {trained:,} tokens{' (*)' if star else ' (dashed)'}")
    parts += [
        f"not paired: {method} at {', '.join(f'{length:,}' for length in lengths)} in {one.task}"
        for one in found
        for method, lengths in one.unpaired.items()
    ]
    return "; ".join(parts)
