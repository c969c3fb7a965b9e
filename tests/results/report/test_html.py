"""The report's page without a browser: it holds what the runs say, and nothing that records contain becomes HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lcbench.results.report.heatmap import color_scale
from lcbench.results.report.html.frame import document
from lcbench.results.report.html.report import page
from tests.helpers import Fields, cli
from tests.results.report.pages import HOSTILE, book, failure, sample, scored, write_run

SVG = "{http://www.w3.org/2000/svg}"


class Reader(HTMLParser):
    """The tags of a page with the names of their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attributes)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data


def data_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*)</script>\n<script>', text)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def report(folder: Path, *records: Fields, **identity: Any) -> str:
    return page([write_run(folder / "run", records, **identity)])


def svg(text: str) -> ElementTree.Element:
    """The one curve of a page, read as strictly as XML is."""
    (found,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    return ElementTree.fromstring(found.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


def points(text: str) -> list[list[tuple[float, float]]]:
    """The corners of each stroke of each curve."""
    lines = [line for group in svg(text).iter(f"{SVG}g") if "line" in group.get("class", "") for line in group]
    strokes = [line.get("points", "").split() for line in lines if line.tag == f"{SVG}polyline"]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in stroke)] for stroke in strokes]


def ticks(text: str) -> list[str]:
    return [label.text or "" for label in svg(text).iter(f"{SVG}text") if label.get("text-anchor") == "end"]


def test_the_policy_names_the_styles_and_scripts_of_the_page() -> None:
    text = document("a & b", "<p>hello</p>", ".x{}", "run()", {"key": "</script>"})
    reader = Reader(text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    for kind, code in (("style", reader.texts["style"][0]), ("script", reader.texts["script"][-1])):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'") and "unsafe" not in policy[1]
    assert reader.texts["title"] == ["a & b"]
    assert "script-src 'none'" in document("", "") and "<script" not in document("", "")


def test_nothing_of_a_record_becomes_html(tmp_path: Path) -> None:
    """The page of hostile texts has the same elements, with the same attributes, as that of harmless ones."""

    def whole(folder: str, words: str) -> str:
        fields = {"prediction": words, "references": [words], "excerpt": [words], "document": words}
        records = [sample(**fields), sample(method=f"dca:chunk_size={words}", seq_len=512), failure(words, seq_len=512)]
        records += [scored(0.5, words, task=words, cell_depth=None), scored(0.5, words, task=words, number=1)]
        told = {"name": "needle", "description": words, "citation": words, "protocol": words}
        return page([write_run(tmp_path / folder, records, model=words, dtype=words, tasks=[told])])

    hostile, harmless = whole("hostile", HOSTILE), whole("harmless", "harmless")
    assert Reader(hostile).tags == Reader(harmless).tags
    assert data_of(hostile)["samples"][0]["prediction"] == HOSTILE


def test_any_text_can_be_written(tmp_path: Path) -> None:
    """Half a surrogate pair, which JSON can hold and UTF-8 cannot; numbers that JSON cannot hold."""
    folder = write_run(tmp_path / "run", [sample(prediction="\ud800 torn"), failure("\udfff", seq_len=512)])
    records = folder / "records.jsonl"
    records.write_text(records.read_text() + json.dumps(scored(float("nan"), number=2)) + "\n")
    outcome = cli("report", folder)
    assert outcome.code == 0, outcome.err
    data = data_of((folder / "report.html").read_text(encoding="utf-8"))
    assert data["samples"][0]["prediction"] == "\ufffd torn"
    assert data["samples"][2]["score"] is None and data["samples"][2]["scores"] == {"recall": "nan"}


def test_scores_cost_and_failures(tmp_path: Path) -> None:
    records = [scored(float(number < 3), number=number) for number in range(4)]
    records += [scored(1.0, seq_len=512, method="dca"), failure("out of <memory>", seq_len=1024, method="dca")]
    text = report(tmp_path, *records)
    cells = Reader(text).texts["td"]
    assert "0.750.30 to 0.95" in cells  # the mean and Wilson's interval
    assert "500 ± 0 tok/s300 MiB" in cells
    assert cells.count("failed") >= 1 and "<li>failed: dca at 1,024: out of &lt;memory&gt;</li>" in text
    headings = Reader(text).texts["th"]
    assert headings[:4] == ["method", "2561x", "5122x", "1,0244x"]
    assert "<h3>Cost</h3>" in text


def test_results_without_a_cost_have_no_table_of_it(tmp_path: Path) -> None:
    """As those that `lcbench import` reads."""
    free = {"prefill_seconds": 0.0, "decode_seconds": 0.0, "peak_memory_bytes": None}
    assert "<h3>Cost</h3>" not in report(tmp_path, {**scored(1.0), "cost": free})


def test_how_it_was_made(tmp_path: Path) -> None:
    text = report(tmp_path, sample(), failure(seq_len=512), dtype="float32", device="cpu")
    facts = dict(re.findall(r'<tr><th scope="row">([^<]+)</th><td>([^<]+)</td></tr>', text))
    assert facts["command"] == "lcbench run needle" and facts["samples"] == "2, 1 of them failed"
    assert facts["dtype, device, seed"] == "float32, cpu, 0" and facts["trained at"] == "256 tokens"
    assert json.loads(Reader(text).texts["pre"][0])["identity"]["dtype"] == "float32"


def test_a_curve_stands_where_its_scores_are(tmp_path: Path) -> None:
    """Lengths on a logarithmic scale, shares from 0 to 1 whatever the scores are."""
    text = report(tmp_path, *(scored(score, seq_len=n) for n, score in ((256, 1.0), (512, 0.5), (1024, 0.25))))
    (((x0, y0), (x1, y1), (x2, y2)),) = points(text)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x1 > x0
    assert (y2 - y0) / (y1 - y0) == pytest.approx(1.5, abs=0.01) and y1 > y0
    assert ticks(text) == ["0", "0.25", "0.5", "0.75", "1"]
    marks = [line for line in svg(text).iter(f"{SVG}line") if line.get("class") == "trained"]
    assert [float(mark.get("x1", "0")) for mark in marks] == [x0]


def test_a_curve_breaks_where_a_length_failed(tmp_path: Path) -> None:
    records = [scored(1.0, seq_len=n) for n in (256, 512, 2048, 4096)] + [failure(seq_len=1024)]
    text = report(tmp_path, *records)
    assert [len(stroke) for stroke in points(text)] == [2, 2]
    (cross,) = svg(text).iter(f"{SVG}path")
    assert "1,024: out of memory" in (cross[0].text or "")


def test_a_single_length_has_no_curve(tmp_path: Path) -> None:
    assert "<svg" not in report(tmp_path, scored(1.0), scored(0.0, number=1))


def test_perplexities(tmp_path: Path) -> None:
    """No heatmap; a logarithmic axis where they explode, and only there."""
    records = [book(nll, n, number) for n, nll in ((256, 2.0), (512, 4.0), (1024, 6.0)) for number in range(3)]
    text = report(tmp_path, *records)
    ((_, y0), (_, y1), (_, y2)) = points(text)[0]
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2) and y0 > y1
    assert ticks(text) == ["1", "10", "100", "1,000"]
    assert "lower is better" in text and 'class="heat"' not in text
    assert data_of(text)["full"] == {"nll": None}
    close = page([write_run(tmp_path / "close", [book(2.0, 256), book(2.1, 512)])])
    assert float(ticks(close)[0]) > 7 and float(ticks(close)[-1]) < 9


