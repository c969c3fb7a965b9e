"""Non-inferiority against the maximum likelihood by search, and how often it is claimed where it does not hold."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from lcbench.core.noninferiority import paired_means, paired_shares


def by_search(gained: int, lost: int, trials: int, difference: float) -> float:
    """Tango's statistic with the nuisance share found on a grid."""
    shares = np.linspace(max(0.0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9, 200_001)
    with np.errstate(all="ignore"):
        likelihood = gained * np.log(shares + difference) + lost * np.log(shares)
        likelihood += (trials - gained - lost) * np.log(np.maximum(1 - 2 * shares - difference, 1e-300))
    share = float(shares[np.nanargmax(likelihood)])
    return (gained - lost - trials * difference) / math.sqrt(trials * (2 * share + difference * (1 - difference)))


@pytest.mark.parametrize(("gained", "lost", "trials", "margin"), [(3, 9, 44, 0.1), (5, 2, 30, 0.2), (1, 4, 50, 0.1)])
def test_shares_by_maximum_likelihood(gained: int, lost: int, trials: int, margin: float) -> None:
    found = paired_shares(gained, lost, trials, margin, 0.05)
    assert found.lower == pytest.approx(NormalDist().cdf(-by_search(gained, lost, trials, -margin)), abs=1e-5)
    assert found.upper == pytest.approx(NormalDist().cdf(-by_search(lost, gained, trials, -margin)), abs=1e-5)
    assert found.bound is not None
    assert by_search(gained, lost, trials, found.bound) == pytest.approx(NormalDist().inv_cdf(0.95), abs=1e-3)


def test_pairs_that_all_agree_are_no_certainty() -> None:
    assert paired_shares(0, 0, 20, 0.05, 0.05).lower > 0.1 > 0.01 > paired_shares(0, 0, 200, 0.05, 0.05).lower
    few, many = (paired_means([0.0] * n, 0.05, 0.05, 0, 1e-3, 1.0) for n in (20, 200))
    assert few.lower == pytest.approx(0.95**20) and many.lower == pytest.approx(0.95**200) and few.bound is None
    assert paired_means([0.0] * 200, 0.05, 0.05, 0, 1e-3, None).lower == 1.0  # scores without a full one
    assert paired_means([-0.04] * 4, 0.05, 0.05, 0, 1e-3, 1.0).lower == 2**-4
    assert paired_means([-0.06] * 4, 0.05, 0.05, 0, 1e-3, 1.0).lower == 1.0


def test_it_is_seldom_claimed_where_it_does_not_hold() -> None:
    """At the very margin 5 in 100 claims are allowed; far within it, it is found."""
    rng = np.random.default_rng(0)
    false = graded = found = 0
    for seed in range(120):
        gained, lost, _ = rng.multinomial(100, [0.05, 0.15, 0.8])
        false += paired_shares(int(gained), int(lost), 100, 0.1, 0.05).lower <= 0.05
        differences = rng.normal(-0.02, 0.1, 60)
        graded += paired_means(differences.tolist(), 0.02, 0.05, seed, 1e-3, 1.0).lower <= 0.05
        found += paired_means((differences + 0.07).tolist(), 0.02, 0.05, seed, 1e-3, 1.0).lower <= 0.05
    assert false <= 13 and graded <= 14 and found >= 114
    with pytest.raises(ValueError, match="needs differences"):
        paired_means([], 0.1, 0.05, 0, 1e-3, 1.0)
