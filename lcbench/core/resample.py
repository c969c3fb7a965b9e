"""Bootstrap over the samples of fixed cells: how far the mean of a cell could have come out elsewhere.

A benchmark's cells (its tasks, lengths and depths) are chosen, its samples are drawn: so samples are resampled within
cells, and whatever is computed from the cells' means is computed again from each resample.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import accumulate

RESAMPLES = 1_000
STEP = 377  # between the places at which cells begin to read the same draws; it has no divisor in common with RESAMPLES
TAIL = 0.025  # on either side of a 95 % interval


class Resampler:
    """Resamples of cells whose means are put together, from a seed.

    n - 1 scores are drawn with replacement, so that the variance is that of the mean and not (n - 1) / n of it (Rao and
    Wu 1988, https://doi.org/10.1080/01621459.1988.10478591). Of scores that are all right or wrong, or all equal, too
    few tell how they spread: the draws are then right or wrong, with half a right and half a wrong score added to those
    there are (Jeffreys's prior; Brown, Cai and DasGupta 2001, https://doi.org/10.1214/ss/1009213286), since 5 right
    answers of 5 do not make certainty. Deviations are from the mean of what is drawn from, so that they add no bias
    where many cells are averaged.

    Right and wrong answers take no numpy, whose import a small table would wait for; cells with as many right
    of as many read one list of draws, each from a place of its own, so that a large one does not wait for draws either.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._random = seed, random.Random(seed)
        self._pools: dict[tuple[int, float], list[float]] = {}
        self._read = 0

    def deviations(self, shares: Sequence[float]) -> list[float]:
        """By how much the mean of n scores from 0 to 1 differs from what it is, in RESAMPLES resamples.

        Raises: ValueError without scores.
        """
        if not shares:
            raise ValueError("a cell without scores has no deviations")
        self._read += 1
        count, kinds = len(shares), set(shares)
        draws = max(count - 1, 1)
        if kinds <= {0.0, 1.0} or len(kinds) == 1:
            return self._of_right_and_wrong(draws, min(max((sum(shares) + 0.5) / (count + 1), 0.0), 1.0))
        import numpy as np

        values = np.asarray(shares, dtype=np.float64)
        rng = np.random.default_rng((self._seed, self._read))
        drawn = values.take(rng.integers(count, size=(RESAMPLES, draws), dtype=np.uint32))
        deviations: list[float] = (drawn.mean(axis=1) - values.mean()).tolist()
        return deviations

    def _of_right_and_wrong(self, draws: int, right: float) -> list[float]:
        """(number of right draws) / draws - right, from a place of its own in a list of such draws."""
        if (draws, right) not in self._pools:
            weights = accumulate(math.exp(_log_binomial(k, draws, right)) for k in range(draws + 1))
            values = [k / draws - right for k in range(draws + 1)]
            self._pools[draws, right] = self._random.choices(values, cum_weights=list(weights), k=RESAMPLES)
        pool, place = self._pools[draws, right], self._read * STEP % RESAMPLES
        return pool[place:] + pool[:place]


def _log_binomial(successes: int, trials: int, chance: float) -> float:
    ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    return ways + successes * math.log(chance) + (trials - successes) * math.log1p(-chance)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of resampled values: two of them, so that values of a few kinds stay of these kinds."""
    ordered = sorted(values)
    first = math.floor(TAIL * len(ordered))
    return ordered[first], ordered[-1 - first]