@pytest.mark.parametrize(
    ("metric", "scores", "full", "axis"),
    [
        ("score", (83.25, 0.5), 100, ["0", "25", "50", "75", "100"]),
        ("score", (0.5, 0.0), 100, ["0", "25", "50", "75", "100"]),
        ("points", (83.25, 41.5), None, ["0", "20", "40", "60", "80", "100"]),
        ("points", (-3.0, 6.0), None, ["-4", "-2", "0", "2", "4", "6"]),
        ("points", (0.25, 0.5), 1, ["0", "0.25", "0.5", "0.75", "1"]),
    ],
)
def test_other_scales(
    tmp_path: Path, metric: str, scores: tuple[float, float], full: float | None, axis: list[str]
) -> None:
    text = report(tmp_path, *(scored(score, metric, seq_len=256 << i) for i, score in enumerate(scores)))
    assert data_of(text)["full"] == {metric: full}
    assert ticks(text) == axis
    assert ('class="heat"' in text) == (full == 1)


def test_heatmaps(tmp_path: Path) -> None:
    """Colours of `lcbench plot`; the training length marked; a failed cell says so."""
    records = [scored(score, seq_len=n, cell_depth=d) for n, d, score in ((256, 0.0, 1.0), (512, 0.0, 0.5))]
    records += [scored(0.0, seq_len=256, cell_depth=1.0), scored(1.0, seq_len=512, cell_depth=1.0)]
    records += [failure("no <room>", seq_len=512, cell_depth=1.0, number=1)]
    text = report(tmp_path, *records)
    (heat,) = re.findall(r'<table class="heat">.*?</table>', text, re.DOTALL)
    cells = re.findall(r'<td class="([^"]*)"[^>]*>(?:<a [^>]*>)?([^<]*)', heat)
    assert cells == [("s100 trained", "1.00"), ("s50", ".50"), ("s0 trained", ".00"), ("failed", "failed")]
    assert 'title="no &lt;room&gt;"' in heat
    expected = "".join(f"{round(channel * 255):02x}" for channel in color_scale()(0.5)[:3])
    assert f".s50{{background:#{expected};" in text
    assert "1 sample per cell, trained at 256 tokens, 1 cell failed" in text


