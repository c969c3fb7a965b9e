"""Arrays of jobs: what is asked for, and the records they leave together; local jobs stand in for SLURM."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from lcbench.core.errors import UserError
from lcbench.results.records import JOB_LOGS, read_manifest
from lcbench.run.slurm import Array, parse_array
from tests.helpers import cli, command, lines_of, records_of

RUN = ["run", "passkey", "--method", "vanilla,yarn", "--seq-len", "150,500", "--samples", "6"]


def test_parse() -> None:
    assert parse_array("8") == Array(8, {})
    asked = parse_array("4,partition=gpu,gpus_per_node=1,cluster=local,constraint=a[1,2]")
    assert asked == Array(4, {"partition": "gpu", "gpus_per_node": 1, "constraint": "a[1,2]"}, "local")


@pytest.mark.parametrize(
    "text", ["", "0", "x", "partition=gpu", "8,partition", "8,=gpu", "8,partition=", "8,cluster=moon"]
)
def test_what_cannot_be_parsed(text: str) -> None:
    with pytest.raises(UserError, match="--slurm"):
        parse_array(text)


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = cli(*RUN, "--slurm", "2", "--output", tmp_path / "run")
    assert refused.code == 2 and "sbatch was not found" in refused.error
    assert not (tmp_path / "run").exists()


def test_what_submitit_refuses(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    refused = cli(*RUN, "--slurm", "2,cluster=local,colour=red", "--output", tmp_path / "run")
    assert refused.code == 2 and "colour" in refused.error
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    refused = cli(*RUN, "--slurm", "2,cluster=local", "--output", tmp_path / "thesis")
    assert refused.code == 2 and "contains something other than results" in refused.error
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]


def in_jobs(folder: Path, jobs: int) -> subprocess.CompletedProcess[str]:
    """So many local jobs; a process of its own, since submitit starts threads and forks."""
    return subprocess.run(
        command(*RUN, "--output", folder, "--slurm", f"{jobs},cluster=local,timeout_min=5"),
        cwd=folder.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_jobs_make_the_records_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    folder = tmp_path / "run"
    done = in_jobs(folder, 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("passkey: exact match") == 1 and f"{folder / JOB_LOGS}" in done.stderr
    assert done.stderr.count("  6 samples  ") == 4  # a line a cell, as ever
    assert cli(*RUN, "--output", tmp_path / "alone").code == 0
    assert records_of(folder) == records_of(tmp_path / "alone") and len(lines_of(folder)) == 24
    sessions = read_manifest(folder).content["sessions"]
    assert {session["process"] for session in sessions} <= {1, 2}
    assert all(session["command"][1:3] == ["run", "passkey"] for session in sessions)
    assert sum(Counter(line["session"] for line in lines_of(folder)).values()) == 24
    again = in_jobs(folder, 1)
    assert again.returncode == 0 and "24 of them already recorded" in again.stderr and len(lines_of(folder)) == 24


@pytest.mark.slow
def test_jobs_that_end_too_soon_are_told(tmp_path: Path) -> None:
    """Another process holds the folder: every job is refused, and the reason is told with where to read on."""
    pytest.importorskip("submitit")
    from lcbench.results.records import RunWriter

    folder = tmp_path / "run"
    assert cli(*RUN[:-1], "1", "--output", folder).code == 0
    with RunWriter(folder, read_manifest(folder).content["identity"], {}):
        refused = in_jobs(folder, 1)
    assert refused.returncode == 2
    assert "the jobs ended before all samples were done" in refused.stderr
    assert "another lcbench is writing" in refused.stderr and "Traceback" not in refused.stderr
