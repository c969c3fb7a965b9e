"""A real server, `transformers serve` with the embedded model: `make test-endpoint` installs what it needs, and runs
it.

A llama.cpp server that runs already is asked too, if LCBENCH_TEST_ENDPOINT is its address, LCBENCH_TEST_MODEL the name
that it gives its model, and LCBENCH_TEST_LOCAL a folder with the same model for this process.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import TINY, cli, fields_of

pytestmark = pytest.mark.endpoint
PASSKEY = ("passkey", "--seq-len", "250", "--samples", "20")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if not (importlib.util.find_spec("fastapi") and importlib.util.find_spec("uvicorn")):
        pytest.skip("transformers serve needs fastapi and uvicorn: make test-endpoint")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(TINY), "--device", "cpu"]
    with subprocess.Popen([*command, "--dtype", "float32", "--port", str(port)]) as server:
        try:
            for _ in range(600):  # a busy machine takes minutes to import it
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, TimeoutError):
                    assert server.poll() is None, "the server did not start"
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def predictions(folder: Path) -> dict[int, str]:
    return {record["sample"]: record["prediction"] for record in fields_of(folder)}


def test_transformers_serve_answers_as_this_process(url: str, tmp_path: Path) -> None:
    done = cli("run", *PASSKEY, "--endpoint", url, "--model", TINY, "-o", tmp_path / "served")
    assert done.code == 0, done.err
    assert cli("run", *PASSKEY, "-m", TINY, "--dtype", "float32", "-o", tmp_path / "local").code == 0
    assert predictions(tmp_path / "served") == predictions(tmp_path / "local")
    costs = [record["cost"] for record in fields_of(tmp_path / "served")]
    assert {(cost["sent_as"], cost["prompt_difference"]) for cost in costs} == {("text", 0)}


def test_transformers_serve_has_no_likelihoods(url: str, tmp_path: Path) -> None:
    refused = cli("run", "pg19", "--seq-len", "200", "--endpoint", url, "--model", TINY, "-o", tmp_path / "served")
    assert refused.code == 2 and "perplexity needs log-likelihoods of the prompt" in refused.error


@pytest.mark.skipif("LCBENCH_TEST_ENDPOINT" not in os.environ, reason="LCBENCH_TEST_ENDPOINT names no server")
def test_a_server_that_runs_already_answers_as_this_process(tmp_path: Path) -> None:
    """With token ids; a quantised model may round otherwise, and answer one of 20 otherwise."""
    local = os.environ["LCBENCH_TEST_LOCAL"]
    asked = ("--endpoint", os.environ["LCBENCH_TEST_ENDPOINT"], "--model", os.environ["LCBENCH_TEST_MODEL"])
    assert cli("run", *PASSKEY, *asked, "--tokenizer", local, "-o", tmp_path / "served").code == 0
    assert cli("run", *PASSKEY, "-m", local, "-o", tmp_path / "local").code == 0
    served, own = predictions(tmp_path / "served"), predictions(tmp_path / "local")
    assert sum(served[sample] == own[sample] for sample in own) >= 19
    assert {record["cost"]["sent_as"] for record in fields_of(tmp_path / "served")} == {"token_ids"}