def test_excerpts_stand_once(tmp_path: Path) -> None:
    """The same prompt is asked with every method."""
    data = data_of(report(tmp_path, sample(), sample(method="dca"), sample(number=1, excerpt=["other"])))
    assert data["excerpts"] == [["Memorize it.", "The code is a red ring.", "What is the code?"], ["other"]]
    assert [each["excerpt"] for each in data["samples"]] == [0, 0, 1]


def test_several_runs_of_the_same_model(tmp_path: Path) -> None:
    """Their rows bear the run's name, their samples too; settings that differ are told."""
    one = write_run(tmp_path / "one", [scored(1.0)], dtype="float32")
    two = write_run(tmp_path / "two", [scored(0.0)], dtype="bfloat16")
    text = page([one, two, one])
    assert [each["run"] for each in data_of(text)["samples"]] == ["one", "two"]
    names = [name for name in Reader(text).texts["th"] if name.startswith("vanilla")]
    assert names[:2] == ["vanillaone", "vanillatwo"]
    assert "the runs differ in dtype: float32, bfloat16." in text
    assert len(re.findall(r'class="swatch c0 d0"', text)) == len(re.findall(r'class="swatch c1 d0"', text)) > 0


def swatches(text: str) -> dict[tuple[str, str], str]:
    """The colour of each method of each task, as its tables, curves and heatmaps have it."""
    found: dict[tuple[str, str], str] = {}
    for task, section in re.findall(r'<section id="task\d+"><h2>(.*?)</h2>(.*?)</section>', text, re.DOTALL):
        for classes, name in re.findall(r'<span class="swatch ([^"]*)"></span>(.*?)</(?:th|li|caption)>', section):
            assert found.setdefault((task, name), classes) == classes
    return found


def test_a_method_has_one_colour(tmp_path: Path) -> None:
    """In all tasks, whichever run they come from; where a task has it of two runs, one a run."""
    needle = write_run(tmp_path / "needle", [scored(1.0), scored(1.0, method="dca")])
    books = write_run(tmp_path / "books", [book(2.0), book(2.0, method="pi"), book(2.0, method="dca")])
    colors = swatches(page([needle, books]))
    assert colors == {
        **{(task, "vanilla"): "c0 d0" for task in ("needle", "pg19")},
        **{(task, "dca"): "c1 d0" for task in ("needle", "pg19")},
        ("pg19", "pi"): "c2 d0",
    }
    again = write_run(tmp_path / "again", [scored(0.0)])
    apart = swatches(page([needle, books, again]))
    small = "vanilla<small>{}</small>"
    assert apart["needle", small.format("needle")] != apart["needle", small.format("again")]
    assert apart["needle", "dca<small>needle</small>"] == apart["pg19", "dca"]
    assert (
        len({apart["needle", small.format("needle")], apart["needle", small.format("again")], apart["pg19", "dca"]})
        == 3
    )


def test_many_methods_stand_in_several_figures(tmp_path: Path) -> None:
    """Vanilla in each, in a colour that no other line of it has."""
    names = ["vanilla", *(f"pi:factor={n}" for n in range(2, 32))]
    shown = report(tmp_path, *(book(2.0, length, method=name) for name in names for length in (256, 512)))
    figures = re.findall(r'<figure class="curve">.*?</figure>', shown, re.DOTALL)
    colors = [re.findall(r'class="line (c\d d\d)"', figure) for figure in figures]
    assert "figure 5 of 5" in figures[-1] and sum(len(own) - 1 for own in colors) == 30
    assert all(own[0] == "c0 d0" and len({each[:2] for each in own}) == len(own) <= 8 for own in colors)


def test_why_an_interval_is_unknown(tmp_path: Path) -> None:
    """No band is promised that nobody can see."""
    text = report(tmp_path, *(book(2.0 + number, n, number) for n in (256, 512) for number in range(3)))
    assert text.count("unknown: too few books to estimate an interval; use more --samples.") == 1
    assert "bands" not in text and "interval unknown" in text


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [scored(0.3, seq_len=n, number=i) for n in (256, 512) for i in range(5)])
    assert page([run]) == page([run])


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest run without a name, beside its records; any page with --out, in a folder that is there."""
    monkeypatch.chdir(tmp_path)
    assert "there is no run in results" in cli("report").error
    run = write_run(Path("results") / "newest", [sample()])
    outcome = cli("report")
    told = "run: results/newest\nreport: results/newest/report.html\n"
    assert (outcome.code, outcome.out, outcome.err) == (0, "", told)
    refused = cli("report", run, "--out", "pages/all.html")
    assert refused.code == 2 and "cannot write pages/all.html" in refused.error and not Path("pages").exists()
    Path("pages").mkdir()
    assert cli("report", run, "--out", "pages/all.html").code == 0
    assert Path("pages/all.html").read_text() == (run / "report.html").read_text()
    empty = write_run(Path("results") / "empty", [])
    for arguments, said in (
        ([empty], "has no records yet"),
        (["nowhere"], "is not a run"),
        ([run, "--out", run], "is a folder, not a file"),
    ):
        failed = cli("report", *arguments)
        assert failed.code == 2 and said in failed.error
