"""Runs that lie elsewhere, runs that are not done, and several in one figure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lcbench.results.register import known_runs, newest_known_run, register
from lcbench.results.report.runs import read_runs, side_by_side
from tests.compared import RIGHT, cell, save
from tests.helpers import cli
from tests.results.report.samples import record
from tests.results.report.test_summary import run_folder

PASSKEY = ("run", "passkey", "--method", "vanilla", "--seq-len", "150", "--samples", "2")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_made_with_output_is_known_until_it_is_gone(tmp_path: Path) -> None:
    results, inner = tmp_path / "results", save(tmp_path / "results" / "inner", RIGHT)
    outer = save(tmp_path / "far" / "outer", RIGHT)
    for folder in (inner, outer, outer):
        register(results, folder)
    assert (results / ".runs").read_text() == f"{outer}\n"
    assert [path.resolve() for path in known_runs(results)] == [inner, outer]
    assert newest_known_run(results) == Path("far/outer")
    shutil.rmtree(outer)
    assert newest_known_run(results).resolve() == inner


def test_a_run_whose_path_has_breaks_is_known(tmp_path: Path) -> None:
    folders = [save(tmp_path / "far" / f"a{mark}b", RIGHT) for mark in ("\n", "\x0b", "\u2028", "\udcff")]
    for folder in folders * 2:
        register(tmp_path / "results", folder)
    assert {path.resolve() for path in known_runs(tmp_path / "results")} == set(folders)
    assert (tmp_path / "results" / ".runs").read_bytes().count(b"\n") == 4


def test_a_register_that_cannot_be_read_or_written_hides_nothing(tmp_path: Path) -> None:
    results, inner = tmp_path / "results", save(tmp_path / "results" / "inner", RIGHT)
    (results / ".runs").write_bytes(b"\xff\x00\n\nnowhere\n")
    assert known_runs(results) == [inner]
    (results / ".runs").unlink()
    (results / ".runs").mkdir()
    register(results, save(tmp_path / "outer", RIGHT))
    assert known_runs(results) == [inner]


def test_the_verbs_find_it_and_say_which_run_they_show(tmp_path: Path) -> None:
    assert cli(*PASSKEY, "--output", "else/where").code == 0
    shown = cli("table")
    assert shown.code == 0 and "run: else/where" in shown.err and "150" in shown.out
    assert "else/where" in cli("list", "runs").out
    drawn = cli("plot", "passkey")
    assert "run: else/where" in drawn.err and Path("else/where/passkey.png").exists()


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    assert cli(*PASSKEY, "--output", "mine").code == 0
    assert "unfinished" not in cli("table", "mine").err
    lines = Path("mine/records.jsonl").read_text().splitlines(keepends=True)
    Path("mine/records.jsonl").write_text(lines[0])
    assert "note: mine is unfinished: 1 of 2 samples." in cli("table", "mine").err
    assert "1 of 2" in cli("list", "runs").out
    failed = json.loads(lines[0]) | {"error": "out of memory"}  # of a cell that failed nothing is to come
    Path("mine/records.jsonl").write_text(json.dumps(failed) + "\n")
    assert "unfinished" not in cli("table", "mine").err


def test_plot_sets_runs_side_by_side(tmp_path: Path) -> None:
    runs = [
        run_folder(tmp_path / name, [record("dca", n) for n in (128, 256)] + [record("vanilla", 256)], model=model)
        for name, model in (("one", "a/small"), ("two", "b/large"))
    ]
    methods = {one.identity.method for one in side_by_side(read_runs(runs)).records}
    assert methods == {f"{method} on {model}" for method in ("dca", "vanilla") for model in ("small", "large")}
    done = cli("plot", "passkey", "--run", runs[0], "--run", runs[1], "--out", "both.svg")
    assert done.code == 0 and "dca on small" in done.out and "dca on large" in done.out
    again = save(tmp_path / "three", cell([0.5], method="dca"), model="m"), save(tmp_path / "four", RIGHT, model="m")
    assert {one.identity.method for one in side_by_side(read_runs(again)).records} == {"dca", "vanilla"}
    twice = save(tmp_path / "five", RIGHT, model="m")
    named = {one.identity.method for one in side_by_side(read_runs([twice, again[1]])).records}
    assert named == {"vanilla in five", "vanilla in four"}
