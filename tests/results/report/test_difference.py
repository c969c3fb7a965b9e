"""Differences to a base are those of `compare`, in the terminal, in the figure and on the page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lcbench.core.errors import UserError
from lcbench.results.compare import compare
from lcbench.results.manifest import RunIdentity
from lcbench.results.report.difference import Differences, caption, differences
from lcbench.results.report.difference_figure import draw
from lcbench.results.report.html.report import page
from lcbench.results.report.runs import Run
from tests.compared import cell
from tests.helpers import Fields, cli
from tests.results.report.figures import assert_apart
from tests.results.report.samples import typed
from tests.results.report.test_curves import record
from tests.results.report.test_summary import run_folder

BOOKS = {"vanilla": (2.0, 2.4, 3.9), "dca": (2.0, 2.1, 2.2), "yarn:factor=4": (2.1, 2.2, 2.9)}


def books() -> list[Fields]:
    """Six books that differ by far more than the methods do."""
    return [
        record(method, 256 << place, nll + 0.5 * book + 0.01 * (len(method) * book % 5), book)
        for method, likelihoods in BOOKS.items()
        for place, nll in enumerate(likelihoods)
        for book in range(6)
    ]


def of(records: list[Fields], task: str = "pg19", base: str = "vanilla") -> list[Differences]:
    return differences(Run("", RunIdentity(), typed(records)), task, base)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    grid = [
        each
        for method, right in (("vanilla", 4), ("dca", 18))
        for depth in (0.0, 1.0)
        for each in cell([1.0] * right + [0.0] * (20 - right), task="needle", method=method, depth=depth)
    ]
    return run_folder(tmp_path_factory.mktemp("difference") / "run", [*books(), *grid])


def test_points_are_those_of_compare(run: Path) -> None:
    (found,) = of(books())
    cells = {
        each.seq_len: each.effect for each in compare(run, run, pairs=["vanilla=dca"]).cells if each.task == "pg19"
    }
    assert list(found.methods) == ["dca", "yarn:factor=4"] and found.unpaired == {}
    for point in found.methods["dca"]:
        effect = cells[point.seq_len]
        assert effect is not None and point.pairs == 6
        assert point.value == pytest.approx(effect.difference)
    far = found.methods["dca"][-1]
    assert far.low is not None and far.high is not None
    assert -1.75 < far.low < far.value < far.high < -1.65  # the books spread over 2.5 nats
    assert found.words == "nats per token, below 0 is better"


def test_one_computation_has_no_difference_at_all() -> None:
    vanilla = [each for each in books() if each["method"] == "vanilla"]
    same = [each | {"method": "dca", "equals": "vanilla"} for each in vanilla if each["seq_len"] == 256]
    far = [each for each in books() if each["method"] == "dca" and each["seq_len"] > 256]
    short, *longer = of(vanilla + same + far)[0].methods["dca"]
    assert short.same and (short.value, short.low, short.high) == (0.0, 0.0, 0.0)
    assert not any(point.same for point in longer)


def test_what_cannot_be_paired_is_told() -> None:
    records = books()
    for each in records:
        if (each["method"], each["seq_len"]) == ("dca", 512):
            each["prompt_sha256"] = "other"
    (found,) = of(records)
    assert [point.seq_len for point in found.methods["dca"]] == [256, 1024] and found.unpaired == {"dca": [512]}
    assert caption([found], 256) == (
        "6 pairs per point on the same samples; 95 % intervals, one at a time; trained at 256 tokens (dashed); "
        "not paired: dca at 512 in pg19"
    )
    with pytest.raises(UserError, match="no other method has samples in common with vanilla in pg19"):
        of([each | {"prompt_sha256": each["method"]} for each in books()])
    with pytest.raises(UserError, match="no other method has samples in common"):
        of([each for each in books() if each["method"] == "vanilla"])
    with pytest.raises(UserError, match="unknown method to differ from 'vanila'; did you mean 'vanilla'"):
        of(books(), base="vanila")
    with pytest.raises(UserError, match="unknown task of this run 'pg18'"):
        of(books(), "pg18")


def test_the_figure_has_a_point_and_an_interval_a_method_and_nothing_overlaps() -> None:
    found = of(books())
    figure = draw(found, 256, "lcbench-tiny")
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    drawn = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert list(drawn) == ["dca", "yarn:factor=4"]
    assert [float(y) for y in drawn["dca"].get_ydata()] == [point.value for point in found[0].methods["dca"]]
    assert all(one != other for one, other in zip(drawn["dca"].get_xdata(), drawn["yarn:factor=4"].get_xdata()))
    many = [one | {"method": f"m{n}"} for one in books() if one["method"] == "dca" for n in range(30)]
    (crowded,) = draw(of([one for one in books() if one["method"] == "vanilla"] + many), 256, "m").axes
    spread = [line.get_xdata()[0] for line in crowded.lines if str(line.get_label()).startswith("m")]
    assert len(spread) == 30 and 256 / 1.3 < min(spread) < max(spread) < 256 * 1.3, "points stand at their length"
    texts = [axes.title, *figure.legends[0].get_texts(), figure.texts[-1] if figure.texts else axes.xaxis.label]
    assert_apart(figure, [text.get_window_extent() for text in texts])


def test_the_verb(run: Path, tmp_path: Path) -> None:
    done = cli("plot", "pg19", "--run", run, "--difference", "vanilla", "--out", tmp_path / "x.svg")
    assert done.code == 0, done.err
    assert "pg19: difference to vanilla, nats per token, below 0 is better" in done.out
    assert " 1k  -1.7" in done.out and "6 pairs per point" in done.out
    ElementTree.parse(tmp_path / "x.svg")
    depths = cli("plot", "needle", "--run", run, "--difference", "vanilla")
    assert "+0.700" in depths.out and "40 pairs per point" in depths.out  # over all depths
    assert cli("plot", "pg19", "--run", run, "--difference", "nothing").code == 2
    assert (run / "needle-difference.png").exists()


def test_the_page(run: Path) -> None:
    """Every method can be the base, one at a time in a task, the one that was asked for at first."""
    shown = page([run], difference="vanilla")
    first = '<details name="base of pg19" open><summary>to vanilla</summary>'
    assert shown.count("<h3>Differences</h3>") == 2 and shown.count(" open><summary>") == 2 and first in shown
    for method in ("dca", "yarn:factor=4"):
        assert f'<details name="base of pg19"><summary>to {method}</summary>' in shown
    figure = shown[shown.index(first) :]
    ElementTree.fromstring(figure[figure.index("<svg") : figure.index("</svg>") + 6])
    assert "dca at 1,024: -1.7" in figure and "below 0 is better; 6 pairs per point" in figure
    assert "vanilla at 1,024: +1.7" in figure[figure.index("<summary>to dca") :]
    assert "<h3>Differences" not in page([run])
    done = cli("report", run, "--difference", "vanila")
    assert done.code == 2 and "did you mean 'vanilla'" in done.error
