"""The bootstrap over samples: its spread is that of a mean, and a handful of equal answers is not a certainty."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from statistics import correlation, fmean, pstdev, stdev

import pytest

from lcbench.core.resample import RESAMPLES, Resampler, percentiles
from lcbench.core.stats import wilson_interval


def test_the_spread_is_the_standard_error_of_a_mean() -> None:
    rng = random.Random(0)
    values = [rng.uniform(0.2, 0.7) for _ in range(30)]
    drawn = Resampler(0).deviations(values)
    assert len(drawn) == RESAMPLES and fmean(drawn) == pytest.approx(0, abs=0.003)
    assert pstdev(drawn) == pytest.approx(stdev(values) / math.sqrt(30), rel=0.07)
    assert drawn == Resampler(0).deviations(values) != Resampler(1).deviations(values)


@pytest.mark.parametrize(("right", "of"), [(1, 1), (5, 5), (0, 20), (19, 20), (10, 20), (95, 100), (1500, 3000)])
def test_right_and_wrong_answers_spread_much_as_in_wilsons_interval(right: int, of: int) -> None:
    drawn = Resampler(1).deviations([1.0] * right + [0.0] * (of - right))
    low, high = percentiles([min(max(right / of + each, 0.0), 1.0) for each in drawn])
    wanted = wilson_interval(right, of)
    assert 0.5 < (high - low) / (wanted[1] - wanted[0]) < 1.35
    assert fmean(drawn) == pytest.approx(0, abs=0.03)


def test_cells_are_resampled_independently() -> None:
    """Those with as many right of as many, too, which read the same draws from other places."""
    resampler = Resampler(0)
    cells = [resampler.deviations([1.0] * 8 + [0.0] * 8) for _ in range(78)]
    assert max(abs(correlation(one, other)) for one, other in pairwise(cells)) < 0.15
    together = [fmean(each) for each in zip(*cells)]
    assert pstdev(together) == pytest.approx(pstdev(cells[0]) / math.sqrt(78), rel=0.15)
    graded = [resampler.deviations([0.1, 0.5, 0.7, 0.2]) for _ in range(2)]
    assert abs(correlation(*graded)) < 0.15


def test_equal_graded_scores_are_no_certainty_either() -> None:
    assert pstdev(Resampler(0).deviations([0.4] * 6)) > 0.1
    assert pstdev(Resampler(0).deviations([0.3])) > 0.1


def test_without_scores() -> None:
    with pytest.raises(ValueError, match="without scores"):
        Resampler(0).deviations([])


def test_percentiles_are_values_that_occur() -> None:
    assert percentiles([4096] * 40 + [8192] * 900 + [16384] * 60) == (4096, 16384)
    assert percentiles([4096] * 20 + [8192] * 960 + [16384] * 20) == (8192, 8192)
