"""A run that was killed or interrupted, however often, ends with the records of one that was not."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcbench.engine.models import ModelSource
from lcbench.results.records import RECORDS, read_manifest
from lcbench.run.plan import make_plan
from lcbench.run.requests import Request
from tests.helpers import REPOSITORY, cli, command, lines_of, process, records_of

RUN = ["run", "passkey", "--method", "vanilla,dca:mscale=0.1", "--seq-len", "150,256", "--samples", "70"]
IN_RUN = 2 * 2 * 70
SAMPLES = 40  # a few seconds of work: time to be interrupted in, on a busy machine too
SHORT = ["run", "passkey", "--seq-len", "1k", "--samples", str(SAMPLES)]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], dict[str, dict[str, Any]]]:
    """The records of a run that nobody disturbs."""
    known: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}

    def run(arguments: list[str]) -> dict[str, dict[str, Any]]:
        if tuple(arguments) not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            assert cli(*arguments, "--output", folder).code == 0
            known[tuple(arguments)] = records_of(folder)
        return known[tuple(arguments)]

    return run


def assert_complete(folder: Path, expected: dict[str, dict[str, Any]]) -> None:
    """None lost, none twice, all equal; and written by session after session."""
    lines = lines_of(folder)
    assert len(lines) == len({line["id"] for line in lines}) == len(expected)
    assert records_of(folder) == expected
    sessions = [line["session"] for line in lines]
    assert sessions == sorted(sessions) and sessions[-1] < len(read_manifest(folder).content["sessions"])


@pytest.mark.slow
def test_killed_at_random_moments(undisturbed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    killer = subprocess.run(
        [sys.executable, "-m", "tests.killed_runs", "7", "12", *RUN, "--output", str(folder)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killer.returncode == 0, killer.stderr
    kills = [json.loads(line) for line in killer.stdout.splitlines()]
    assert sum(kill["alive"] for kill in kills) >= 10  # else the run was done too soon
    for kill, following in itertools.pairwise(kills):
        assert kill["before"] <= kill["after"] == following["before"]
    assert all(kill["after"] > kill["before"] for kill in kills if kill["at_work"] and kill["alive"])
    assert kills[-1]["after"] < IN_RUN

    again = cli(*RUN, "--output", folder)
    assert again.code == 0 and f"{kills[-1]['after']} of them already recorded" in again.err
    assert_complete(folder, undisturbed(RUN))


def started(folder: Path) -> subprocess.Popen[str]:
    """The command line at work on SHORT: it has written a first record."""
    run = subprocess.Popen(
        command(*SHORT, "--output", folder),
        cwd=folder.parent,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs in the background ignores it
    )
    deadline = time.monotonic() + 120
    while not (folder / RECORDS).exists() or not (folder / RECORDS).stat().st_size:
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.005)
    return run


@pytest.mark.slow
def test_kill_9_of_the_command(undisturbed: Any, tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    run.kill()
    out, _ = run.communicate()
    assert run.returncode == -signal.SIGKILL and out == ""
    again = process(*SHORT, "--output", tmp_path / "run", cwd=tmp_path)
    assert again.returncode == 0 and "already recorded" in again.stderr
    assert_complete(tmp_path / "run", undisturbed(SHORT))


@pytest.mark.slow
def test_ctrl_c_is_one_sentence_and_loses_nothing(undisturbed: Any, tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted; what is done is kept, and the same command goes on from here."
    assert 1 <= len(lines_of(tmp_path / "run")) < SAMPLES
    assert cli(*SHORT, "--output", tmp_path / "run").code == 0
    assert_complete(tmp_path / "run", undisturbed(SHORT))


def test_another_session_beside_a_run_is_refused(tmp_path: Path) -> None:
    from lcbench.results.records import RunWriter

    arguments = ["run", "passkey", "--seq-len", "150", "--samples", "1", "--output", tmp_path / "run"]
    assert cli(*arguments).code == 0
    with RunWriter(tmp_path / "run", read_manifest(tmp_path / "run").content["identity"], {}):
        refused = cli(*arguments)
    assert refused.code == 2 and "another lcbench is writing" in refused.error


def test_a_file_of_a_method_is_part_of_the_run(tmp_path: Path) -> None:
    """What a file says decides results, not what it is called."""
    heads = tmp_path / "heads.tsv"
    methods = (f"duo_attention:file={heads}", f"duo_attention:file={heads}+logn")

    def folder(*gates: str) -> Path:
        heads.write_text("\n".join(gates))
        return make_plan(ModelSource(), [Request("passkey", methods, (256,))]).default_output(tmp_path)

    none = "0 " * 4
    first, other = folder(*[none] * 4), folder(none, "1 0 0 0", none, none)
    assert first != other and first == folder(*[none] * 4)
