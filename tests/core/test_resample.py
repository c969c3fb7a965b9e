"""The bootstrap over samples: its spread is that of a mean, and a handful of equal answers is no certainty."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from lcbench.core.resample import RESAMPLES, deviations, percentiles
from lcbench.core.stats import wilson_interval


def test_the_spread_is_the_standard_error_of_a_mean() -> None:
    rng = random.Random(0)
    values = [rng.uniform(0.2, 0.7) for _ in range(30)]
    drawn = deviations(values, np.random.default_rng(0))
    assert drawn.shape == (RESAMPLES,)
    assert drawn.mean() == pytest.approx(0, abs=0.003)
    assert drawn.std() == pytest.approx(np.std(values, ddof=1) / math.sqrt(30), rel=0.05)
    assert (drawn == deviations(values, np.random.default_rng(0))).all()


@pytest.mark.parametrize(("right", "of"), [(1, 1), (5, 5), (0, 20), (19, 20), (10, 20), (95, 100)])
def test_right_and_wrong_answers_spread_much_as_in_wilsons_interval(right: int, of: int) -> None:
    drawn = deviations([1.0] * right + [0.0] * (of - right), np.random.default_rng(1))
    low, high = percentiles((right / of + drawn).clip(0, 1))
    wanted = wilson_interval(right, of)
    assert 0.5 < (high - low) / (wanted[1] - wanted[0]) < 1.35
    assert drawn.mean() == pytest.approx(0, abs=0.03)


def test_equal_graded_scores_are_no_certainty_either() -> None:
    assert deviations([0.4] * 6, np.random.default_rng(0)).std() > 0.1
    assert deviations([0.3], np.random.default_rng(0)).std() > 0.1


def test_without_scores() -> None:
    with pytest.raises(ValueError, match="without scores"):
        deviations([], np.random.default_rng(0))


def test_percentiles_are_values_that_occur() -> None:
    assert percentiles(np.repeat([4096, 8192, 16384], [40, 900, 60])) == (4096, 16384)
    assert percentiles(np.repeat([4096, 8192, 16384], [20, 960, 20])) == (8192, 8192)
