"""Two runs compared: verdicts on made-up records, and how often they are wrong or blind."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest

from lcbench.results.compare import CellResult, Limits
from lcbench.results.compare import compare_records as compare_typed
from tests.compared import RIGHT, WRONG, cell, failed, record
from tests.helpers import Fields
from tests.results.report.samples import typed


def compare_records(base: Sequence[Fields], new: Sequence[Fields], **options: Any) -> list[CellResult]:
    return compare_typed(typed(base), typed(new), **options)


def only(base: Sequence[Fields], new: Sequence[Fields], **options: Any) -> CellResult:
    (found,) = compare_records(base, new, **options)
    return found


# Verdicts


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        (RIGHT, WRONG, "regressed"),
        (WRONG, RIGHT, "improved"),
        (RIGHT, RIGHT, "no evidence"),
        (RIGHT, cell([1.0] * 15 + [0.0] * 5), "no evidence"),  # p = 2/2^5
        (RIGHT, cell([1.0] * 14 + [0.0] * 6), "regressed"),  # p = 2/2^6
        (cell([0.5] * 20), cell([0.4 + 0.001 * k for k in range(20)]), "regressed"),
        (cell([0.5, 0.7] * 10), cell([0.5, 0.7] * 9 + [0.1, 0.6]), "no evidence"),
    ],
)
def test_verdict_on_scores(base: list[Fields], new: list[Fields], verdict: str) -> None:
    assert only(base, new).verdict == verdict


def test_effect_has_means_interval_and_both_p_values() -> None:
    found = only(RIGHT, cell([1.0] * 14 + [0.0] * 6))
    assert found.effect is not None and found.pairs == 20 and found.why == "worse scores"
    assert (found.effect.test, found.effect.base, found.effect.new) == ("McNemar", 1.0, 0.7)
    assert found.effect.difference == pytest.approx(-0.3)
    assert found.effect.p == found.effect.p_adjusted == 2 / 64
    assert found.effect.low is not None and found.effect.high is not None
    assert -0.55 < found.effect.low < -0.3 < found.effect.high < -0.05


@pytest.mark.parametrize("scores", [[0.3], [0.2, 0.4] * 3, [0.5] * 200])
def test_graded_scores_that_never_differ_are_no_certainty(scores: list[float]) -> None:
    """The bootstrap of nothing but zeros has no width, however few they are."""
    effect = only(cell(scores), cell(scores)).effect
    assert effect is not None and (effect.test, effect.difference, effect.p) == ("bootstrap", 0.0, 1.0)
    assert effect.low is None and effect.high is None


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_finite_number_is_none(score: float) -> None:
    broken = [*RIGHT[:-1], record(len(RIGHT) - 1, scores={"exact_match": score})]
    found = only(RIGHT, broken)
    assert (found.verdict, found.why, found.pairs) == ("regressed", "failed in NEW: no exact_match", len(RIGHT) - 1)


def test_lower_is_better_for_negative_log_likelihoods() -> None:
    def nll(values: Sequence[float]) -> list[Fields]:
        return [record(n, metric="nll", scores={"nll": value}) for n, value in enumerate(values)]

    before = [3 + 0.1 * math.sin(k) for k in range(20)]
    worse = [value + 0.02 + 0.001 * math.cos(k) for k, value in enumerate(before)]
    found = only(nll(before), nll(worse))
    assert found.verdict == "regressed" and found.effect is not None and found.effect.test == "bootstrap"
    assert found.effect.low is not None and 0.019 < found.effect.low < 0.02 < (found.effect.high or 0) < 0.021
    assert only(nll(worse), nll(before)).verdict == "improved"


def test_more_cells_ask_for_more_evidence() -> None:
    """6 of 20 lost is p = 0.03: enough alone, not beside 9 other cells."""
    worse, others = cell([1.0] * 14 + [0.0] * 6), [
        each for length in range(300, 309) for each in cell([1.0] * 20, seq_len=length)
    ]  # fmt: skip
    assert only(RIGHT, worse).verdict == "regressed"
    found = compare_records(RIGHT + others, worse + others)
    assert {each.verdict for each in found} == {"no evidence"} and len(found) == 10
    assert found[0].effect is not None and found[0].effect.p_adjusted == pytest.approx(10 * 2 / 64)
    assert compare_records(RIGHT + others, WRONG + others)[0].verdict == "regressed"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt_sha256": "other"}, "the prompts of 20 of 20 samples differ: the wording, or the tokenizer"),
        ({"seed": 7}, "the seeds of 20 of 20 samples differ"),
        ({"max_new_tokens": 9}, "the generation budgets of 20 of 20 samples differ (6 and 9 tokens)"),
        ({"references": ["x"]}, "the references of 20 of 20 samples differ"),
        ({"metric": "f1", "scores": {"f1": 0.0}}, "the metric differs (exact_match and f1)"),
    ],
)
def test_not_comparable(changes: dict[str, Any], reason: str) -> None:
    found = only(RIGHT, [each | changes for each in WRONG])
    assert (found.verdict, found.why, found.effect) == ("not comparable", reason, None)


def test_another_model_version_or_folder_is_what_one_compares() -> None:
    new = [each | {"model": "other", "layers_steered": 8, "session": 3, "method_options": {"a": 1}} for each in WRONG]
    assert only(RIGHT, new).verdict == "regressed"


# Missing and failed


def test_a_cell_that_new_lacks_regressed_and_one_that_base_lacks_is_not_comparable() -> None:
    far = cell([1.0] * 3, seq_len=512)
    lost = compare_records(RIGHT + far, RIGHT)
    assert [(each.seq_len, each.verdict, each.why) for each in lost] == [
        (256, "no evidence", ""),
        (512, "regressed", "missing in NEW"),
    ]
    assert lost[1].gaps == ("3 samples missing in NEW: 512/uniform/0, 512/uniform/1, 512/uniform/2",)
    gained = compare_records(RIGHT, RIGHT + far)
    assert (gained[1].verdict, gained[1].why) == ("not comparable", "in BASE missing")


def test_a_depth_that_new_lacks_regressed() -> None:
    base = [each for depth in (0.0, 0.5, 1.0) for each in cell([1.0] * 5, depth=depth)]
    found = only(base, [each for each in base if each["cell_depth"] == 0])
    assert (found.verdict, found.why, found.pairs) == ("regressed", "depth 0.5, 1 missing in NEW", 5)


def test_fewer_samples_are_named_and_the_others_compared() -> None:
    found = only(RIGHT, RIGHT[:5])
    assert (found.verdict, found.pairs) == ("no evidence", 5)
    (gap,) = found.gaps
    assert gap.startswith("15 samples missing in NEW: 256/uniform/5, ") and gap.endswith(" and 5 more")
    assert only(RIGHT[:5], RIGHT).gaps[0].startswith("15 samples missing in BASE: ")


def test_failures() -> None:
    broke = only(RIGHT, [*RIGHT[:19], failed(19)])
    assert (broke.verdict, broke.why, broke.pairs) == ("regressed", "failed in NEW: out of memory", 19)
    assert broke.gaps == ("1 sample failed in NEW: 256/uniform/19 (out of memory)",)
    unscored = only(RIGHT, [*RIGHT[:19], record(19, scores={})])
    assert (unscored.verdict, unscored.why) == ("regressed", "failed in NEW: no exact_match")
    fixed = only([failed(0)], RIGHT)
    assert (fixed.verdict, fixed.why) == ("improved", "in BASE failed: out of memory")
    both = only([failed(0)], [failed(0, "boom")])
    assert (both.verdict, both.why) == ("not comparable", "in BASE failed: out of memory; in NEW failed: boom")
    partly = only([*RIGHT[:19], failed(19)], RIGHT)  # failed before, and works now: nothing is worse
    assert (partly.verdict, partly.pairs) == ("no evidence", 19)


# Time and memory


def test_cost_counts_only_where_it_is_asked_for() -> None:
    slow = [
        each | {"cost": {**each["cost"], "prefill_seconds": 0.75, "peak_memory_bytes": 400 * 2**20}} for each in RIGHT
    ]
    found = only(RIGHT, slow)
    assert found.verdict == "no evidence"
    assert (found.ratios.prefill, found.ratios.decode, found.ratios.memory) == pytest.approx((1.5, 1.0, 4 / 3))
    limited = only(RIGHT, slow, limits=Limits(slowdown=1.2, memory=1.2))
    assert limited.verdict == "regressed"
    assert limited.why == "prefill takes 1.50 times as long; memory is 1.33 times as much"
    assert only(RIGHT, slow, limits=Limits(slowdown=1.6, memory=1.4)).verdict == "no evidence"
    assert only(slow, RIGHT, limits=Limits(slowdown=1.2, memory=1.2)).verdict == "no evidence"


def test_longer_answers_are_no_slowdown() -> None:
    wordy = [each | {"output_tokens": 12, "cost": {**each["cost"], "decode_seconds": 0.5}} for each in RIGHT]
    assert only(RIGHT, wordy, limits=Limits(slowdown=1.2)).ratios.decode == 1.0


def test_one_slow_sample_decides_nothing() -> None:
    cold = {**RIGHT[0], "cost": {**RIGHT[0]["cost"], "prefill_seconds": 30.0}}
    assert only(RIGHT, [cold, *RIGHT[1:]], limits=Limits(slowdown=1.2)).verdict == "no evidence"


def test_unmeasured_cost_is_unknown() -> None:
    nothing = {"prefill_seconds": 0, "decode_seconds": 0.0, "peak_memory_bytes": 0}
    found = only([each | {"cost": nothing} for each in RIGHT], RIGHT, limits=Limits(1.2, 1.2))
    assert found.verdict == "no evidence" and found.ratios.prefill is found.ratios.memory is None


# How often it is wrong, and how often blind

Pair = tuple[list[Fields], list[Fields]]


@cache
def blank(count: int, seq_len: int) -> list[Fields]:
    return cell([0.0] * count, seq_len=seq_len)


def simulated(samples: list[int], draw: Callable[[int], tuple[float, float]]) -> Pair:
    """A pair of runs with cells of so many samples, each drawn from the number of its cell: before and after."""
    runs: Pair = ([], [])
    for index, count in enumerate(samples):
        for each in blank(count, 256 + index):
            for run, score in zip(runs, draw(index), strict=True):
                run.append({**each, "scores": {"exact_match": float(score)}})
    return runs


def share(trials: int, draw: Callable[[random.Random], Pair], which: Callable[[list[CellResult]], bool]) -> float:
    return sum(which(compare_records(*draw(random.Random(seed)))) for seed in range(trials)) / trials


def any_changed(cells: list[CellResult]) -> bool:
    return any(each.verdict in ("regressed", "improved") for each in cells)


@pytest.mark.parametrize(("graded", "samples"), [(False, 40), pytest.param(True, 20, marks=pytest.mark.slow)])
def test_false_alarms_stay_at_the_level(graded: bool, samples: int) -> None:
    """400 pairs of runs without a true difference, of 3 cells right at .5 to .9, every answer drawn anew in NEW: the
    hardest case, as the answers of the same model to the same samples hardly turn. Any cell called changed, in either
    direction, is a false alarm; at most alpha of the runs have one, within sampling error (3 sigma)."""

    def draw(rng: random.Random) -> Pair:
        def one(index: int) -> tuple[float, float]:
            rate = (0.5, 0.7, 0.9)[index]
            draws = rng.random(), rng.random()
            return (draws[0] ** (1 / rate), draws[1] ** (1 / rate)) if graded else (draws[0] < rate, draws[1] < rate)

        return simulated([samples] * 3, one)

    alarms = share(400, draw, any_changed)
    assert 0 < alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)  # none at all would be a test that sees nothing


@pytest.mark.parametrize(
    ("lost", "gained", "others"),
    [
        pytest.param(0.10, 0.00, 0, marks=pytest.mark.slow),
        (0.12, 0.02, 0),
        # 22 % of the answers turn; were they independent (26 %), the power would be .79
        pytest.param(0.16, 0.06, 0, marks=pytest.mark.slow),
        # in one of six cells: a sixth of alpha is left to it
        pytest.param(0.12, 0.02, 5, marks=pytest.mark.slow),
    ],
)
def test_a_drop_of_ten_points_at_200_samples_is_found(lost: float, gained: float, others: int) -> None:
    """From .90 to .80, `lost` and `gained` being the shares of all samples that turn. What McNemar's test can see
    depends on how many turn in all; answers of greedy decoding to the same prompts turn little."""

    def draw(rng: random.Random) -> Pair:
        def one(index: int) -> tuple[float, float]:
            before = rng.random() < 0.9
            turns = not index and rng.random() < (lost / 0.9 if before else gained / 0.1)
            return before, before != turns

        return simulated([200] + [20] * others, one)

    assert share(200, draw, lambda found: found[0].verdict == "regressed") >= 0.8


def test_several_answers_to_a_sample_are_one_pair() -> None:
    """Four answers each to 20 samples: as sure as the 20, and not as 80."""

    def repeated(scores: list[float]) -> list[Fields]:
        return [
            one | {"repeat": repeat, "id": one["id"] + (f".{repeat}" if repeat else "")}
            for one in cell(scores)
            for repeat in range(4)
        ]

    new = [1.0] * 17 + [0.0] * 3
    found = only(repeated([1.0] * 20), repeated(new))
    single = only(RIGHT, cell(new))
    assert found.pairs == 20 and found.effect is not None and single.effect is not None
    assert found.effect.p == single.effect.p == 2 / 2**3


def test_rows_after_several_draws_of_demonstrations_are_one_pair_each() -> None:
    def drawn(right: int) -> list[Fields]:
        shots = [{"row": f"q{n // 5}", "draw": n % 5} for n in range(50)]
        return [one | {"details": shot} for one, shot in zip(cell([float(n // 5 < right) for n in range(50)]), shots)]

    found = only(drawn(6), drawn(4))
    assert found.pairs == 10 and found.verdict == "no evidence" and found.effect and found.effect.p == 2 / 2**2


@pytest.mark.parametrize("tolerance", [None, 0.2])
def test_right_and_wrong_are_judged_alike_on_any_scale(tolerance: float | None) -> None:
    """0 and 100, as of the official scores of few-shot tasks, are not graded scores."""

    def scaled(right: int, top: float, metric: str) -> list[Fields]:
        scores = [top * (n < right) for n in range(20)]
        return [one | {"metric": metric, "scores": {metric: s}} for one, s in zip(cell(scores), scores)]

    share, points = (
        compare_typed(typed(scaled(12, *scale)), typed(scaled(11, *scale)), tolerance=tolerance)[0]
        for scale in ((1.0, "exact_match"), (100.0, "score"))
    )
    assert share.effect and points.effect and points.effect.test == share.effect.test == "McNemar"
    assert (points.effect.p, points.effect.noise) == (share.effect.p, share.effect.noise)
    assert share.effect.low and points.effect.low == pytest.approx(100 * share.effect.low)
    if share.tolerated and points.tolerated and share.tolerated.bound is not None:
        assert points.tolerated.worse == share.tolerated.worse
        assert points.tolerated.bound == pytest.approx(100 * share.tolerated.bound)
