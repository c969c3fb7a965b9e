"""How far up a score can go."""

from __future__ import annotations

from collections.abc import Iterable

from lcbench.results.compare.cells import LOWER_IS_BETTER, TOP


def full_score(metric: str, values: Iterable[float]) -> float | None:
    """The highest score of a metric whose lowest is 0; of metrics that lcbench does not know 1, if their values fit.

    None where no score is the highest, as for a perplexity.
    """
    top = TOP.get(metric, 1.0)
    return top if metric not in LOWER_IS_BETTER and all(0 <= value <= top for value in values) else None
