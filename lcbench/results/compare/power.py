"""The statistical power of a comparison with the given pairs: a gate that cannot fail is useless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from lcbench.results.compare.cells import LOWER_IS_BETTER, TOP
from lcbench.results.compare.result import CellResult

DROP = 0.1  # of the full score
EXACT = 200  # pairs up to which the power of McNemar's test is computed exactly
WEAK = 0.2  # a gate with less power is warned about


@dataclass(frozen=True)
class Power:
    """The probability of finding a drop of DROP, over `cells` cells with `pairs` (fewest, most) pairs.

    `low` is that of the weakest cell if it alone drops (the strictest step of Holm's correction), `high` that of the
    strongest if all others drop, too.
    """

    cells: int
    pairs: tuple[int, int]
    low: float
    high: float

    def __str__(self) -> str:
        fewest, most = self.pairs
        pairs = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        low, high = round(100 * self.low), round(100 * self.high)
        found = f"{low}" if low == high else f"{low} to {high}"
        cells = "1 cell" if self.cells == 1 else f"{self.cells} cells"
        return (
            f"{cells} of {pairs} pair{'' if pairs == '1' else 's'}: a drop of {100 * DROP:.0f} points is found in "
            + (f"about {found} of 100 cases.")
        )

    @property
    def weak(self) -> bool:
        return self.high < WEAK


def power(cells: Sequence[CellResult], alpha: float) -> Power | None:
    """The power over the cells whose metric has a full score; None without any."""
    tested = [cell for cell in cells if cell.effect and cell.metric not in LOWER_IS_BETTER]
    if not tested:
        return None
    count = sum(cell.effect is not None for cell in cells)
    pairs = [cell.pairs for cell in tested]
    alone, together = ([_found(cell, level) for cell in tested] for level in (alpha / count, alpha))
    return Power(len(tested), (min(pairs), max(pairs)), min(alone), max(together))


def _found(cell: CellResult, alpha: float) -> float:
    assert cell.effect is not None
    if cell.effect.test == "McNemar":
        return mcnemar_power(cell.pairs, DROP, cell.effect.noise, alpha)
    # If a tenth of the samples lose their whole score, the drop itself adds variance.
    drop = DROP * TOP.get(cell.metric, 1.0)
    spread = math.hypot(cell.effect.noise, 3 * drop)
    quantile = NormalDist().inv_cdf(1 - alpha / 2)
    return (
        NormalDist().cdf(drop * math.sqrt(cell.pairs) / spread - quantile) if 2.0 ** (1 - cell.pairs) <= alpha else 0.0
    )


def mcnemar_power(pairs: int, drop: float, churn: float, alpha: float) -> float:
    """The power of McNemar's exact test at `alpha` if a share `drop` + `churn` of the pairs turns wrong and a share
    `churn` right; by a normal approximation for more than EXACT pairs."""
    churn = min(churn, (1 - drop) / 2)
    turning = drop + 2 * churn
    worse = (drop + churn) / turning
    if pairs > EXACT:
        quantile = NormalDist().inv_cdf(1 - alpha / 2)
        spread = math.sqrt(max(turning - drop**2, 1e-12))
        return NormalDist().cdf((drop * math.sqrt(pairs) - quantile * math.sqrt(turning)) / spread)
    found = 0.0
    for turned in range(1, pairs + 1):
        tail, fewest = 0, turned + 1  # fewest: from this many pairs turned wrong on, the test rejects
        while fewest > 0 and 2 * (tail + math.comb(turned, fewest - 1)) <= alpha * 2**turned:
            fewest -= 1
            tail += math.comb(turned, fewest)
        found += _binomial(pairs, turned, turning) * sum(_binomial(turned, k, worse) for k in range(fewest, turned + 1))
    return found


def _binomial(trials: int, successes: int, share: float) -> float:
    return math.comb(trials, successes) * share**successes * (1 - share) ** (trials - successes)
