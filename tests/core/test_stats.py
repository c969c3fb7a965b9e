"""Intervals against published values and against the equation that defines them."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcbench.core.stats import (
    Z_95,
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    paired_interval,
    ratio_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("trials", [1, 4, 20, 1000])
def test_all_wrong_and_all_right_in_closed_form(trials: int) -> None:
    reach = Z_95**2 / (trials + Z_95**2)
    assert wilson_interval(0, trials) == pytest.approx((0.0, reach))
    assert wilson_interval(trials, trials) == pytest.approx((1 - reach, 1.0))


def test_z_is_the_quantile() -> None:
    assert math.erf(Z_95 / math.sqrt(2)) == pytest.approx(0.95, abs=1e-12)


@given(trials=st.integers(1, 500), data=st.data())
def test_ends_are_where_the_score_test_turns(trials: int, data: st.DataObject) -> None:
    """An end p of the interval is a share at which the observed one is exactly z standard errors away."""
    successes = data.draw(st.integers(0, trials))
    share = successes / trials
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(Z_95 * math.sqrt(end * (1 - end) / trials), rel=1e-6, abs=1e-9)
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_more_trials_are_surer() -> None:
    widths = [high - low for low, high in (wilson_interval(trials / 2, trials) for trials in (2, 10, 50, 250))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (0, 0), (3, 2), (-1, 2), (math.nan, 2)])
def test_no_proportion(successes: float, trials: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(successes, trials)


# Two runs on the same samples


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 6, 2 / 64),
        (7, 1, 0.0703125),  # Fagerland et al. 2014, https://doi.org/10.1002/sim.6148: airway hyper-responsiveness
        (5, 5, 1.0),
        (0, 2000, 2.0**-1999 if 2.0**-1999 else 0.0),
    ],
)
def test_mcnemar(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p, abs=1e-12)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((1, 7, 1, 12), 0.026, 0.507),  # Fagerland et al. 2014
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, the paper of method 10
    ],
)
def test_published_paired_intervals(table: tuple[int, int, int, int], low: float, high: float) -> None:
    assert paired_interval(*table) == pytest.approx((low, high), abs=5e-4)


@given(counts=st.tuples(*[st.integers(0, 60)] * 4).filter(any))
def test_paired_interval_holds_the_difference_and_turns_with_it(counts: tuple[int, int, int, int]) -> None:
    both, gained, lost, neither = counts
    low, high = paired_interval(both, gained, lost, neither)
    assert -1 <= low <= (gained - lost) / sum(counts) + 1e-12 and (gained - lost) / sum(counts) - 1e-12 <= high <= 1
    assert paired_interval(both, lost, gained, neither) == pytest.approx((-high, -low))


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Wikipedia's worked example
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


def test_bootstrap_agrees_with_the_t_test_where_that_is_right() -> None:
    """For normal differences: p and interval of Student's t-test, from its tables (19 degrees of freedom)."""
    standard = [NormalDist().inv_cdf((k + 0.5) / 20) for k in range(20)]
    spread = math.sqrt(sum(x * x for x in standard) / 19 / 20)
    p, low, high = paired_bootstrap([x + 2.093 * spread for x in standard], seed=0)
    assert p == pytest.approx(0.05, abs=0.02)
    assert low is not None and high is not None
    assert (low, high) == pytest.approx((0, 2 * 2.093 * spread), abs=0.3 * spread)


def test_bootstrap_is_repeatable_and_symmetric() -> None:
    differences = [0.1, -0.2, 0.3, 0.0, 0.05, 0.4, -0.1, 0.25]
    first = paired_bootstrap(differences, seed=3)
    assert first == paired_bootstrap(differences, seed=3) != paired_bootstrap(differences, seed=4)
    p, low, high = paired_bootstrap([-each for each in differences], seed=3)
    assert first[1] is not None and first[2] is not None
    assert (p, low, high) == pytest.approx((first[0], -first[2], -first[1]))


