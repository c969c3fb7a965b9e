"""`make real` as far as it goes without its model."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from lcbench.run.requests import read_requests
from tests.helpers import REPOSITORY, cli


def test_the_suite_asks_every_method_at_every_length() -> None:
    requests, defaults = read_requests("real")
    assert defaults["model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    for task in ("passkey:chat=off", "needle:chat=off", "pg19"):
        parts = [request for request in requests if request.task == task]
        assert {length for request in parts for length in request.seq_lens or ()} == {2048, 8192, 16384}
        longest = next(request for request in parts if request.seq_lens == (16384,))
        assert longest.methods == ("vanilla", "yarn", "self_extend", "dca", "self_extend+logn", "dca+logn")


def test_the_suite_runs_on_any_model() -> None:
    planned = cli("run", "real", "--model", "lcbench-tiny", "--dry-run")
    assert planned.code == 0 and "34 cells, 34 samples" in planned.out


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_fetches_the_model_once_and_takes_samples() -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # as a person types it
    told = subprocess.run(
        ["make", "-n", "real", "SAMPLES=3"], cwd=REPOSITORY, env=outside, capture_output=True, text=True, check=True
    ).stdout
    assert told.rstrip().endswith("SmolLM2-135M-Instruct.Q4_1.gguf --samples 3")
    if not (REPOSITORY / "models").exists():
        assert "--require-hashes" in told and "--no-deps" in told
