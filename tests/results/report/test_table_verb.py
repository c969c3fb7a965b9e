"""`lcbench table` as it is typed, over one run and over several."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from lcbench.results.records import MANIFEST
from lcbench.results.report.tables import FORMATS
from tests.helpers import cli
from tests.results.report.samples import record
from tests.results.report.test_summary import run_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    scores = {"dca": 1.0, "vanilla": 0.0}
    records = [record(method, sample=k, score=score) for method, score in scores.items() for k in range(20)]
    return run_folder(tmp_path / "one", records, dtype="float32")


@pytest.mark.parametrize(
    ("format", "sign"),
    [("text", ".84-1.00"), ("markdown", "**1.00**"), ("latex", r"\textbf{1.00}"), ("csv", ",True,"), ("json", "true")],
)
def test_every_format(format: str, sign: str, run: Path) -> None:
    shown = cli("table", run, "--format", format)
    assert (shown.code, shown.err) == (0, "") and shown.out.count(sign) == 1


def test_formats_are_in_the_help_and_an_unknown_one_is_named(run: Path) -> None:
    assert all(format in cli("table", "--help").out for format in FORMATS)
    wrong = cli("table", run, "-f", "latxe")
    assert wrong.code == 2 and "did you mean 'latex'?" in wrong.error


def test_several_runs_as_arguments_and_as_options(run: Path) -> None:
    two = shutil.copytree(run, run.with_name("two"))
    manifest = json.loads((two / MANIFEST).read_text())
    manifest["identity"] |= {"dtype": "bfloat16", "pretraining_length": 128}
    (two / MANIFEST).write_text(json.dumps(manifest))
    for arguments in ([run, two], ["--run", run, "--run", two], [run, "--run", two]):
        shown = cli("table", *arguments, "--format", "csv")
        assert shown.err == "note: the runs differ in dtype: float32, bfloat16.\n"
        rows = list(csv.DictReader(io.StringIO(shown.out)))
        assert [(row["run"], row["method"]) for row in rows] == [
            (name, method) for name in ("one", "two") for method in ("dca", "vanilla")
        ]
    shown = cli("table", run, two)
    assert "in one" in shown.out and "in two" in shown.out and "x)" not in shown.out  # trained at other lengths
    assert "(1x)" in cli("table", run).out


def test_no_run(tmp_path: Path, run: Path) -> None:
    missing = cli("table", run, tmp_path / "nowhere")
    assert missing.code == 2 and "nowhere is not a run" in missing.error
