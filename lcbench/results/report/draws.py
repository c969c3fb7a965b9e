"""How much a score varies with the draw of demonstrations, and between several answers to a sample."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from lcbench.results.schema import Record


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of the scores of several draws of demonstrations, or of several repeats,
    where the score of a draw is the mean of its samples. `sd` is None for a single draw."""

    draws: int
    mean: float
    sd: float | None


def spread(records: Iterable[Record]) -> Spread | None:
    """The spread over the records of one (task, method, length); None if no record with a score names its draw."""
    return _spread((record, (record.prompt.details or {}).get("draw")) for record in records)


def spread_of_repeats(records: Iterable[Record]) -> Spread | None:
    """The same over several answers to each sample."""
    known = list(records)
    several = any(record.identity.repeat for record in known)  # the first one may be of a run without
    return _spread((record, record.identity.repeat or 0) for record in known) if several else None


def _spread(drawn: Iterable[tuple[Record, object]]) -> Spread | None:
    scores: dict[int, list[float]] = {}
    for record, draw in drawn:
        if isinstance(draw, int) and record.score is not None:
            scores.setdefault(draw, []).append(record.score)
    if not scores:
        return None
    means = [statistics.fmean(one) for one in scores.values()]
    return Spread(len(means), statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None)
