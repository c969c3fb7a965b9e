"""Curves: what is drawn is what the rows say, failures and bands that show, the same bytes each time."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from rich.console import Console

from lcbench.core.errors import UserError
from lcbench.results.manifest import Manifest
from lcbench.results.report.curves import COLORS, caption, curves, draw, own_band, print_curves
from lcbench.results.report.figure import broken, save
from lcbench.results.report.heatmap import lightness
from lcbench.results.report.panels import in_panels
from lcbench.results.report.runs import Run
from lcbench.results.report.summary import summarise_runs
from tests.helpers import Fields, cli
from tests.results.report.figures import assert_apart
from tests.results.report.samples import typed

LONG = "self_extend:group_size=8,neighbor_window=1024,log_scale_base=4096"
IDENTITY = {"model": "lcbench-tiny", "pretraining_length": 256, "tasks": [{"name": "pg19", "protocol": "prefix"}]}
RUN = Manifest.from_json({"format": 1, "identity": IDENTITY, "sessions": []}).identity


def record(method: str, seq_len: int, nll: float, sample: int = 0, task: str = "pg19", **more: Any) -> Fields:
    """A book scored at seq_len - 1 tokens, each as dear as the others."""
    tokens = seq_len - 1
    buckets = [[2**k, 2 ** (k + 1) - 1, nll * 2**k, 2**k] for k in range(int(math.log2(seq_len)))]
    return {
        "id": f"{task}/{method}/{seq_len}/uniform/{sample}",
        "task": task,
        "method": method,
        "method_options": {},
        "model": "lcbench-tiny",
        "seq_len": seq_len,
        "cell_depth": None,
        "depth": None,
        "sample": sample,
        "seed": sample,
        "prompt_sha256": f"{seq_len} {sample}",
        "prompt_tokens": seq_len,
        "max_new_tokens": 0,
        "references": [],
        "output_tokens": 0,
        "prediction": "",
        "metric": "nll",
        "scores": {"nll": nll, "bits_per_byte": nll / 3, "bits_per_word": nll * 2},
        "nll": {
            "file": "nll/x.npz",
            "tokens": tokens,
            "bytes": 4 * tokens,
            "words": tokens // 2 + 1,
            "averaging": "tokens",
            "buckets": buckets,
        },
        "error": None,
        "cost": {"prefill_seconds": 1.0, "decode_seconds": 0.0, "peak_memory_bytes": 1, "reused_tokens": 0},
    } | more


def failure(method: str, seq_len: int, **more: Any) -> Fields:
    return {**record(method, seq_len, 0.0, **more), "error": "out of memory", "scores": {}}


def records() -> list[Fields]:
    """Vanilla goes up and fails at the end, the other goes down; eight books."""
    spread = [0.05 * n for n in range(8)]
    return [
        *[
            record("vanilla", 2**k, 1.0 + 0.6 * (k - 7) + more, n)
            for k in (7, 8, 9, 10)
            for n, more in enumerate(spread)
        ],
        *[failure("vanilla", 2048, sample=n) for n in range(8)],
        *[
            record(LONG, 2**k, 2.0 - 0.2 * (k - 7) + more, n)
            for k in (7, 8, 9, 10, 11)
            for n, more in enumerate(spread)
        ],
    ]


def run_of(some: list[Fields]) -> Run:
    return Run("run", RUN, typed(some))


def figure_of(some: list[Fields], task: str = "pg19", trained: int | None = 256) -> Figure:
    return draw(curves(run_of(some), task), trained, "lcbench-tiny")


def text_of(some: list[Fields], task: str = "pg19", width: int = 80, **console: Any) -> str:
    output = Console(file=io.StringIO(), width=width, **console)
    print_curves(output, curves(run_of(some), task), 256)
    return output.file.getvalue()  # type: ignore[attr-defined]


def drawn(figure: Figure, panel: int = 0) -> dict[str, dict[float, float]]:
    """What the lines of a panel show, by label."""
    lines = figure.axes[panel].lines
    return {str(line.get_label()): dict(zip(*map(list, line.get_data()), strict=True)) for line in lines}


def test_lines_and_bands_are_the_rows() -> None:
    rows = {(row.method, row.seq_len): row for row in summarise_runs([run_of(records())])}
    figure = figure_of(records())
    lines = drawn(figure)
    for method, lengths in (("vanilla", (128, 256, 512, 1024)), (LONG, (128, 256, 512, 1024, 2048))):
        assert lines[method] == {length: rows[method, length].mean for length in lengths}
        assert lines[method][256] == pytest.approx(math.exp(1.6 + 0.175 if method == "vanilla" else 1.8 + 0.175))
    bands = [np.concatenate([path.vertices for path in band.get_paths()]) for band in figure.axes[0].collections]
    for band, (method, length) in zip(bands, (("vanilla", 512), (LONG, 2048)), strict=True):
        row = rows[method, length]
        assert row.low is not None and row.mean is not None and row.high is not None
        edges = {float(y) for x, y in band if x == length}
        assert edges == {row.low, row.high} and row.low < row.mean < row.high


def test_failures_and_the_trained_length_show() -> None:
    figure = figure_of(records())
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [list(map(float, line.get_xdata())) for line in crosses] == [[2048.0]]  # type: ignore[call-overload]
    assert crosses[0].get_color() == COLORS[0]
    for axes in figure.axes:
        assert [256.0, 256.0] in [list(map(float, line.get_xdata())) for line in axes.lines]  # type: ignore[call-overload]
    plain = figure_of(records(), trained=None)
    assert len(plain.axes[0].lines) == len(figure.axes[0].lines) - 1
    assert len(figure_of(records(), trained=10**6).axes[0].lines) == len(plain.axes[0].lines)


def test_positions_at_the_longest_length() -> None:
    some = [record("a", 64, 1.0), record("a", 1024, 2.0), record("a", 1024, 4.0, 1), record("b", 1024, 1.0)]
    some[2]["nll"]["buckets"] = [[512, 1023, 300.0, 100]]
    lines = drawn(figure_of(some), panel=1)
    assert "1,024" in figure_of(some).axes[1].get_title()
    last = math.sqrt(512 * 1024)
    assert lines["a"][last] == pytest.approx((2.0 * 512 + 300.0) / 612)  # by tokens, not by books
    assert lines["b"][last] == pytest.approx(1.0)
    assert min(lines["a"]) > 4 and len(lines["a"]) == 8  # from position 4 on
    (panel,) = (axes for axes in figure_of([*some, failure("b", 4096)]).axes if "position" in axes.get_title())
    assert "1,024" in panel.get_title()  # the longest that has a score


def test_records_that_do_not_tell_positions_have_one_panel() -> None:
    some = records()
    for one in some:
        if one["error"] is None:
            one["nll"] = {**one["nll"], "buckets": []}
    assert [axes.get_title() for axes in figure_of(some).axes] == ["pg19"]


def test_a_log_scale_where_the_values_spread() -> None:
    near, far = figure_of([record("a", 128, 1.0), record("b", 128, 2.0)]), figure_of(records())
    assert near.axes[0].get_yscale() == "linear" and far.axes[0].get_yscale() == "log"
    FigureCanvasAgg(far).draw()
    labels = [label.get_text() for label in far.axes[0].get_yticklabels()]
    assert "5" in labels and "10" in labels and not any("times" in label or "e" in label for label in labels)
    assert not [label for label in far.axes[0].get_yticklabels(minor=True) if label.get_text()]


def passkeys() -> list[Fields]:
    """Right at 256, wrong at 512."""
    some = [
        record("vanilla", length, 0.0, n, task="passkey", metric="exact_match")
        for length in (256, 512)
        for n in range(3)
    ]
    for one in some:
        del one["nll"]
        one["scores"] = {"exact_match": float(one["seq_len"] == 256)}
    return some


def test_a_single_length_shows_its_intervals_and_no_trained_length_beside_it() -> None:
    some = [one for one in records() if one["seq_len"] == 512]
    lines = figure_of(some, trained=500).axes[0].lines
    shown = [[float(y) for y in line.get_ydata()] for line in lines if str(line.get_label()).startswith("_")]
    assert shown == [[row.low, row.high] for row in summarise_runs([run_of(some)])]


def test_names_are_broken_between_options_and_parts() -> None:
    assert broken("dca:chunk_size=48+yarn:factor=1", 30) == "dca:chunk_size=48+\nyarn:factor=1"
    assert broken(LONG, 42).split("\n") == ["self_extend:group_size=8,", "neighbor_window=1024,log_scale_base=4096"]


def test_a_task_that_is_answered_has_one_panel_from_0_to_1() -> None:
    figure = figure_of(passkeys(), "passkey")
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert -0.1 < low < 0 and 1 < high < 1.1 and axes.get_ylabel() == "exact match"
    assert drawn(figure)["vanilla"] == {256: 1.0, 512: 0.0}
    assert "passkey: exact match by length" in text_of(passkeys(), "passkey")
    hundred = [one | {"metric": "score", "scores": {"score": 100 * score}} for one in passkeys()
               for score in one["scores"].values()]  # fmt: skip
    (axes,) = figure_of(hundred, "passkey").axes
    assert axes.get_ylim() == (100 * low, 100 * high)
    assert [line.count("█") for line in text_of(hundred, "passkey").splitlines()] == [
        line.count("█") for line in text_of(passkeys(), "passkey").splitlines()
    ]
    mixed = figure_of([*passkeys(), *records(), *[{**r, "task": "pg19:stride=2"} for r in records()]])
    assert [axes.get_title() for axes in mixed.axes if "position" not in axes.get_title()] == ["pg19", "pg19:stride=2"]


def test_text() -> None:
    lines = text_of(records()).splitlines()
    assert lines[0] == "pg19: perplexity by length, bars are logarithmic"
    assert lines[1] == "vanilla"
    assert lines[2].split()[0] == "128" and lines[3].split()[0] == "256*"
    bars = [line.count("█") for line in lines[2:6]]
    assert bars == sorted(bars) and bars[0] > 0 and len(set(bars)) == 4
    assert f" {math.exp(1.6 + 0.175):.2f}  " in lines[3] and " to " in lines[3]
    assert lines[6].split(maxsplit=1) == ["2k", "failed: out of memory"]
    assert "\x1b" not in "".join(lines) and max(map(len, lines)) <= 80
    assert (
        "8 books per point, 95 % intervals, protocol prefix, trained at 256 tokens (*), 1 failed (out of memory)"
        in (" ".join(" ".join(lines).split()))
    )
    narrow = text_of(records(), width=46).splitlines()
    assert max(len(line) for line in narrow if line != LONG) <= 46
    assert "\x1b" in text_of(records(), force_terminal=True, color_system="truecolor")


def test_a_perplexity_beyond_all_numbers() -> None:
    some = [record("a", 128, 1.0), record("a", 256, 800.0)]
    FigureCanvasAgg(figure_of(some)).draw()
    assert "inf" in text_of(some) and len(drawn(figure_of(some))["a"]) == 1


def test_caption() -> None:
    one = curves(run_of([record("a", 512, 1.0)]), "pg19")
    assert caption(one, 256) == "1 book per point, protocol prefix, trained at 256 tokens"
    assert caption(one, None) == "1 book per point, protocol prefix"
    assert "95 % bands" in caption(curves(run_of(records()), "pg19"), 256)
    assert "(dashed)" in caption(curves(run_of(records()), "pg19"), 256)


def test_colors_are_told_apart_on_white() -> None:
    levels = [lightness(to_rgb(color)) for color in COLORS]
    assert max(levels) < 75
    assert len(set(COLORS)) == len(COLORS)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_nothing_overlaps(count: int) -> None:
    some = [record(f"{LONG}{n}", 2**k, 1.0 + n / 9, m) for n in range(count) for k in range(7, 18) for m in range(2)]
    figure = figure_of(some)
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    boxes.append(figure._supxlabel.get_window_extent(renderer))  # type: ignore[attr-defined]
    assert_apart(figure, boxes)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_files_are_the_same_each_time(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        save(figure_of(records()), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": 1, "identity": IDENTITY, "sessions": []}))
    lines = [*records(), *passkeys()]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cli("plot", "pg19", "--run", folder)
    assert done.code == 0 and "perplexity by length" in done.out and f"figure: {folder / 'pg19.png'}" in done.err
    assert (folder / "pg19.png").read_bytes().startswith(b"\x89PNG")
    assert cli("plot", "passkey", "--run", folder, "--out", tmp_path / "p.svg").code == 0
    refused = cli("plot", "pg20", "--run", folder)
    assert refused.code == 2 and "unknown task of this run 'pg20'; did you mean 'pg19'" in refused.error
    with pytest.raises(UserError, match="unknown task"):
        curves(run_of(records()), "needle")


def test_a_band_begins_where_a_curve_leaves_the_one_that_it_equals() -> None:
    near, far = (128, 256), (512, 1024)
    some = [record("dca", length, 1.0 + n, n, equals="vanilla") for length in near for n in range(3)]
    some += [record(method, length, 1.0 + n, n) for method in ("vanilla", "dca") for length in far for n in range(3)]
    rows = curves(run_of(some), "pg19")[0].methods
    lengths = [[row.seq_len for row in own_band(rows["dca"], methods)] for methods in (rows, {"dca"})]
    assert lengths == [[256, 512, 1024], [128, 256, 512, 1024]]  # without vanilla nothing else shows the band
    assert own_band(rows["dca"][:2], rows) == [] and own_band(rows["vanilla"], rows) == rows["vanilla"]


def test_many_methods_stand_in_several_panels_with_vanilla_in_each() -> None:
    names = ["vanilla", *(f"pi:factor={n}" for n in range(2, 15))]
    figure = figure_of([record(name, 2**k, 1.0 + n / 9) for n, name in enumerate(names) for k in (7, 8)])
    shown = [[m for m in drawn(figure, n) if m in names] for n in range(0, len(figure.axes), 2)]
    assert [len(one) for one in shown] == [7, 8] and all(one[0] == "vanilla" for one in shown)
    assert [name for one in shown for name in one[1:]] == names[1:]
    assert figure.axes[0].get_ylim() == figure.axes[2].get_ylim()
    colors = [line.get_color() for line in figure.axes[2].lines if line.get_label() in names]
    assert len(set(colors)) == 8
    assert in_panels(names[:12], str) == [names[:12]]
