"""Confidence intervals of scores, and significance tests of the difference between two runs.

Each is a few lines; scipy, 100 MB for two functions, is not a dependency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
RESAMPLES = 2_000  # at least, for the interval
ENOUGH = 100  # resamples beyond the observed effect after which its p-value is settled
BATCH = 1 << 20  # values per draw


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion; honest for few trials and at 0 and 1, where the usual one has no width.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials are not a proportion")
    share, z2 = successes / trials, Z_95**2 / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = Z_95 / (1 + z2) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)  # at the ends exactly, whatever rounding says
    return low, 1.0 if successes == trials else min(1.0, centre + half)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value of "as many samples became right as became wrong", from the discordant pairs.

    Samples whose result is the same in both runs do not enter. McNemar 1947, https://doi.org/10.1007/BF02295996, with
    the binomial distribution in place of chi-squared.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained and {lost} lost samples cannot be")
    turned, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(turned, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**turned))  # of integers: exact for any count


def paired_interval(both: int, gained: int, lost: int, neither: int) -> tuple[float, float]:
    """95 % interval of the difference of two proportions on the same samples, (gained - lost) / all of them.

    `both` samples are right before and after, `neither` wrong. Newcombe 1998, method 10: Wilson's intervals of the two
    shares, put together with their correlation;
    https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C.
    """
    trials = both + gained + lost + neither
    before, after = both + lost, both + gained
    low_before, high_before = wilson_interval(before, trials)
    low_after, high_after = wilson_interval(after, trials)
    share_before, share_after = before / trials, after / trials
    product: float = both * neither - gained * lost
    if product > 0:
        product = max(0, product - trials / 2)
    margins = before * after * (trials - before) * (trials - after)
    correlation = product / math.sqrt(margins) if margins else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    difference = (gained - lost) / trials
    return (
        max(-1.0, difference - reach(share_after - low_after, high_before - share_before)),
        min(1.0, difference + reach(high_after - share_after, share_before - low_before)),
    )


def paired_bootstrap(
    differences: Sequence[float], seed: int, smallest_p: float = 1e-4
) -> tuple[float, float | None, float | None]:
    """p-value of "the mean difference is 0", and the 95 % interval of the mean, for any paired real numbers.

    Studentised, as the plain percentile bootstrap is too sure for few samples: resamples of the differences give
    t* = (mean* - mean) / se*, and p is the share of them with |t*| >= |mean / se|; the interval is mean +- se times
    the 95 % quantile of |t*|. Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 12.5 and 16.4.
    Two guards beyond the book: a resample without spread counts as extreme (and where more than 5 % of them are, as
    where no sample differs, the interval is unknown: None); and m samples that differ at all never give a p below
    2^(1-m), which is what the sign test gives if all of them go one way. Drawing ends when the p-value is settled
    (Besag and Clifford 1991, https://doi.org/10.1093/biomet/78.2.301) or could show `smallest_p`. The same seed gives
    the same answer.

    Raises: ValueError without differences, or where one is not finite.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("a bootstrap needs finite differences")
    mean, error = float(values.mean()), float(standard_error(values))
    differing = int(np.count_nonzero(values))
    if not differing:
        return 1.0, None, None
    floor = 2.0 ** (1 - differing)
    if error <= 1e-12 * abs(mean):  # all samples differ by the same
        return floor, None, None
    rng = np.random.default_rng(seed)
    most = max(RESAMPLES, math.ceil(2 / smallest_p))
    observed, beyond, drawn, kept = abs(mean) / error, 0, 0, []
    while drawn < RESAMPLES or (beyond < ENOUGH and drawn < most):
        count = min(most - drawn, max(1, BATCH // values.size), RESAMPLES)
        resampled = values[rng.integers(values.size, size=(count, values.size))]
        errors = standard_error(resampled)
        flat = errors <= 1e-12 * abs(mean)
        t = np.where(flat, np.inf, np.abs(resampled.mean(axis=1) - mean) / np.where(flat, 1.0, errors))
        beyond += int(np.count_nonzero(t >= observed * (1 - 1e-12)))
        drawn += count
        kept.append(t)
    quantile = float(np.quantile(np.concatenate(kept), 0.95, method="higher"))
    p = max(floor, (beyond + 1) / (drawn + 1))
    if not math.isfinite(quantile):
        return p, None, None
    return p, mean - quantile * error, mean + quantile * error


def mean_interval(values: Sequence[float], seed: int) -> tuple[float | None, float | None]:
    """95 % interval of the mean of any real numbers, by the bootstrap of `paired_bootstrap`; None and None if too
    few values differ. Raises: ValueError without values, or where one is not finite."""
    _, low, high = paired_bootstrap(values, seed, smallest_p=2 / RESAMPLES)
    return low, high


def ratio_interval(totals: Sequence[float], sizes: Sequence[float], seed: int) -> tuple[float | None, float | None]:
    """95 % interval of sum(totals) / sum(sizes), where each total and its size belong to one cluster, such as a book:
    values within a cluster are correlated, so that clusters are resampled, however many values each has.

    Linearised: of R = sum(totals) / sum(sizes) the mean of R + (total - R size) / mean(size), whose standard error is
    that of the ratio estimator (Cochran, Sampling Techniques (1977), chapter 6), studentised as in `mean_interval`.
    None and None for one cluster. Raises: ValueError if all sizes are 0, or a number is not finite.
    """
    size = sum(sizes) / len(sizes) if sizes else 0.0
    if not size > 0:
        raise ValueError(f"clusters of sizes {list(sizes)} have no ratio")
    ratio = sum(totals) / sum(sizes)
    return mean_interval([ratio + (t - ratio * n) / size for t, n in zip(totals, sizes, strict=True)], seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many there are: calling those at or under alpha keeps the chance of any false call
    at or under alpha, however the tests depend on each other.

    Holm 1979, https://www.jstor.org/stable/4615733.
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def standard_error(values: Any) -> Any:
    """Standard error of the mean over the last axis; 0 for a single value."""
    count = values.shape[-1]
    return values.std(axis=-1, ddof=1) / math.sqrt(count) if count > 1 else values[..., 0] * 0.0
