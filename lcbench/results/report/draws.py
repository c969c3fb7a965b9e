"""Several answers to a sample (other draws of demonstrations, or repeated sampling): their number, and how much the
score varies between them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from lcbench.results.schema import Record


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of the scores of several draws of demonstrations, or of several repeats,
    the score of a draw being the mean over its samples. `sd` is None for a single draw."""

    draws: int
    mean: float
    sd: float | None


def counted(counts: Iterable[tuple[int, int]], noun: str, per: str) -> str:
    """The size of scores, from (answers, questions) of each: `20 samples per score`, `8 to 10 samples per score, 5
    answers each`."""
    known = [(answers, questions) for answers, questions in counts if answers]
    asked = sorted({questions for _, questions in known})
    each = {end for answers, questions in known for end in (answers // questions, -(-answers // questions))} or {1}
    several = f", {_range(sorted(each))} answers each" if max(each) > 1 else ""
    return f"{_range(asked) if asked else 'no'} {noun}{'' if asked == [1] else 's'} {per}{several}"


def _range(ascending: list[int]) -> str:
    return f"{ascending[0]}" if len(ascending) == 1 else f"{ascending[0]} to {ascending[-1]}"


def spread(records: Iterable[Record]) -> Spread | None:
    """The spread over the records of one (task, method, length); None if no record with a score names its draw."""
    return _spread((record, (record.prompt.details or {}).get("draw")) for record in records)


def spread_of_repeats(records: Iterable[Record]) -> Spread | None:
    """The spread over several answers to each sample."""
    known = list(records)
    several = any(record.identity.repeat for record in known)  # the first answer may be of a run without repeats
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
