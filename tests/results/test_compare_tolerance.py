"""`compare --tolerance`: drops that are surely smaller are none, and every output says which cells are what."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from lcbench.results.compare import CellResult, compare, compare_records
from lcbench.results.report.comparison import print_comparison
from tests.compared import RIGHT, cell
from tests.helpers import Fields, cli
from tests.results.report.samples import likelihood, typed
from tests.results.report.test_summary import run_folder

MANY = 400
ALL = cell([1.0] * MANY)


def lost(share: float, count: int = MANY) -> list[Fields]:
    """The same samples, of which that share turned wrong."""
    wrong = round(share * count)
    return cell([0.0] * wrong + [1.0] * (count - wrong))


def judged(
    base: Sequence[Fields], new: Sequence[Fields], tolerance: float | None, alpha: float = 0.05
) -> list[CellResult]:
    return compare_records(typed(base), typed(new), alpha, tolerance=tolerance)


@pytest.mark.parametrize(
    ("new", "without", "within"),
    [
        (lost(0.015), "regressed", "non-inferior"),  # a drop that is there, and surely smaller than 5 points
        (lost(0.05), "regressed", "regressed"),  # one that may be larger
        (lost(0.2), "regressed", "regressed"),
        (ALL, "no evidence", "non-inferior"),
    ],
)
def test_a_drop_that_is_surely_smaller_is_none(new: list[Fields], without: str, within: str) -> None:
    (before,), (after,) = judged(ALL, new, None), judged(ALL, new, 0.05)
    assert (before.verdict, after.verdict) == (without, within)
    assert before.tolerated is None and after.tolerated is not None and after.tolerated.size == 0.05
    assert after.effect == before.effect  # which is tested as before
    assert after.tolerated.bound is not None and after.effect is not None
    assert after.tolerated.bound < after.effect.difference
    assert (after.verdict == "non-inferior") == (after.tolerated.bound > -0.05)


def test_too_few_samples_show_nothing_and_fail_nothing() -> None:
    (found,) = judged(RIGHT, RIGHT, 0.02)
    assert found.verdict == "no evidence" and found.tolerated is not None and found.tolerated.worse > 0.2


def test_better_scores_are_improved_and_not_equivalent() -> None:
    (found,) = judged(lost(0.2), ALL, 0.05)
    assert found.verdict == "improved" and found.tolerated is not None
    assert found.tolerated.worse < 0.001 < 0.9 < found.tolerated.apart


def test_what_is_lost_is_lost() -> None:
    assert judged(ALL, ALL[1:], 0.5)[0].verdict == "non-inferior"  # a sample fewer is told, and no drop
    missing = judged([*ALL, *cell([1.0], seq_len=512)], ALL, 0.5)
    assert [each.verdict for each in missing] == ["non-inferior", "regressed"]


def test_a_tolerance_is_a_share_of_the_full_score() -> None:
    def scored(values: Sequence[float]) -> list[Fields]:
        return [
            each | {"metric": "score", "scores": {"score": v}} for each, v in zip(cell(values), values, strict=True)
        ]

    base = [50.0 + k % 7 for k in range(200)]
    (found,) = judged(scored(base), scored([value - 1.0 - 0.1 * (k % 3) for k, value in enumerate(base)]), 0.02)
    assert found.verdict == "non-inferior" and found.why == "worse scores, by less than the tolerance"
    assert found.tolerated is not None and found.tolerated.size == 2.0
    (found,) = judged(scored(base), scored([value - 3.0 - 0.1 * (k % 3) for k, value in enumerate(base)]), 0.02)
    assert found.verdict == "regressed"


def test_of_likelihoods_it_is_nats_and_more_is_worse() -> None:
    books = [2.0 + 0.1 * (k % 5) for k in range(20)]
    base = [likelihood(book=k, nll=nll) for k, nll in enumerate(books)]
    worse = [likelihood(book=k, nll=nll + 0.01 + 0.001 * (k % 3)) for k, nll in enumerate(books)]
    (found,) = judged(base, worse, 0.02)
    assert found.verdict == "non-inferior" and found.tolerated is not None and found.tolerated.bound is not None
    assert 0.011 < found.tolerated.bound < 0.02
    assert judged(base, worse, 0.005)[0].verdict == "regressed"
    assert judged(worse, base, 0.005)[0].verdict == "improved"


def test_many_cells_are_corrected_together() -> None:
    one, new = cell([1.0] * 200), lost(0.0, 200)
    assert judged(one, new, 0.02)[0].verdict == "non-inferior"  # p = 0.02
    several = [each for length in range(300, 310) for each in cell([1.0] * 200, seq_len=length)]
    assert {each.verdict for each in judged(several, several, 0.02)} == {"no evidence"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A drop by 1.5 points and one by 20, of 400 samples."""
    folder = tmp_path_factory.mktemp("tolerance")
    far = [each | {"seq_len": 512, "id": each["id"].replace("/256/", "/512/")} for each in lost(0.2)]
    base = [*ALL, *([each | {"scores": {"exact_match": 1.0}} for each in far])]
    return run_folder(folder / "base", base), run_folder(folder / "new", [*lost(0.015), *far])


def test_every_output_says_so_and_the_gate_follows(runs: tuple[Path, Path], tmp_path: Path) -> None:
    files = {name: tmp_path / f"x.{name}" for name in ("md", "xml", "html")}
    outputs = ("--markdown", files["md"], "--junit", files["xml"], "--html", files["html"])
    done = cli("compare", *runs, "--fail-on-regression", "--tolerance", "0.05", *outputs)
    assert done.code == 1
    assert "2 cells: 1 regressed, 0 improved, 1 non-inferior, 0 no evidence" in done.out
    assert "worse scores, by less than the tolerance" in done.out and "1 of 2 are equivalent" in done.out
    table = files["md"].read_text()
    assert "| worst difference (95 %, one-sided) | p within, adjusted | p equivalent, adjusted |" in table
    assert "non-inferior (worse scores, by less than the tolerance, equivalent)" in table
    first, second = ElementTree.fromstring(files["xml"].read_text()).iter("testcase")
    assert first.find("failure") is None and second.find("failure") is not None
    assert "verdict: non-inferior" in str(first.findtext("system-out"))
    page = files["html"].read_text()
    assert '<li class="non-inferior">1 non-inferior</li>' in page and "p equivalent, adjusted" in page
    assert "non-inferior" not in cli("compare", *runs).out
    for width in (50, 200):  # as a list, and as a table
        console = Console(file=io.StringIO(), width=width)
        print_comparison(console, compare(*runs, tolerance=0.05))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "equivalent" in shown and "within" in shown and "non-inferior" in shown


def test_the_gate_passes_where_all_drops_are_within(runs: tuple[Path, Path]) -> None:
    assert cli("compare", *runs, "--fail-on-regression", "--tolerance", "0.3").code == 0
    assert cli("compare", *runs, "--fail-on-regression").code == 1


@pytest.mark.parametrize("tolerance", ["0", "-0.1", "1", "2", "nan"])
def test_a_tolerance_that_is_none(runs: tuple[Path, Path], tolerance: str) -> None:
    done = cli("compare", *runs, "--tolerance", tolerance)
    assert done.code == 2 and "--tolerance must be a share of the full score, such as 0.02, not" in done.error
