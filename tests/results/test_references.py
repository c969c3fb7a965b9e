"""Published figures: every file that ships can be read, a fault in one is told in a sentence, and figures stand beside
one's own without being compared."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from lcbench.core.errors import UserError
from lcbench.results.records import MANIFEST
from lcbench.results.references import located, read_references, reference_files
from lcbench.results.report.html.report import page
from lcbench.run.requests import read_requests
from lcbench.tasks import load_task, task_files
from tests.compared import cell
from tests.helpers import Fields, cli
from tests.results.report.test_summary import run_folder


@pytest.mark.parametrize("name", reference_files())
def test_files_that_ship(name: str) -> None:
    tables = read_references(name)
    assert tables and all(table.source and table.rows for table in tables)
    for table in tables:
        for scores in table.rows.values():
            assert scores and all(length % 1024 == 0 for length in scores)
        if not table.mean_of:  # each is about a task that there is, in its units
            task = load_task(table.task.replace("source=pg19", "protocol=prefix"))
            assert table.metric in (task.metric, "perplexity") and table.matches(table.task)
    assert f"references/{name}" not in task_files()


def test_rulers_table() -> None:
    (ruler,) = read_references("ruler")
    assert (ruler.task, ruler.mean_of, len(ruler.rows)) == ("ruler", 13, 45)
    assert ruler.rows["Llama2 7B"] == {4096: 0.856}
    assert ruler.rows["Llama3.1 8B"] == pytest.approx(
        {4096: 0.955, 8192: 0.938, 16384: 0.916, 32768: 0.874, 65536: 0.847, 131072: 0.77}
    )
    assert not ruler.matches("ruler")


def test_a_figure_is_of_a_task_with_its_options() -> None:
    table = read_references("chunkllama")[0]
    assert table.matches("pg19:protocol=sliding,source=pg19") and table.rows["ChunkLlama2 7B"][16384] == 7.64
    assert not any(map(table.matches, ("pg19", "pg19:source=books.jsonl", "passkey:source=pg19")))


ROW = {"name": "M", "scores": {"4k": 1.0}}
TABLE = {"task": "passkey", "metric": "exact_match", "rows": [ROW]}


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ({}, "field `tables[0].task` is missing"),
        (TABLE | {"metrics": 1}, "field `tables[0].metrics` is unknown"),
        (TABLE | {"rows": [ROW | {"score": 1}]}, "field `tables[0].rows[0].score` is unknown"),
        (TABLE | {"rows": [ROW, ROW]}, "field `tables[0].rows` has 'M' twice"),
        (
            TABLE | {"rows": [{"name": "M", "scores": {"4q": 1.0}}]},
            "`tables[0].rows[0].scores.4q` is not a length in tokens",
        ),
        (TABLE | {"rows": [{"name": "M", "scores": {"4k": "x"}}]}, "`tables[0].rows[0].scores.4k` must be a number"),
        (TABLE | {"mean_of": 13}, "field `tables[0]` must have either `metric` or `mean_of`"),
        (TABLE | {"metric": None, "mean_of": 13}, "`tables[0].full_score` requires `mean_of`"),
        (
            TABLE | {"metric": None, "mean_of": 13, "full_score": 0.5},
            "`tables[0].rows[0].scores.4k` must be from 0 to the full score 0.5, not 1",
        ),
        (TABLE | {"task": "a:b"}, "field `tables[0].task` is not a task"),
    ],
)
def test_a_fault_is_told_in_a_sentence(table: Fields, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"source": "me", "tables": [table]}))
    with pytest.raises(UserError) as raised:
        read_references(str(path))
    assert wrong in str(raised.value) and str(raised.value).startswith(f"{path}: ")
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump({"references": ["mine.yaml"], "runs": [{"task": "passkey"}]}))
    done = cli("run", suite, "--dry-run")
    assert done.code == 2 and wrong in done.error  # before anything runs


@pytest.mark.parametrize("names", ["ruler", [], [1], {"ruler": 1}])
def test_references_of_a_suite_are_a_list_of_names(names: object, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump({"references": names, "runs": [{"task": "passkey"}]}))
    with pytest.raises(UserError, match=r"suite suite: references must be a list of names such as \[ruler\], not "):
        read_requests(str(suite))


def test_an_unknown_name_and_suites_that_ship() -> None:
    with pytest.raises(UserError, match="unknown references 'rulr'; did you mean 'ruler'"):
        located("rulr", Path())
    named = {suite: read_requests(suite)[1].get("references") for suite in ("quoted", "ruler", "papers")}
    assert named == {"quoted": ("ruler",), "ruler": ("ruler",), "papers": ("chunkllama", "longllama")}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a suite that names a file of its own: a task, and a benchmark of two."""
    means = {
        "task": "ruler",
        "mean_of": 2,
        "full_score": 100,
        "rows": [{"name": "Theirs", "scores": {"256": 90, "512": 80}}],
    }
    one = {"task": "passkey", "metric": "exact_match", "rows": [{"name": "LongX", "scores": {"256": 0.5, "4k": 0.25}}]}
    other = {"task": "passkey", "metric": "f1", "rows": [{"name": "Other metric", "scores": {"256": 0.5}}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"source": "A. Nonymous", "tables": [means, one, other]}))
    records = [
        each
        for task in ("ruler/vt", "ruler/cwe", "passkey")
        for length in (256, 512)
        for each in cell([1.0] * 20, task=task, seq_len=length)
    ]
    folder = run_folder(tmp_path / "run", records)
    manifest = json.loads((folder / MANIFEST).read_text())
    session = {"started_at": None, "references": [str(tmp_path / "mine.yaml")]}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"sessions": [session]}))
    return folder


