"""What a server does wrong is told, not taken for an answer; what it answered is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lcbench.engine.endpoint import client as client_module
from lcbench.results.records import RECORDS
from tests.engine.endpoint.fake import NAME, Body, BrokenError, Server
from tests.engine.endpoint.runs import KEY, PASSKEY, run
from tests.helpers import TINY, command, fields_of, lines_of


def failing(*faults: BrokenError | Body | None) -> Any:
    """These faults, one a request after the probe, then none."""
    left = list(faults)

    def fault(number: int, body: Body) -> Body | None:
        if body["max_tokens"] == 1 or not left:
            return None
        one = left.pop(0)
        if isinstance(one, BrokenError):
            raise one
        return one

    return fault


def test_faults_that_pass(server: Server) -> None:
    """Each once, and the first of them twice in a row."""
    slow_down = BrokenError(429, json.dumps({"error": {"message": "slow down"}}), **{"retry-after": "0"})
    faults = [
        slow_down,
        BrokenError(500, "oops", "text/plain"),
        BrokenError(503, json.dumps({"detail": "loading"})),
        BrokenError(200, '{"choices": [{"te'),
        BrokenError(200, "<html><body>Welcome</body></html>", "text/html"),
        BrokenError(200, "[]"),
        BrokenError(200, "{}"),
        BrokenError(200, 'data: {"error": {"message": "out of blocks"}}\n\n', "text/event-stream"),
        {"cut": True},
    ]
    server.fault = failing(slow_down, *(one for fault in faults for one in (fault, None)))
    done = run(server, "passkey", "--seq-len", "160", "--samples", str(len(faults)), "--concurrency", "1")
    assert done.code == 0, done.err
    assert sum(record["cost"]["retries"] for record in fields_of(Path("served"))) == len(faults) + 1
    assert "10 requests were retried" in done.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(BrokenError(500, "oops", "text/plain"), "HTTP 500 from", marks=pytest.mark.slow),
        (BrokenError(400, json.dumps({"error": {"message": f"too long {KEY}"}})), "too long ..."),
        pytest.param(BrokenError(200, "<html>", "text/html"), "answered with a web page", marks=pytest.mark.slow),
        ({"model": "another"}, "answered by the model 'another', where 'tiny' answered before"),
        pytest.param({"cut": True}, "the server broke off its answer", marks=pytest.mark.slow),
        ({"text": ["4821"]}, "the server answered with something that is not text"),
    ],
)
def test_faults_that_stay(
    fault: BrokenError | Body, reason: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell fails by name, others go on; the same command finishes it."""
    monkeypatch.setenv("LCBENCH_API_KEY", KEY)
    monkeypatch.setattr(client_module, "TRIES", 2)

    def of_the_short_cell(number: int, body: Body) -> Body | None:
        if body["max_tokens"] == 1 or len(body["prompt"]) > 200:
            return None
        if isinstance(fault, BrokenError):
            raise fault
        return fault

    server.fault = of_the_short_cell
    failed = run(server)
    assert failed.code == 1 and "failed: served at 160" in failed.out
    bad = {line["error"] for line in lines_of(Path("served")) if line["error"]}
    assert len(bad) == 1 and reason in bad.pop()
    assert sum(line["seq_len"] == 256 and not line["error"] for line in lines_of(Path("served"))) == 3
    server.fault = lambda number, body: None
    assert run(server).code == 0 and len(fields_of(Path("served"))) == 6
    everything = (
        "".join(path.read_text() for path in Path("served").iterdir() if path.is_file()) + failed.out + failed.err
    )
    assert KEY not in everything and server.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("change", "said", "strict"),
    [
        ({"usage": {"prompt_tokens": 20, "completion_tokens": 4}}, "the server counted", "counted 20 tokens of"),
        ({"finish_reason": "abort"}, "ended by the server (abort)", "ended its answer with 'abort'"),
        (
            {"finish_reason": "length", "usage": {"prompt_tokens": None, "completion_tokens": 1}},
            "ended by the server before their budget",
            "ended its answer after 1 of",
        ),
        ({"usage": {}, "finish_reason": "abort"}, "one that it cut would not show", "ended its answer with 'abort'"),
    ],
)
def test_what_a_server_cuts_is_recorded_and_said_and_an_error_by_choice(
    change: Body, said: str, strict: str, server: Server
) -> None:
    server.fault = lambda number, body: None if body["max_tokens"] == 1 else change
    done = run(server, "passkey", "--seq-len", "160", "--samples", "2")
    assert done.code == 0 and said in done.out.replace("\n", " ")
    for record in fields_of(Path("served")):
        counted = change.get("usage", {}).get("prompt_tokens")
        assert counted is None or record["cost"]["prompt_difference"] == counted - record["prompt_tokens"] < 0
        assert record["finish_reason"] == change.get("finish_reason", record["finish_reason"])
    failed = run(server, "passkey", "--seq-len", "160", "--samples", "2", "--strict", output="strict")
    assert failed.code == 1 and strict in failed.out.replace("\n", " ")


def test_a_server_that_dies_keeps_what_it_answered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.port
    died = threading.Event()

    def dies(number: int, body: Body) -> Body | None:
        if number > 5:
            died.set()
        if died.is_set():
            raise ConnectionResetError("gone")
        return None

    server.fault = dies
    failed = run(server, *PASSKEY, "--concurrency", "1")
    assert failed.code == 1 and "failed: " in failed.out and "no connection to" in failed.out.replace("\n", " ")
    kept = [line for line in lines_of(Path("served")) if not line["error"]]
    assert 1 <= len(kept) < 6
    server.fault = lambda number, body: None
    again = run(server)
    assert again.code == 0 and f"{len(kept)} of them already recorded" in again.err
    assert len(fields_of(Path("served"))) == 6 and server.port == port


def test_no_answer_in_time_is_asked_for_once_more(server: Server) -> None:
    server.fault = lambda number, body: None if body["max_tokens"] == 1 else sleeping()
    late = run(server, "passkey", "--seq-len", "160", "--samples", "1", "--request-timeout", "0.4")
    assert late.code == 1 and "within 0.4 s" in late.out.replace("\n", " ")
    assert "(2 tries)" in late.out.replace("\n", " ")
    assert sum(body["max_tokens"] > 1 for body in server.asked) == 2


def sleeping() -> None:
    time.sleep(0.8)


@pytest.mark.slow
def test_ctrl_c_waits_for_no_server(server: Server) -> None:
    """What was answered is kept, and the requests that are under way are given up."""
    server.slow, ended = 0.2, threading.Event()

    def stuck(number: int, body: Body) -> None:
        if len(server.asked) > 8:
            ended.wait(60)

    server.fault = stuck
    arguments = ("passkey", "--seq-len", "160", "--samples", "12", "--endpoint", server.url, "--model", NAME)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command("run", *arguments, "--tokenizer", TINY, "-o", "served"), env=environment) as running:
        while not Path("served", RECORDS).exists() or len(lines_of(Path("served"))) < 4:
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        stopped = time.perf_counter()
        assert running.wait(50) != 0 and time.perf_counter() - stopped < 30
        ended.set()
    kept = len(lines_of(Path("served")))
    server.slow, server.fault = 0.0, lambda number, body: None
    again = run(server, "passkey", "--seq-len", "160", "--samples", "12")
    assert again.code == 0 and f"{kept} of them already recorded" in again.err
