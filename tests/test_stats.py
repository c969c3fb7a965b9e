"""Intervals against published values and against the equation that defines them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcbench.stats import Z_95, wilson_interval


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
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, trials)
