"""Headlines against numbers worked out by hand, with intervals that cover the truth, and in every format."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from lcbench.results.manifest import RunIdentity
from lcbench.results.report.headline import Headlines, area, headlines, longest
from lcbench.results.report.headline_table import cells, columns, notes, title
from lcbench.results.report.html.report import page
from lcbench.results.report.overview import overview
from lcbench.results.report.runs import Run
from lcbench.results.report.summary import summarise_records
from lcbench.results.report.tables import as_csv, as_json, latex, markdown, print_tables
from tests.compared import cell, failed
from tests.helpers import Fields, cli
from tests.results.report.samples import likelihood, typed
from tests.results.report.test_summary import run_folder

LENGTHS = (4096, 8192, 16384, 32768)


def made(records: Sequence[Fields], threshold: float = 0.856) -> list[Headlines]:
    return headlines(summarise_records([Run("", RunIdentity(), typed(records))]), threshold)


def graded(shares: dict[int, float], **fields: str) -> list[Fields]:
    """20 answers a length, of which that share is right."""
    return [
        each
        for length, share in shares.items()
        for each in cell(answers(share, 20), seq_len=length, **fields)
    ]  # fmt: skip


def answers(share: float, count: int) -> list[float]:
    right = round(count * share)
    return [1.0] * right + [0.0] * (count - right)


def test_mean_effective_length_and_area_of_one_task() -> None:
    (found,) = made(graded({4096: 1.0, 8192: 0.9, 16384: 0.5, 65536: 0.9}))
    (line,) = found.lines
    assert (found.of, found.tasks, found.lengths) == ("passkey", ("passkey",), (4096, 8192, 16384, 65536))
    assert line.mean is not None and line.mean.value == pytest.approx(3.3 / 4)
    assert line.effective is not None and line.effective.value == 8192  # 65,536 passes again, after one that does not
    # log2: 1, 1 and 2 of 4
    assert line.area is not None
    assert line.area.value == pytest.approx((0.95 * 1 + 0.7 * 1 + 0.7 * 2) / 4)
    assert line.every_depth is None and line.lacks == ()


@pytest.mark.parametrize(
    ("threshold", "effective"), [(0.9, 8192), (0.91, 4096), (1.0, 4096), (0.5, 65536), (0.856, 8192)]
)
def test_the_threshold_is_an_option(threshold: float, effective: int) -> None:
    (found,) = made(graded({4096: 1.0, 8192: 0.9, 16384: 0.5, 65536: 0.9}), threshold)
    reach = found.lines[0].effective
    assert reach is not None and reach.value == effective
    assert longest([1, 2], [0.85599999, 1.0], 0.856) == 0
    assert longest([1, 2], [85.6 / 100, 0.1], 0.856) == 1


def test_area_by_log_length() -> None:
    assert area({1024: 1.0, 4096: 0.0}) == 0.5
    assert area({1024: 0.25, 2048: 0.25, 131072: 0.25}) == pytest.approx(0.25)


def test_tasks_count_the_same_and_scores_of_100_are_shares() -> None:
    records = cell([1.0] * 30, task="ruler/vt") + cell([0.0] * 10, task="ruler/cwe")
    records += [each | {"metric": "score", "scores": {"score": 50.0}} for each in cell([0.0] * 5, task="ruler/qa_1")]
    (found,) = made(records)
    (line,) = found.lines
    assert found.of == "ruler" and len(found.tasks) == 3
    assert line.mean is not None and line.mean.value == pytest.approx(0.5)
    assert line.by_length[256].value == pytest.approx(0.5) and line.area is None
    assert (
        line.mean.low is not None and line.mean.high is not None and 0.25 < line.mean.low < 0.5 < line.mean.high < 0.75
    )


def test_benchmarks_have_their_own_and_all_together() -> None:
    records = graded({4096: 1.0, 8192: 1.0}, task="ruler/vt") + graded({4096: 0.5, 8192: 0.5}, task="mrcr/2needle")
    one, two, both = made([*records, *graded({4096: 1.0}, task="alone")])
    assert [each.of for each in (one, two, both)] == ["ruler", "mrcr", ""]  # one cell is a score and no headline
    assert both.lines[0].mean is not None and both.lines[0].mean.value == pytest.approx(0.8)
    assert both.ragged and not one.ragged
    assert "headline of all tasks: not all tasks have all lengths." in notes([one, two, both])
    assert title(both) == "headline of all tasks: share of the full score over 3 tasks at 4k to 8k, 95 % intervals"


def test_every_depth() -> None:
    def grid(shares: dict[int, tuple[float, ...]]) -> list[Fields]:
        return [
            each
            for length, depths in shares.items()
            for place, share in enumerate(depths)
            for each in cell(answers(share, 10), task="needle", seq_len=length, depth=place / 2)
        ]

    shares = {4096: (1.0, 0.9, 1.0), 8192: (1.0, 0.6, 1.0), 16384: (1.0, 1.0, 1.0)}
    (found,) = made(grid(shares))
    line = found.lines[0]
    assert line.every_depth is not None and line.effective is not None
    assert (line.every_depth.value, line.effective.value) == (4096, 16384)  # 8,192: 0.87 on average, 0.6 at the middle
    assert (line.every_depth.low, line.every_depth.known) == (0, 16384)
    assert "every depth" in columns(found)
    more = made(grid(shares) + graded({4096: 0.5, 32768: 0.5}))  # all tasks: of those with depths
    assert [each.lines[0].every_depth and each.lines[0].every_depth.value for each in more] == [4096, None, 4096]
    gap = [each for each in grid(shares) if each["seq_len"] != 8192 or each["cell_depth"] != 0.5]
    others = [each | {"method": "dca"} for each in grid(shares)]
    lacking = made(gap + others)[0].lines[0].every_depth
    assert lacking is not None and (lacking.value, lacking.known) == (4096, 4096)


def test_a_method_that_lacks_a_cell_has_no_mean() -> None:
    whole = graded(dict.fromkeys(LENGTHS, 1.0))
    broken = [each for each in whole if each["seq_len"] != 16384] + [failed(seq_len=16384)]
    (found,) = made(whole + [each | {"method": "dca", "id": f"{each['id']}d"} for each in broken])
    complete, lacking = found.lines
    assert complete.mean is not None and (lacking.mean, lacking.area) == (None, None)
    assert lacking.lacks == (("passkey", 16384),)
    assert lacking.effective is not None and (lacking.effective.value, lacking.effective.known) == (8192, 8192)
    assert "no mean of dca: it lacks passkey at 16,384, which others have." in notes([found])
    alone = made(broken)[0].lines[0]  # what failed for everyone is missing, too
    assert alone.mean is None and alone.lacks == (("passkey", 16384),)


def test_perplexities_and_points_without_a_full_score_are_left_out() -> None:
    points = [each | {"metric": "points", "scores": {"points": 7}} for each in cell([0.0] * 3, task="game")]
    more = graded({4096: 1.0, 8192: 1.0}) + graded({4096: 1.0, 8192: 1.0}, task="needle")
    *_, all_tasks = made([likelihood(), *points, *more])
    assert all_tasks.tasks == ("passkey", "needle") and all_tasks.without == ("pg19", "game")
    assert "no headline of pg19, game: it has no full score." in notes([all_tasks])
    assert made([likelihood(), likelihood(book=1)]) == []


def test_several_answers_to_a_sample_are_one() -> None:
    records = graded({4096: 0.5, 8192: 0.5})
    thrice = [each | {"id": f"{each['id']}/{k}", "repeat": k} for each in records for k in range(3)]
    assert made(thrice)[0].lines[0].mean == made(records)[0].lines[0].mean


def test_the_same_records_give_the_same_intervals() -> None:
    records = graded({4096: 0.9, 8192: 0.85})
    assert made(records) == made(records)
    assert made(records)[0].lines[0].effective != made(graded({4096: 0.9, 8192: 0.2}))[0].lines[0].effective


def test_intervals_cover_the_truth() -> None:
    """40 runs of 3 tasks at 3 lengths with known chances: the mean and the effective length are within their
    intervals in about 95 of 100."""
    rng, chances = random.Random(3), {4096: 0.97, 8192: 0.92, 16384: 0.7}
    hits = [0, 0]
    for _ in range(40):
        records = [
            each
            for task in ("a", "b", "c")
            for length, chance in chances.items()
            for each in cell([float(rng.random() < chance) for _ in range(10)], task=f"ruler/{task}", seq_len=length)
        ]
        line = made(records)[0].lines[0]
        assert line.mean and line.effective and line.mean.low is not None and line.mean.high is not None
        assert line.effective.low is not None and line.effective.high is not None
        hits[0] += line.mean.low <= 0.8633 <= line.mean.high
        hits[1] += line.effective.low <= 8192 <= line.effective.high
    assert min(hits) >= 36


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [
        each
        for task in ("ruler/vt", "ruler/cwe")
        for method, reach in (("vanilla", 8192), ("dca:mscale=0.1", 32768))
        for each in graded({length: 1.0 if length <= reach else 0.1 for length in LENGTHS}, task=task, method=method)
    ]
    return run_folder(tmp_path_factory.mktemp("headline") / "run", records)


def test_every_format_has_them(run: Path) -> None:
    shown = cli("table", run, "--format", "markdown").out
    assert "**headline of ruler: share of the full score over 2 tasks at 4k to 32k, 95 % intervals**" in shown
    head = "| method | mean | effective length | area | 4,096 | 8,192 | 16,384 | 32,768 |"
    assert head in shown and "| `vanilla` | 0.550 [0.5" in shown and "| 8k [8k, 8k] |" in shown
    assert "| `dca:mscale=0.1` | 1.000 [0.9" in shown and "| ≥32k [≥32k, ≥32k] |" in shown
    tex = cli("table", run, "--format", "latex").out
    assert r"\caption{Headline of ruler: " in tex and r"\ensuremath{\geq}32k" in tex and "≥" not in tex
    rows = list(csv.DictReader(io.StringIO(cli("table", run, "--format", "csv").out)))
    found = {(row["method"], row["metric"]): row for row in rows if row["task"] == "headline: ruler"}
    assert float(found["vanilla", "effective_length"]["mean"]) == 8192
    assert found["vanilla", "mean"]["seq_len"] == "32768"  # every row has the columns and types of others
    assert found["vanilla", "mean"]["protocol"] == "2 tasks, threshold 0.856"
    read = json.loads(cli("table", run, "--format", "json").out)
    assert [list(row) == list(read[0]) for row in read] == [True] * len(read) and len(read) == len(rows)
    strict = json.loads(cli("table", run, "--format", "json", "--effective", "0.05").out)
    assert {row["mean"] for row in strict if row["metric"] == "effective_length"} == {32768}


def test_a_terminal_of_any_width_has_every_number(run: Path) -> None:
    shown = overview([Run("", RunIdentity(), typed(json.loads(line) for line in (run / "records.jsonl").open()))])
    for width in (60, 80, 200):
        console = Console(file=io.StringIO(), width=width)
        print_tables(console, shown.rows, None, shown.headlines)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width and "…" not in text
        after = text[text.index("headline of ruler") :]
        for line in shown.headlines[0].lines:
            for each in cells(shown.headlines[0], line):
                assert each.value in after and f"{each.low.removeprefix('0')}-" in after


def test_the_page_has_them(run: Path) -> None:
    shown = page([run], 0.05)
    section = shown[shown.index('<section id="headlines">') : shown.index('<section id="samples">')]
    assert '<a href="#headlines">' in shown[: shown.index("<main>")]
    assert "headline of ruler: share of the full score over 2 tasks" in section
    assert "<td>0.550<small>0.5" in section and "<td>≥32k<small>≥32k to ≥32k</small></td>" in section
    assert "are at least 0.05;" in section and "dca<small>mscale=0.1</small>" in section


def test_a_run_ends_as_its_table_shows_it(tmp_path: Path) -> None:
    """With another threshold, too."""
    asked = ("run", "passkey", "--seq-len", "128,160", "--samples", "1", "-o", tmp_path / "x", "--effective", "0.3")
    done, table = cli(*asked), cli("table", tmp_path / "x", "--effective", "0.3")
    assert done.code == 0 and table.out in done.out and "are at least 0.3;" in " ".join(table.out.split())


@pytest.mark.parametrize("threshold", ["0", "1.2", "85.6", "nan"])
def test_a_threshold_that_is_none(run: Path, threshold: str) -> None:
    """Of a run before anything runs."""
    for verb in (("table", run), ("report", run), ("run", "no such task")):
        done = cli(*verb, "--effective", threshold)
        assert done.code == 2 and "--effective must be a share of the full score, such as 0.856, not" in done.error


@pytest.mark.parametrize("write", [markdown, latex, as_csv, as_json])
def test_a_single_cell_has_no_headline(write: Callable[..., str]) -> None:
    runs = [Run("", RunIdentity(), typed(cell([1.0] * 3)))]
    shown = overview(runs)
    assert shown.headlines == [] and write(shown.rows, None, shown.headlines) == write(shown.rows, None)
