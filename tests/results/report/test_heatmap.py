"""Heatmaps: a scale that reads in grey, failures and gaps that show, files of three kinds."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.console import Console

from lcbench.core.errors import UserError
from lcbench.results.report import heatmap
from lcbench.results.report.figure import save
from lcbench.results.report.heatmap import Heatmap, caption, color_scale, draw, lightness, print_heatmaps
from tests.helpers import Fields, cli
from tests.results.report import samples
from tests.results.report.figures import assert_apart

LONG = "self_extend:group_size=8,neighbor_window=1024,log_scale_base=4096"
# Machado, Oliveira and Fernandes 2009, https://doi.org/10.1109/TVCG.2009.113: no red, no green receptors; linear RGB.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def record(method: str, seq_len: int, depth: float | None, score: float = 1.0, sample: int = 0) -> Fields:
    return samples.record(
        method,
        seq_len,
        sample,
        id=f"needle/{method}/{seq_len}/{depth}/{sample}",
        task="needle",
        cell_depth=depth,
        metric="recall",
        scores={"recall": score},
    )


def failure(method: str, seq_len: int, depth: float, sample: int = 0) -> Fields:
    return {**record(method, seq_len, depth, sample=sample), "error": "out of memory"}


def records() -> list[Fields]:
    """Two methods, two depths, two lengths; one cell failed, one half failed, one is missing."""
    return [
        *[record("vanilla", 256, depth, score, n) for depth in (0.0, 1.0) for n, score in enumerate((1.0, 0.5))],
        record("vanilla", 512, 0.0, 0.25),
        failure("vanilla", 512, 1.0),
        record(LONG, 256, 0.0),
        record(LONG, 256, 1.0),
        record(LONG, 512, 0.0),
        failure(LONG, 512, 0.0, sample=1),
    ]


def heatmaps(some: list[Fields], task: str) -> list[Heatmap]:
    return heatmap.heatmaps(samples.typed(some), task)


def figure_of(some: list[Fields], trained: int | None = 256) -> Figure:
    return draw(heatmaps(some, "needle"), trained, "lcbench-tiny")


def text_of(some: list[Fields], width: int = 80, **console: Any) -> str:
    output = Console(file=io.StringIO(), width=width, **console)
    print_heatmaps(output, heatmaps(some, "needle"), 256)
    return output.file.getvalue()  # type: ignore[attr-defined]


def linear(rgb: Any) -> Any:
    rgb = np.asarray(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def gamma(rgb: Any) -> Any:
    rgb = np.clip(rgb, 0, 1)
    return np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("eyes", ["all", "protan", "deutan"])
def test_lightness_rises_along_the_scale(eyes: str) -> None:
    """Evenly enough that a tenth of the scale is seen everywhere, in grey and without red or green receptors."""
    colors = [color_scale()(step / 50)[:3] for step in range(51)]
    if eyes != "all":
        colors = [gamma(np.array(BLIND[eyes]) @ linear(color)) for color in colors]
    levels = [lightness([float(c) for c in color]) for color in colors]
    steps = [after - before for before, after in pairwise(levels)]
    assert min(steps) > 0.4 and max(steps) < 3
    assert levels[0] < 20 and levels[-1] > 80


def test_the_scale_goes_from_red_to_green() -> None:
    (red, green, _, _), (red_end, green_end, _, _) = color_scale()(0.0), color_scale()(1.0)
    assert red > 3 * green and green_end > red_end


def test_lightness_is_that_of_cie() -> None:
    assert lightness((0, 0, 0)) == 0 and lightness((1, 1, 1)) == pytest.approx(100)
    assert lightness((1, 0, 0)) == pytest.approx(53.24, abs=0.01)
    assert lightness((0.5, 0.5, 0.5)) == pytest.approx(53.39, abs=0.01)


def test_points() -> None:
    vanilla, other = heatmaps(records(), "needle")
    assert (vanilla.method, vanilla.metric, other.method) == ("vanilla", "recall", LONG)
    assert vanilla.points[(0.0, 256)].score == 0.75 and vanilla.points[(0.0, 256)].samples == 2
    assert vanilla.points[(1.0, 512)].score is None and vanilla.points[(1.0, 512)].failed == "out of memory"
    half = other.points[(0.0, 512)]
    assert (half.score, half.samples, half.failed) == (1.0, 1, "out of memory")
    assert (1.0, 512) not in other.points


def test_failed_cells_are_hatched_and_missing_ones_blank() -> None:
    panels = figure_of(records()).axes[:2]
    boxes = [[patch for patch in panel.patches if isinstance(patch, Rectangle)] for panel in panels]
    assert [len(of) for of in boxes] == [4, 3]
    hatched = [{(box.get_x() + 0.5, box.get_y() + 0.5) for box in of if box.get_hatch()} for of in boxes]
    assert hatched == [{(1, 1)}, {(1, 0)}]
    colors = {box.get_facecolor() for box in boxes[0] if not box.get_hatch()}
    assert colors == {color_scale()(0.75), color_scale()(0.25)}
    assert [text.get_text() for text in panels[0].texts] == [".75", ".25", ".75"]


def test_one_scale_the_trained_length_and_every_title() -> None:
    figure = figure_of(records())
    first, second, bar = figure.axes
    assert bar.get_ylim() == (0, 1) and bar.get_ylabel() == "recall"
    for panel in (first, second):
        assert {tuple(line.get_xdata()) for line in panel.lines} == {(0.5, 0.5)}  # type: ignore[arg-type]
        assert [label.get_text() for label in panel.get_xticklabels()] == ["256", "512"]
        assert panel.get_ylim() == (1.5, -0.5)  # the beginning of the text on top
    assert first.get_title("left") == "vanilla"
    assert [label.get_text() for label in first.get_yticklabels()] == ["0%", "100%"]
    title = second.get_title("left")
    assert title.replace("\n", "") == LONG and max(map(len, title.split("\n"))) <= 32
    assert not figure_of(records(), trained=None).axes[0].lines


def test_caption() -> None:
    maps = heatmaps(records(), "needle")
    assert caption(maps, 256) == "1 to 2 samples per cell, trained at 256 tokens, 2 cells failed (out of memory)"
    assert caption(maps[:0] + heatmaps([record("a", 256, 0.5)], "needle"), None) == "1 sample per cell"
    below = figure_of(records())._supxlabel.get_text()  # type: ignore[attr-defined]
    assert "1 to 2 samples per cell" in " ".join(below.split()) and "lcbench-tiny" in below


@pytest.mark.parametrize("count", [1, 2, 6])
def test_nothing_overlaps(count: int) -> None:
    """Panels, their titles and ticks, the bar and the caption, of any number of methods."""
    some = [record(f"{LONG}{n}", 2**k, d / 4) for n in range(count) for k in range(7, 18) for d in range(5)]
    figure = figure_of(some)
    FigureCanvasAgg(figure).draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    boxes += [text.get_window_extent() for text in (figure._supxlabel, figure._supylabel)]  # type: ignore[attr-defined]
    assert_apart(figure, boxes)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_files_by_suffix_are_the_same_each_time(suffix: str, start: bytes, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        save(figure_of(records()), path)
    assert paths[0].read_bytes() == paths[1].read_bytes() and paths[0].read_bytes().startswith(start)


def test_text_in_a_pipe_and_in_a_terminal() -> None:
    shown = text_of(records())
    assert "\x1b" not in shown
    lines = shown.splitlines()
    assert lines[1].split() == ["depth", "256*", "512"]
    assert lines[2].split() == ["0%", ".75", ".25"] and lines[3].split() == ["100%", ".75", "failed"]
    assert "1 to 2 samples per cell" in shown
    colored = text_of(records(), force_terminal=True, color_system="truecolor")
    red, green, blue = (round(c * 255) for c in color_scale()(0.25)[:3])
    assert f"48;2;{red};{green};{blue}" in colored
    many = [record("vanilla", 256 * n, 0.5, n / 20) for n in range(1, 20)]
    assert max(map(len, text_of(many, width=40).splitlines())) <= 40
    assert all(f".{5 * n:02}" in text_of(many, width=40) for n in range(1, 20))


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="drawn at random in this run; run it with --depths 11"):
        heatmaps([record("a", 256, None)], "needle")
    with pytest.raises(UserError, match="unknown task of this run 'needl'; did you mean 'needle'"):
        heatmaps(records(), "needl")
    with pytest.raises(UserError, match=r"must end with .png, .svg or .pdf"):
        save(figure_of(records()), tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        save(figure_of(records()), tmp_path / "nowhere" / "a.png")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no run in results" in cli("plot", "needle").error
    folder = Path("results/one")
    folder.mkdir(parents=True)
    identity = {"model": "lcbench-tiny", "pretraining_length": 256}
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": identity, "sessions": []}))
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records()))
    done = cli("plot", "needle")
    assert done.code == 0 and ".75" in done.out and "figure: results/one/needle.png" in done.err
    assert (folder / "needle.png").read_bytes().startswith(b"\x89PNG")
    assert cli("plot", "needle", "--run", folder, "--out", "x.svg").code == 0 and Path("x.svg").exists()
    refused = cli("plot", "needle", "--out", "x.gif")
    assert refused.code == 2 and refused.out == "" and "must end with .png" in refused.error