def test_bootstrap_of_nothing_of_little_and_of_the_same() -> None:
    assert paired_bootstrap([0.0] * 9, seed=0) == (1.0, None, None)
    assert paired_bootstrap([-0.5], seed=0) == (1.0, None, None)
    assert paired_bootstrap([-0.1] * 20, seed=0) == (2.0**-19, None, None)
    p, low, high = paired_bootstrap([-0.1] * 2 + [0.0] * 18, seed=0)  # two samples prove nothing, however they differ
    assert p >= 0.5 and low is None and high is None
    for bad in ([], [0.1, math.nan], [math.inf]):
        with pytest.raises(ValueError, match="finite differences"):
            paired_bootstrap(bad, seed=0)


def test_bootstrap_finds_small_p_values_only_where_they_are_asked_for() -> None:
    clear = [1 + 0.01 * k for k in range(30)]
    coarse, fine = (paired_bootstrap(clear, seed=0, smallest_p=smallest)[0] for smallest in (1e-3, 1e-5))
    assert 1e-5 < coarse < 1e-3 and fine < 1e-5


def test_bootstrap_keeps_its_level_for_few_and_for_skewed_samples() -> None:
    """Under no true difference a p of 0.05 or less comes up at most 5 times in 100, within sampling error (3 sigma)."""
    import numpy as np

    rng, trials = np.random.default_rng(0), 250
    for draw in (
        lambda: rng.normal(size=8),
        lambda: rng.choice([0.0, 0.0, 0.0, -1.0, 1.0], size=20) * rng.random(20),
        lambda: rng.exponential(size=30) - rng.exponential(size=30),
    ):
        alarms = sum(paired_bootstrap(draw(), seed=trial)[0] <= 0.05 for trial in range(trials))
        assert alarms <= trials * 0.05 + 3 * math.sqrt(trials * 0.05 * 0.95)


# Means and ratios


def test_mean_interval_is_that_of_the_bootstrap() -> None:
    values = [12.0, 40.5, 33.0, 18.0, 90.0, 55.0, 41.0, 60.0]
    _, low, high = paired_bootstrap(values, seed=5, smallest_p=1e-3)
    assert mean_interval(values, seed=5) == (low, high)
    assert mean_interval([50.0], seed=0) == (None, None)


def test_ratio_interval_of_equal_sizes_is_that_of_the_mean() -> None:
    values = [2.0, 2.5, 3.0, 2.2, 2.9, 3.3]
    assert ratio_interval([7 * each for each in values], [7] * 6, 1) == pytest.approx(mean_interval(values, 1))


def test_ratio_interval_of_little() -> None:
    assert ratio_interval([3.0], [4], seed=0) == (None, None)  # one book says nothing of others
    with pytest.raises(ValueError, match="no ratio"):
        ratio_interval([], [], seed=0)
    with pytest.raises(ValueError, match="no ratio"):
        ratio_interval([1.0], [0], seed=0)


def test_ratio_interval_covers_what_books_of_all_lengths_share() -> None:
    """12 books of 500 to 20,000 tokens, longer ones harder: 95 of 100 intervals hold the true nats per token (3 sigma),
    where one that takes tokens for independent would hold it far too rarely."""
    import numpy as np

    rng, trials = np.random.default_rng(0), 300
    lengths = np.arange(500, 20_001)
    truth = float((3 * lengths + 2e-5 * lengths**2).sum() / lengths.sum())
    held = 0
    for trial in range(trials):
        tokens = rng.choice(lengths, size=12)
        nats = tokens * (3 + 2e-5 * tokens + 0.3 * rng.normal(size=12))
        low, high = ratio_interval(nats.tolist(), tokens.tolist(), trial)
        assert low is not None and high is not None
        held += low <= truth <= high
    assert abs(held / trials - 0.95) <= 3 * math.sqrt(0.95 * 0.05 / trials)
