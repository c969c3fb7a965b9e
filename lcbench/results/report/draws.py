"""How much a score depends on which demonstrations were drawn."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from lcbench.results.schema import Record


@dataclass(frozen=True)
class Spread:
    """Over `draws` draws of demonstrations the mean of their scores, each the mean of its samples, and the standard
    deviation (n - 1) of these; None for a single draw."""

    draws: int
    mean: float
    sd: float | None


def spread(records: Iterable[Record]) -> Spread | None:
    """Of the records of one (task, method, length); None where none that succeeded says which draw it is of."""
    scores: dict[int, list[float]] = {}
    for record in records:
        draw = (record.prompt.details or {}).get("draw")
        if isinstance(draw, int) and record.score is not None:
            scores.setdefault(draw, []).append(record.score)
    if not scores:
        return None
    means = [statistics.fmean(one) for one in scores.values()]
    return Spread(len(means), statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None)
