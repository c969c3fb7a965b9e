"""Bootstrap over the samples of fixed cells: how far the mean of a cell could have come out elsewhere.

A benchmark's cells (its tasks, lengths and depths) are chosen, its samples are drawn: so samples are resampled within
cells, and whatever is computed from the cells' means is computed again from each resample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 1_000
TAIL = 0.025  # on either side of a 95 % interval


def deviations(shares: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
    """By how much the mean of n scores from 0 to 1 differs from what it is, in RESAMPLES resamples.

    n - 1 scores are drawn with replacement, so that the variance is that of the mean and not (n - 1) / n of it (Rao and
    Wu 1988, https://doi.org/10.1080/01621459.1988.10478591). Of scores that are all right or wrong, or all equal, too
    few tell how they spread: the draws are then right or wrong, with half a right and half a wrong score added to those
    there are (Jeffreys's prior; Brown, Cai and DasGupta 2001, https://doi.org/10.1214/ss/1009213286), since 5 right
    answers of 5 are no certainty. Deviations are from the mean of what is drawn from, so that they add no bias where
    many cells are averaged.

    Raises: ValueError without scores.
    """
    import numpy as np

    if not shares:
        raise ValueError("a cell without scores has no deviations")
    count, kinds = len(shares), set(shares)
    draws = max(count - 1, 1)
    if kinds <= {0.0, 1.0} or len(kinds) == 1:
        right = min(max((sum(shares) + 0.5) / (count + 1), 0.0), 1.0)
        return rng.binomial(draws, right, RESAMPLES) / draws - right
    values = np.asarray(shares, dtype=np.float64)
    drawn = values.take(rng.integers(count, size=(RESAMPLES, draws), dtype=np.uint32))
    return np.asarray(drawn.mean(axis=1) - values.mean())


def percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of resampled values: two of them, so that values of a few kinds stay of these kinds."""
    import numpy as np

    first = math.floor(TAIL * len(values))
    low, high = np.partition(values, (first, len(values) - 1 - first))[[first, -1 - first]].tolist()
    return low, high
