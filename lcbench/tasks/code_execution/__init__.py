"""Execution of programs that a model wrote, isolated from the harness.

On Linux a program runs in its own namespaces (without privileges, if the system lets users create them): it sees and
can signal only its own processes, has no network, and can write only to its folder, an empty in-memory file system.
Elsewhere, and in most containers, there are only resource limits, about which a warning is printed once. In both cases,
time, memory, disk and number of processes are limited, and no process outlives the verdict.

Not prevented: a program may read whatever the user may read (but has no network to send it over), and use sockets in
the file system outside /run. Without namespaces it may also write wherever the user may, use the network, and signal
the user's processes, including lcbench. A program that reads its own process memory (ctypes) can claim to have passed,
and objects that compare equal to everything pass any test. On a machine that matters, run all of it in a container.

`sandbox` contains the processes started for each program; this module controls them. Needs POSIX resource limits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from typing import Any

TIMEOUT = 3.0  # seconds, as in OpenAI's human-eval
MEMORY = 2**30  # bytes of address space
PATIENCE = 4  # wall-clock seconds per CPU second: a busy machine must not make an answer wrong
GRACE = 10.0  # seconds for the supervisor to start, and to end the program's processes
START = (
    f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); "
    "from sandbox.supervisor import main; del sys.path[0]; main()"
)

logger = logging.getLogger("lcbench")

_isolated = sys.platform == "linux"  # until this system refuses namespaces


def failure(program: str, *, timeout: float = TIMEOUT, memory: int = MEMORY) -> str | None:
    """Run a Python program: returns None if it reaches its end, else the reason in a few words.

    `timeout` is in seconds of CPU time (rounded up), and PATIENCE times as much wall-clock time; `memory` is in bytes.
    A program that exits itself has not reached its end, whatever its exit code. Its output is discarded.

    Raises: RuntimeError where this system cannot set the limits, or start a process.
    """
    global _isolated
    request = {"program": program, "timeout": timeout, "patience": PATIENCE * timeout, "memory": memory}
    token = secrets.token_hex(16)
    report = _supervise(request | {"isolated": _isolated}, token)
    if "refused" in report:
        _isolated = False
        _note(logging.WARNING, f"programs run without namespaces, within limits only: {report['refused']}")
        report = _supervise(request | {"isolated": False}, token)
    elif _isolated:
        _note(logging.INFO, "programs run in namespaces of their own")
    if "unlimited" in report:
        raise RuntimeError(f"programs cannot be run here: their limits cannot be set ({report['unlimited']}).")
    if "ended" in report:
        return str(report["ended"])
    said, code = report.get("said", ""), report.get("code")
    if code == 0 and secrets.compare_digest(said.encode(), token.encode()):
        return None
    if code is None:
        return "ended early, and what watched it"
    return said if code == 1 and said else f"ended early, exit code {code}"


def _supervise(request: dict[str, Any], token: str) -> dict[str, Any]:
    """The supervisor's report on one program; empty if the program killed its supervisor.

    Raises: RuntimeError if the supervisor ended before it started the program.
    """
    folder = tempfile.mkdtemp(prefix="lcbench-")
    try:
        with subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder, "PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        ) as process:
            try:
                report = _converse(process, json.dumps(request).encode(), token.encode(), request["patience"] + GRACE)
            finally:
                _end(process)
    finally:
        _remove(folder)
    if not report:
        raise RuntimeError(f"programs cannot be run here: what watches them ended with exit code {process.returncode}.")
    return dict(json.loads(report)) if report.strip() else {}


def _converse(process: subprocess.Popen[bytes], request: bytes, token: bytes, timeout: float) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(len(request).to_bytes(8, "big") + request + token)
        process.stdin.flush()  # and not closed: that tells the supervisor to end
    answer, received = select.poll(), b""
    answer.register(process.stdout, select.POLLIN)
    deadline = time.monotonic() + timeout
    while answer.poll(max(0, min((deadline - time.monotonic()) * 1000, 2**31 - 1))):
        part = os.read(process.stdout.fileno(), 2**16)
        if not part:
            break
        received += part
    return received


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the supervisor end what the program has started, on Ctrl-C too; then make sure of the supervisor."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def _remove(folder: str) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:  # a program can nest folders deeper than Python recurses
        subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL, check=False)


@lru_cache(maxsize=2)
def _note(level: int, sentence: str) -> None:
    """Log a sentence once per process."""
    logger.log(level, sentence)
