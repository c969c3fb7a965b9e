"""Several processes on one run: the same records as of one process, whoever dies on the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lcbench.core.errors import UserError
from lcbench.core.processes import Processes, launched
from lcbench.engine.models import ModelSource
from lcbench.results.records import RECORDS, read_manifest
from tests.helpers import Outcome, cli, command, lines_of, records_of

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
RUN = [
    "run",
    "passkey",
    "--method",
    "vanilla,dca:mscale=0.1",
    "--seq-len",
    "150,700",
    "--depths",
    "0,1",
    "--samples",
    "12",  # more than the first process can finish while the other one starts
]
LONG = ["run", "passkey", "--seq-len", "1k", "--samples", "12", "--method", "vanilla,dca:mscale=0.1"]
SAMPLES = 2 * 12


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever launcher the tests run under."""
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def launch(*arguments: str | Path, launcher: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Two processes by a launcher; a free port, so that tests may run side by side."""
    torchrun = "torch.distributed.run --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint localhost:0"
    accelerate = (
        "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
        "--dynamo_backend no --main_process_port 0"
    )
    start = {"torchrun": torchrun, "accelerate": accelerate}[launcher].split()
    words = [sys.executable, "-m", *start, "-m", *command(*arguments)[2:]]
    return subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    assert cli(*RUN, "--output", folder).code == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_make_the_records_of_one(launcher: str, one_process: Path, tmp_path: Path) -> None:
    done = launch(*RUN, "--output", "run", launcher=launcher, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    assert records_of(folder) == records_of(one_process)
    assert list(records_of(folder)) == list(records_of(one_process))  # the order, too: tables and intervals go by it
    assert len(lines_of(folder)) == len(records_of(folder))  # none was made twice
    shares = Counter(line["session"] for line in lines_of(folder))
    assert set(shares) == {0, 1}
    assert sorted(session["process"] for session in read_manifest(folder).content["sessions"]) == [0, 1]
    assert done.stdout.count("passkey: exact match") == 1  # one table, of everything
    assert done.stderr.count("8 cells, 96 samples") == 1
    assert len(re.findall(r"^passkey .* samples  ", done.stderr, re.MULTILINE)) <= 8  # one line a cell, by one process
    assert cli(*RUN, "--output", folder).code == 0 and len(lines_of(folder)) == 96


def start(rank: int, folder: Path) -> subprocess.Popen[str]:
    """One of two processes, as a launcher would start it that does not look after them."""
    return subprocess.Popen(
        command(*LONG, "--output", folder),
        cwd=folder.parent,
        env=environment(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(folder: Path, ranks: set[int], runs: dict[int, subprocess.Popen[str]]) -> None:
    """Until each of these ranks has written a record."""
    deadline = time.monotonic() + 200
    while True:
        lines = lines_of(folder) if (folder / RECORDS).exists() else []
        sessions = read_manifest(folder).content["sessions"] if lines else []
        if ranks <= {sessions[line["session"]]["process"] for line in lines}:
            return
        assert time.monotonic() < deadline and all(run.poll() is None for run in runs.values())
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert cli(*LONG, "--output", folder).code == 0
    return records_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_is_killed(victim: int, undisturbed: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """The main process does what the other one left; without it, the other does what it can, and a resume the rest."""
    folder, survivor = tmp_path / "run", 1 - victim
    runs = {rank: start(rank, folder) for rank in (0, 1)}
    wait_for(folder, {0, 1}, runs)
    runs[victim].kill()
    assert runs[victim].wait() == -signal.SIGKILL
    out, err = runs[survivor].communicate(timeout=300)
    runs[victim].communicate()
    assert runs[survivor].returncode == 0, err
    left = SAMPLES - len(lines_of(folder))
    assert left == 0 or survivor == 1  # at most what the other had claimed is left, and the main process sees to that
    assert left <= 2 * SAMPLES // 8 + 1
    assert ("passkey: exact match" in out) == (survivor == 0)
    assert cli(*LONG, "--output", folder).code == 0
    assert records_of(folder) == undisturbed and len(lines_of(folder)) == SAMPLES


@pytest.mark.slow
def test_tensor_parallel(tmp_path: Path) -> None:
    """Two processes that hold half of each layer answer as one; perplexity agrees, and one of them writes."""
    (tmp_path / "suite.yaml").write_text(
        "runs:\n"
        "  - {task: passkey, methods: [vanilla, dca:mscale=0.1], seq_len: [150, 256], samples: 3}\n"
        "  - {task: pg19, methods: [vanilla, self_extend], seq_len: [300, 500], samples: 1}\n"
    )
    arguments = ["run", "suite.yaml", "--dtype", "float32", "--output"]
    done = launch(*arguments, "two", "--tensor-parallel", launcher="torchrun", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = subprocess.run(
        command(*arguments, "one"), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert alone.returncode == 0, alone.stderr
    two, one = records_of(tmp_path / "two"), records_of(tmp_path / "one")
    assert two.keys() == one.keys() and len(two) == 16
    for id, record in one.items():
        assert two[id]["prediction"] == record["prediction"] and two[id]["prompt_sha256"] == record["prompt_sha256"]
        assert two[id]["scores"] == pytest.approx(record["scores"], rel=1e-4)
    (session,) = read_manifest(tmp_path / "two").content["sessions"]
    assert (session["process"], session["processes"], session["tensor_parallel"]) == (0, 2, True)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Processes()),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Processes(5, 8, 1)),
        ({"LOCAL_RANK": "3"}, Processes(0, 1, 3)),
    ],
)
def test_launched(variables: dict[str, str], expected: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected and launched().main == (expected.rank == 0)


@pytest.mark.parametrize(
    "variables", [{"RANK": "x"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1"}, {"RANK": "1"}, {"LOCAL_RANK": "-1"}]
)
def test_an_environment_that_makes_no_sense(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="LOCAL_RANK"):
        launched()


@pytest.mark.parametrize(
    ("placement", "processes", "message"),
    [
        ({"device_map": "balanced"}, Processes(), "--device-map can only be auto"),
        ({"device_map": "auto", "device": "cpu"}, Processes(), "leave --device out"),
        ({"device_map": "auto"}, Processes(1, 2, 1), "launch only one process per machine"),
        ({"tensor_parallel": True}, Processes(), "torchrun --nproc-per-node 2"),
        ({"tensor_parallel": True, "device": "cpu"}, Processes(0, 2), "leave --device and --device-map out"),
        ({"tensor_parallel": True, "device_map": "auto"}, Processes(0, 2), "leave --device and --device-map out"),
        ({"tensor_parallel": True}, Processes(0, 3), "the 4 KV heads of lcbench-tiny cannot be split over 3"),
    ],
)
def test_placements_that_cannot_be(placement: dict[str, Any], processes: Processes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSource(**placement).check_processes(processes)


@pytest.mark.parametrize("processes", [Processes(), Processes(2, 4, 2)])
def test_placements_that_can_be(processes: Processes) -> None:
    ModelSource().check_processes(processes)
    ModelSource(tensor_parallel=True).check_processes(Processes(1, 4, 1))
    ModelSource(device_map="auto").check_processes(Processes(1, 2, 0))


def test_the_command_line_tells_it() -> None:
    refused = cli("run", "passkey", "--tensor-parallel")
    assert refused.code == 2 and "--tensor-parallel needs several processes" in refused.error
    assert cli("run", "passkey", "--device-map", "disk").code == 2


def run_beside(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Outcome:
    with monkeypatch.context() as patch:
        for name, value in zip(LAUNCHER, ("1", "2", "0")):
            patch.setenv(name, value)
        return cli(*arguments)


def test_a_process_beside_the_main_one_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["run", "passkey", "--seq-len", "150", "--samples", "2", "--output", tmp_path / "run"]
    quiet = run_beside(monkeypatch, *arguments)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert len(lines_of(tmp_path / "run")) == 2
    assert run_beside(monkeypatch, *arguments, "--dry-run").out == ""
    assert "2 of them already recorded" in cli(*arguments).err


def test_a_launch_beside_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lcbench.results.records import RunWriter

    arguments = ["run", "passkey", "--seq-len", "150", "--samples", "1", "--output", tmp_path / "run"]
    assert cli(*arguments).code == 0
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    with RunWriter(tmp_path / "run", read_manifest(tmp_path / "run").content["identity"], {}):
        refused = run_beside(monkeypatch, *arguments)
    assert refused.code == 2 and "another lcbench is writing" in refused.error
    with RunWriter(tmp_path / "other", read_manifest(tmp_path / "other").content["identity"], {}, shared=True):
        refused = cli(*arguments[:-1], tmp_path / "other")  # nor does one process write beside those of a launch
    assert refused.code == 2 and "another lcbench is writing" in refused.error