def test_figures_beside_a_task_and_a_mean(run: Path) -> None:
    shown = cli("table", run, "--format", "markdown").out
    assert "| `LongX (published)` | 0.50 |  |  |  |" in shown  # no interval, no cost, no length that was not run
    assert "| `Theirs (published)` | 0.850 | 256 | 0.850 | 0.900 | 0.800 |" in shown
    assert "Other metric" not in shown and "4,096" not in shown
    assert shown.count("published: not measured here, on other samples, not compared; A. Nonymous.") == 1
    assert "**0.50**" not in shown and "unknown" not in shown
    text = cli("table", run).out
    assert "LongX" in text and "Theirs" in text and "A. Nonymous" in text
    rows = list(csv.DictReader(io.StringIO(cli("table", run, "--format", "csv").out)))
    assert {row["published"] for row in rows if row["method"] in ("LongX", "Theirs")} == {"A. Nonymous"}
    assert {row["published"] for row in rows if row["method"] == "vanilla"} == {""}
    tex = cli("table", run, "--format", "latex").out
    assert r"\texttt{LongX (published)} & 0.50 &  & " in tex


def test_names_of_a_file_are_text(run: Path) -> None:
    path = run.parent / "mine.yaml"
    path.write_text(path.read_text().replace("Theirs", '"\\e[2JTheirs<b>"').replace("LongX", '"\\e[2JLongX<b>"'))
    for format in ("text", "markdown", "latex", "csv", "json"):
        assert "\x1b" not in cli("table", run, "--format", format).out
    assert "<b>" not in page([run]).replace("<b>1.00</b>", "")


def test_a_page_shows_figures_in_tables_alone(run: Path) -> None:
    shown = page([run])
    tables, rest = shown.split('<section id="samples">', 1)
    assert tables.count("LongX<small>published</small>") == 1 and "LongX" not in rest
    assert "Theirs<small>published</small>" in tables and "A. Nonymous." in tables
    section = tables[tables.index("<h2>passkey") : tables.index('<section id="headlines">')]
    table, others = section.split("<h3>By length", 1)
    assert "LongX" in table and "<td>0.50</td>" in table and "LongX" not in others  # no curve, no cost


def test_a_file_that_is_gone_leaves_the_table(run: Path) -> None:
    (run.parent / "mine.yaml").unlink()
    shown = cli("table", run)
    assert shown.code == 0 and "note: published figures are left out: cannot read " in shown.err
    assert "LongX" not in shown.out and "headline of ruler" in shown.out


@pytest.mark.slow
def test_a_suite_says_in_its_run_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"source": "me", "tables": [TABLE]}))
    suite = tmp_path / "suite.yaml"
    request = {"task": "passkey", "seq_len": 256, "samples": 1}
    suite.write_text(yaml.safe_dump({"references": ["mine.yaml", "ruler"], "runs": [request]}))
    done = cli("run", suite, "--output", tmp_path / "run")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "run" / MANIFEST).read_text())
    assert manifest["sessions"][0]["references"] == [str(tmp_path / "mine.yaml"), "ruler"]
