"""Ctrl-C and places that cannot be written, for every verb that writes what it was told to."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from lcbench.core import files
from tests.helpers import cli, command
from tests.recorded import record, write

WRITERS = {
    "report": ("report", "run", "--out", "x.html"),
    "export": ("export", "run", "--out", "x.parquet"),
    "plot": ("plot", "passkey", "--run", "run", "--out", "x.svg"),
    "compare": ("compare", "run", "run", "--markdown", "x.md"),
}


@pytest.fixture(autouse=True)
def a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("run"), *(record(n) for n in range(3)))


@pytest.mark.parametrize("verb", WRITERS)
def test_ctrl_c_while_it_is_written(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """130, one line, and what was there before."""
    words = WRITERS[verb]
    Path(words[-1]).write_text("before")

    def pressed(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", pressed)
    shown = cli(*words)
    assert (shown.code, shown.error) == (130, "interrupted.")
    assert Path(words[-1]).read_text() == "before" and {path.name for path in Path().iterdir()} == {"run", words[-1]}


@pytest.mark.parametrize("place", ["nowhere/x", "folder", "file/x", "loop", "full", "pipe", "run/run.json"])
@pytest.mark.parametrize("verb", WRITERS)
def test_a_place_that_cannot_be_written(verb: str, place: str) -> None:
    suffix = Path(WRITERS[verb][-1]).suffix
    named = Path(place if place.endswith(".json") else place + suffix)
    Path("file").write_text("x")
    match place:
        case "folder":
            named.mkdir()
        case "loop":
            named.symlink_to(named)
        case "full":
            named.symlink_to("/dev/full")
        case "pipe":
            os.mkfifo(named)
    before = {path: path.lstat().st_mtime_ns for path in Path("run").iterdir()}
    shown = cli(*WRITERS[verb][:-1], named)
    assert shown.code == 2 and shown.error.startswith("error: ") and str(named) in shown.error, shown
    assert {path: path.lstat().st_mtime_ns for path in Path("run").iterdir()} == before
    assert not list(Path().rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.3, 3.0, 6.0])
def test_ctrl_c_at_any_time_of_training(at: float) -> None:
    Path("book.txt").write_text("It rained. " * 5000)
    words = ("train", "lm", "--out", "trained", "--text", "book.txt", "--seq-len", "64", "--steps", "100000")
    running = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True)
    time.sleep(at)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=120)[1]
    # A shell shows both as 130: Python ends by the signal where it came within an `exec` of an import.
    assert running.returncode in (130, -signal.SIGINT) and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("interrupted")
    assert not list(Path().rglob("*.tmp"))
