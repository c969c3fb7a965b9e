"""Outputs replace nothing but files, and only files that are not part of a run; what is half done has no name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.core.files import replaced, require_regular
from lcbench.results.outputs import write_output
from lcbench.results.records import LOCK, MANIFEST, RECORDS
from tests.helpers import cli
from tests.recorded import record, write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "run", *map(record, range(3)))
    return tmp_path / "run"


@pytest.mark.parametrize("name", [MANIFEST, RECORDS, LOCK])
@pytest.mark.parametrize("verb", ["report", "export"])
def test_files_of_a_run_are_no_outputs(run: Path, verb: str, name: str) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    (run.parent / "link").symlink_to(run / name)
    for out in (run / name, run.parent / "link"):
        refused = cli(verb, run, "--out", out)
        assert refused.code == 2 and "is a file of a run; pass another" in refused.error
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_name_that_promises_another_format_is_refused(run: Path) -> None:
    for words, name, suffix in (
        (("export", run, "--out"), "x.csv", ".parquet"),
        (("report", run, "--out"), "x.PDF", ".html"),
        (("compare", run, run, "--markdown"), "x.html", ".md"),
    ):
        refused = cli(*words, run.parent / name)
        assert refused.code == 2 and refused.error.endswith(f"has the suffix of another format; use {suffix}.")
    assert cli("export", run, "--out", run.parent / "rows").code == 0


def test_a_file_of_that_name_elsewhere_is_one(tmp_path: Path) -> None:
    write_output(tmp_path / MANIFEST, "{}", "--json")
    assert (tmp_path / MANIFEST).read_text() == "{}"


def test_temporary_files_of_others_stay(tmp_path: Path) -> None:
    page, theirs = tmp_path / "page.html", tmp_path / "page.html.tmp"
    theirs.write_text("mine")
    (tmp_path / "page.html.1.tmp").mkdir()
    write_output(page, "new", "--out")
    assert page.read_text() == "new" and theirs.read_text() == "mine"
    with pytest.raises(FileNotFoundError), replaced(page) as temporary:
        temporary.unlink()
    assert page.read_text() == "new" and theirs.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("verb", ["report", "export"])
def test_a_pipe_that_nobody_reads(run: Path, verb: str) -> None:
    """Is not waited for, and stays what it is."""
    os.mkfifo(run.parent / "pipe")
    refused = cli(verb, run, "--out", run.parent / "pipe")
    assert refused.code == 2 and "pipe" in refused.error and (run.parent / "pipe").is_fifo()


def test_devices(run: Path) -> None:
    assert cli("report", run, "--out", "/dev/null").code == 0 and Path("/dev/null").is_char_device()
    assert cli("export", run, "--out", "/dev/null").code == 2 and Path("/dev/null").is_char_device()
    for path in ("/dev/zero", "/dev/null"):
        with pytest.raises(OSError, match="no file"):
            require_regular(Path(path))


def test_half_a_figure_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from lcbench.results.report.figure import save

    figure = Figure()
    figure.add_subplot().plot([1, 2])
    save(figure, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for name in ("a.png", "b.svg"):
        with pytest.raises(UserError, match=rf"cannot write .*{name}: No space left on device; pass another --out"):
            save(figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == before and os.listdir(tmp_path) == ["a.png"]
