"""Headline numbers of a method and model, over a whole run and over each benchmark in it.

Every score is a share of the full score. Over the cells of a benchmark (a task at a length):

    mean              the unweighted mean over all cells
    mean by length    the unweighted mean over the tasks at a length
    effective length  the longest length up to which all means by length reach a threshold:
                      RULER's rule (Hsieh et al. 2024, https://arxiv.org/abs/2404.06654; 85.6 % is Llama 2 7B's at 4k)
    every depth       the same for needle grids, where every depth of every task has to reach the threshold
    area              the area under the mean over log2(length), by the trapezoidal rule, lengths scaled to 0 to 1:
                      sum over k of (m_k + m_k+1) / 2 * log2(n_k+1 / n_k) / log2(longest / shortest)

Intervals are 95 % percentile intervals of a bootstrap over the samples within cells (`lcbench.core.resample`), several
answers to a sample being averaged. A method that lacks a cell which another has, has no mean and no area, and its
lengths end before that cell. Perplexities have no full score and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from operator import add, mul
from statistics import fmean

from lcbench.core.resample import Resampler, percentiles
from lcbench.results.compare.cells import LOWER_IS_BETTER, TOP
from lcbench.results.report.summary import TableRow
from lcbench.results.report.text import printable
from lcbench.results.schema import Record

RULER = 0.856  # threshold of the effective length
ROUNDING = 1e-9
SEED = 0
Place = tuple[str, int]  # task and length
Resampled = tuple[float, Sequence[float]]  # a number, and its difference in each resample


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; a published number has none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Reach(Estimate):
    """A length in tokens: 0 if not even the shortest reaches the threshold. `known` is the longest length up to which
    all means are known: if that is reached, a longer one might be, too."""

    known: int = 0


@dataclass(frozen=True)
class Headline:
    """The headline numbers of a method, and of a model and run if these distinguish lines (else empty), as shares of
    the full score. `lacks`: cells without a score that others have. `published`: the source of numbers not measured
    here."""

    method: str
    model: str = ""
    run: str = ""
    by_length: Mapping[int, Estimate] = field(default_factory=dict)
    mean: Estimate | None = None
    effective: Reach | None = None
    every_depth: Reach | None = None
    area: Estimate | None = None
    lacks: tuple[Place, ...] = ()
    published: str = ""


@dataclass(frozen=True)
class Headlines:
    """The headlines of all methods over some tasks; `of` is the benchmark's name, or empty for the whole run. `without`
    are the tasks without a full score."""

    of: str
    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    threshold: float
    lines: tuple[Headline, ...]
    ragged: bool
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cell:
    """A task at a length with its resamples, and, for a needle grid, those of each depth."""

    share: float
    deviations: Sequence[float]
    depths: Mapping[float, Resampled]


Cells = dict[Place, _Cell | None]  # None for a cell that failed
Key = tuple[str, str, str]


def headlines(members: Sequence[tuple[TableRow, Sequence[Record]]], threshold: float = RULER) -> list[Headlines]:
    """The headlines of each benchmark (tasks of one folder or name) and, if there are several, of all tasks; none for a
    single cell. `members` are the rows of a table with their records."""
    names = list(dict.fromkeys(row.task for row, _ in members))
    without = tuple(dict.fromkeys(row.task for row, _ in members if row.mean is not None and not _has_full_score(row)))
    tasks = [name for name in names if name not in without]
    lines: dict[Key, Cells] = {}
    keys = _keys([row for row, _ in members])
    resampler = Resampler(SEED)
    for (row, records), key in zip(members, keys, strict=True):
        if row.task in tasks and (row.mean is not None or row.failed):
            cell = None if row.mean is None else _cell(row, records, resampler)
            lines.setdefault(key, {})[row.task, row.seq_len] = cell
    groups: dict[str, list[str]] = {}
    for name in tasks:
        groups.setdefault(benchmark(name), []).append(name)
    found = [_headlines(of, group, lines, threshold) for of, group in groups.items()]
    if len(groups) > 1:
        found.append(_headlines("", tasks, lines, threshold, without))
    return [one for one in found if one is not None]


def benchmark(task: str) -> str:
    """The benchmark of a task: `ruler` for `ruler/vt:hops=2`, `passkey` for `passkey`."""
    return task.partition(":")[0].partition("/")[0]


def _has_full_score(row: TableRow) -> bool:
    known = row.metric in TOP or 0 <= (row.mean or 0.0) <= 1
    return row.metric not in LOWER_IS_BETTER and known


def _keys(rows: Sequence[TableRow]) -> list[Key]:
    """The line of each row, with model and run if these distinguish lines, as in tables."""
    models = len({row.model for row in rows}) > 1
    runs = len({(row.task, row.method, row.seq_len, row.model) for row in rows}) < len(rows)
    return [(row.method, str(row.model) * models, row.run * runs) for row in rows]


def _cell(row: TableRow, records: Iterable[Record], resampler: Resampler) -> _Cell:
    top = TOP.get(row.metric, 1.0)
    samples: dict[float | None, dict[int | str, list[float]]] = {}
    for record in records:
        if record.score is None:
            continue
        depth, question = record.question
        samples.setdefault(depth, {}).setdefault(question, []).append(record.score / top)
    means = {
        depth: [one[0] if len(one) == 1 else fmean(one) for one in questions.values()]
        for depth, questions in samples.items()
    }
    drawn = {depth: resampler.deviations(shares) for depth, shares in means.items()}
    share, count = (row.mean or 0.0) / top, sum(map(len, means.values()))
    spread = _weighted([(len(shares) / count, drawn[depth]) for depth, shares in means.items()])
    return _Cell(share, spread, {d: (fmean(means[d]), drawn[d]) for d in means if d is not None})


def _weighted(parts: Sequence[tuple[float, Sequence[float]]]) -> Sequence[float]:
    """The weighted sum of lists."""
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    weights = [weight for weight, _ in parts]
    return [sum(map(mul, weights, each)) for each in zip(*(values for _, values in parts))]


def _headlines(
    of: str, tasks: Sequence[str], lines: Mapping[Key, Cells], threshold: float, without: tuple[str, ...] = ()
) -> Headlines | None:
    own = {key: {place: cell for place, cell in cells.items() if place[0] in tasks} for key, cells in lines.items()}
    expected = dict.fromkeys(place for cells in own.values() for place in cells)
    if len(expected) < 2:
        return None
    lengths = sorted({length for _, length in expected})
    at = {length: [place for place in expected if place[1] == length] for length in lengths}
    depths = {place: {d for cells in own.values() if (c := cells.get(place)) for d in c.depths} for place in expected}
    made = [_headline(key, cells, at, depths, threshold) for key, cells in own.items() if any(cells.values())]
    ragged = len({len(places) for places in at.values()}) > 1
    return Headlines(of, tuple(tasks), tuple(lengths), threshold, tuple(made), ragged, without) if made else None


def _headline(
    key: Key, cells: Cells, at: Mapping[int, Sequence[Place]], depths: Mapping[Place, set[float]], threshold: float
) -> Headline:
    known = {place: cell for place, cell in cells.items() if cell is not None}
    lacks = tuple(place for places in at.values() for place in places if place not in known)
    whole = {length: [known[p] for p in places] for length, places in at.items() if known.keys() >= set(places)}
    means = {length: _mean(members) for length, members in whole.items()}
    grids = {length: grid for length, places in at.items() if (grid := [p for p in places if depths[p]])}
    worst = {
        length: _worst([known[p] for p in grid])
        for length, grid in grids.items()
        if all(p in known and depths[p] == known[p].depths.keys() for p in grid)
    }
    method, model, run = map(printable, key)
    return Headline(
        method,
        model,
        run,
        by_length={length: _estimate(*mean) for length, mean in means.items()},
        mean=None if lacks else _over_lengths(means, {n: len(places) / len(known) for n, places in at.items()}),
        effective=_longest(list(at), means, threshold),
        every_depth=_longest(list(grids), worst, threshold),
        area=None if lacks or len(at) < 2 else _over_lengths(means, _area_weights(list(at))),
        lacks=lacks,
    )


def _mean(cells: Sequence[_Cell]) -> Resampled:
    count = len(cells)
    deviations = [sum(each) / count for each in zip(*(cell.deviations for cell in cells))]
    return fmean(cell.share for cell in cells), deviations


def _over_lengths(means: Mapping[int, Resampled], weights: Mapping[int, float]) -> Estimate:
    share = sum(weight * means[length][0] for length, weight in weights.items())
    return _estimate(share, _weighted([(weight, means[length][1]) for length, weight in weights.items()]))


def _worst(cells: Sequence[_Cell]) -> Resampled:
    """The depth with the lowest score."""
    depths = [depth for cell in cells for depth in cell.depths.values()]
    worst = min(share for share, _ in depths)
    drawn = zip(*([share + one for one in deviations] for share, deviations in depths))
    return worst, [min(each) - worst for each in drawn]


def _estimate(share: float, deviations: Sequence[float]) -> Estimate:
    low, high = (min(max(share + end, 0.0), 1.0) for end in percentiles(deviations))
    return Estimate(share, min(low, share), max(high, share))


def _longest(lengths: Sequence[int], means: Mapping[int, Resampled], threshold: float) -> Reach | None:
    """The longest of ascending lengths up to which all means reach the threshold. An unknown mean ends the search; None
    if the shortest length's is unknown."""
    known = list(takewhile(means.__contains__, lengths))
    if not known:
        return None
    shares = [means[length][0] for length in known]
    value = longest(known, shares, threshold)
    drawn = zip(*(means[length][1] for length in known))
    low, high = percentiles([longest(known, map(add, shares, each), threshold) for each in drawn])
    return Reach(value, min(low, value), max(high, value), known[-1])


def longest(lengths: Sequence[int], means: Iterable[float], threshold: float) -> int:
    """The longest of ascending lengths up to which all means reach the threshold; 0 if none."""
    reached = 0
    for length, mean in zip(lengths, means):
        if mean < threshold - ROUNDING:
            break
        reached = length
    return reached


def area(means: Mapping[int, float]) -> float:
    """The area under the means of ascending lengths, over log2(length) scaled to 0 to 1."""
    return sum(weight * means[length] for length, weight in _area_weights(sorted(means)).items())


def _area_weights(lengths: Sequence[int]) -> dict[int, float]:
    span = math.log2(lengths[-1] / lengths[0])
    weights = dict.fromkeys(lengths, 0.0)
    for one, other in pairwise(lengths):
        for end in (one, other):
            weights[end] += math.log2(other / one) / span / 2
    return weights
