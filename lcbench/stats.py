"""How sure a number is."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion; honest for few trials and at 0 and 1, where the usual one has no width.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials are no proportion")
    share, z2 = successes / trials, Z_95**2 / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = Z_95 / (1 + z2) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)  # at the ends exactly, whatever rounding says
    return low, 1.0 if successes == trials else min(1.0, centre + half)
