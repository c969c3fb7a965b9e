"""The command line without a new process, model folders to break, and what two runs must agree on."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import typer.main

from lcbench.__main__ import main
from lcbench.engine.embedded import REFERENCE_MODELS
from lcbench.results.records import RECORDS, read_records

TINY = REFERENCE_MODELS / "lcbench-tiny"
REPOSITORY = Path(__file__).parents[1]
Fields = dict[str, Any]  # of a record, as on disk
parser = functools.cache(typer.main.get_command)  # of all verbs and options: it takes longer to make than most runs


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line of stderr: a failed command's one sentence."""
        return self.err.strip().split("\n")[-1]


def cli(*arguments: str | Path) -> Outcome:
    """Run `lcbench ARGUMENTS` in this process. An exception that the command line lets through comes out here too, as
    does one of its stdout, which takes no half character: it encodes as that of a process does."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    code = 0
    with (
        mock.patch.object(sys, "argv", ["lcbench", *map(str, arguments)]),
        mock.patch.object(typer.main, "get_command", parser),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    printed, told = _text(out), _text(err)
    if "failed unexpectedly" in told:
        raise AssertionError(told)
    return Outcome(code, printed, told)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def command(*arguments: str | Path) -> list[str]:
    """The same as a process of its own."""
    return [sys.executable, "-m", "lcbench", *map(str, arguments)]


def process(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end, its output in pipes."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command(*arguments), cwd=cwd, env=variables, capture_output=True, text=True, timeout=300, check=False
    )


def model_folder(folder: Path, *, drop: tuple[str, ...] = (), **config: Any) -> Path:
    """A copy of the embedded model without some files and with some values of config.json changed."""
    shutil.copytree(TINY, folder)
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    for name in drop:
        (folder / name).unlink()
    return folder


def fields_of(folder: Path) -> list[Fields]:
    """The records that a reader sees, each by the fields that it has on disk."""
    return [json.loads(json.dumps(record.as_json())) for record in read_records(folder)]


def records_of(folder: Path) -> dict[str, Fields]:
    """What two runs of the same command must agree on: all fields but cost and session, by id."""
    return {
        record["id"]: {key: value for key, value in record.items() if key not in ("cost", "session")}
        for record in fields_of(folder)
    }


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Every line of records.jsonl, as written."""
    return [json.loads(line) for line in (folder / RECORDS).read_text(encoding="utf-8").splitlines()]
