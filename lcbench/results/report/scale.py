"""The full score of a metric."""

from __future__ import annotations

from collections.abc import Iterable

from lcbench.results.compare.cells import LOWER_IS_BETTER, TOP


def full_score(metric: str, values: Iterable[float]) -> float | None:
    """The highest score of a metric whose lowest is 0; for unknown metrics 1, if all values are within 0 and 1.

    None if there is no highest score, as for perplexity.
    """
    top = TOP.get(metric, 1.0)
    return top if metric not in LOWER_IS_BETTER and all(0 <= value <= top for value in values) else None
