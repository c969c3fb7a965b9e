"""Is a paired difference surely above a margin? One-sided tests of "not worse by as much", for scores of both kinds.

Both ways together (not lower by the margin and not higher by it) they are the two one-sided tests of equivalence, whose
p-value is the larger of the two: Schuirmann 1987, https://doi.org/10.1007/BF01068419.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from lcbench.core.stats import BATCH, RESAMPLES, standard_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEPS = 60  # of the bisection for a bound
NORMAL = NormalDist()


@dataclass(frozen=True)
class Margins:
    """p-values of "the difference is -margin or less" and of "it is margin or more", and the lowest difference that is
    not rejected at the level asked for: a one-sided bound, None where too few samples tell how they spread."""

    lower: float
    upper: float
    bound: float | None


def paired_shares(gained: int, lost: int, trials: int, margin: float, alpha: float) -> Margins:
    """The score test of two shares on the same samples, of which `gained` turned right and `lost` wrong.

    Tango 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B: the variance is that
    under the null, so that pairs which all agree do not make certainty.
    """
    wanted, low, high = NORMAL.inv_cdf(1 - alpha), -1.0, (gained - lost) / trials
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _tango(gained, lost, trials, middle) > wanted else (low, middle)
    return Margins(
        NORMAL.cdf(-_tango(gained, lost, trials, -margin)), NORMAL.cdf(-_tango(lost, gained, trials, -margin)), low
    )


def _tango(gained: int, lost: int, trials: int, difference: float) -> float:
    """How many standard errors, under the null of this `difference`, the observed one lies above it."""
    b = (2 * trials - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    share = (math.sqrt(max(b * b - 8 * trials * c, 0.0)) - b) / (4 * trials)  # that turns wrong, by maximum likelihood
    above, variance = gained - lost - trials * difference, trials * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, above) if above else 0.0
    return above / math.sqrt(variance)


def paired_means(
    differences: Sequence[float], margin: float, alpha: float, seed: int, smallest_p: float, full: float | None
) -> Margins:
    """The same of the mean of any paired differences, by the studentised bootstrap of `lcbench.core.stats`, one-sided:
    p is the share of resamples with t* >= (mean + margin) / se.

    Two guards, of which the one that allows more holds: m differences that are not 0 show nothing below 2^-m, and n
    samples nothing below (1 - margin / full)^n, the chance to see none of those that lose the full score where so many
    do that the mean falls by the margin. `full` is None for scores without one.

    Raises: ValueError without differences.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    if not values.size:
        raise ValueError("a test needs differences")
    mean, error = float(values.mean()), float(standard_error(values))
    floor = 2.0 ** -int(np.count_nonzero(values))
    if full is not None:
        floor = min(floor, (1 - min(margin / full, 1.0)) ** values.size)
    if error <= 1e-12 * max(abs(mean), margin):  # no spread to resample
        return Margins(floor if mean > -margin else 1.0, floor if mean < margin else 1.0, None)
    t = _resampled(values, mean, error, seed, max(RESAMPLES, math.ceil(2 / smallest_p)))
    lower, upper = (np.count_nonzero(side >= (margin + towards) / error) for side, towards in ((t, mean), (-t, -mean)))
    quantile = float(np.quantile(t, 1 - alpha, method="higher"))
    return Margins(
        max(floor, (int(lower) + 1) / (t.size + 1)),
        max(floor, (int(upper) + 1) / (t.size + 1)),
        mean - quantile * error if math.isfinite(quantile) else None,
    )


def _resampled(values: NDArray[np.float64], mean: float, error: float, seed: int, count: int) -> NDArray[np.float64]:
    """(mean* - mean) / se* of `count` resamples; one without spread is as extreme as can be, on its side."""
    import numpy as np

    rng, kept, drawn = np.random.default_rng(seed), [], 0
    while drawn < count:
        size = (min(count - drawn, max(1, BATCH // values.size)), values.size)
        resampled = values[rng.integers(values.size, size=size)]
        errors, away = standard_error(resampled), resampled.mean(axis=1) - mean
        flat = errors <= 1e-12 * error
        kept.append(np.where(flat, np.copysign(np.inf, away), away / np.where(flat, 1.0, errors)))
        drawn += size[0]
    return np.concatenate(kept)
