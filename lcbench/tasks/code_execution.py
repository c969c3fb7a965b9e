"""Programs that a model wrote, run apart from the harness with limits of time and memory.

This is no sandbox. The limits end what loops or grows; they do not stop a program from reading and writing what the
user may read and write, or from using the network. So nothing is run unless the user asks for it by name, and a
machine that matters wants a container around all of it. The program gets an empty folder to start in and none of the
environment's variables, where keys and tokens live. Needs a system with POSIX resource limits.

`python code_execution.py`, with a request on stdin, is the process that runs the program: only the standard library
is imported here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from typing import Any

TIMEOUT = 3.0  # seconds, as in OpenAI's human-eval
MEMORY = 2**30  # bytes of address space
FILE_SIZE = 2**20  # bytes of a file that the program writes
PATIENCE = 4  # wall-clock seconds for one of the processor: a busy machine is no wrong answer, waiting for ever is
LAST_LINE = 200  # characters of an error that are worth a record


def failure(program: str, *, timeout: float = TIMEOUT, memory: int = MEMORY) -> str | None:
    """Run a Python program to its end: None if it gets there, else why not, in a few words.

    `timeout` is in seconds of processor time (rounded up), four times as much by the clock; `memory` in bytes. A
    program that exits by itself has not got to its end, whatever its exit code. Its output goes nowhere.
    Raises: RuntimeError where this system cannot set the limits.
    """
    passed = secrets.token_hex(16)
    request = {"program": program, "timeout": timeout, "memory": memory, "passed": passed}
    with tempfile.TemporaryDirectory(prefix="lcbench-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder, "PATH": os.defpath, "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            report, _ = process.communicate(json.dumps(request).encode(), timeout=PATIENCE * timeout)
        except subprocess.TimeoutExpired:
            return f"no end within {PATIENCE * timeout:g} seconds"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever processes it has started
            process.communicate()
    kind, _, reason = report.decode(errors="replace").partition(" ")
    if kind == "unlimited":
        raise RuntimeError(f"programs cannot be run here: their limits cannot be set ({reason}).")
    if kind == passed:
        return None
    if process.returncode == -signal.SIGXCPU:
        return f"no end within {timeout:g} seconds of processor time"
    return reason if kind == "failed" else f"ended early, exit code {process.returncode}"


def _run() -> None:
    """Run the program of the request on stdin, and report on stdout."""
    request = json.load(sys.stdin)
    report, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        _limit(request["timeout"], request["memory"])
    except (ImportError, ValueError, OSError) as error:
        os.write(report, f"unlimited {error}".encode())
        return
    passed = request.pop("passed")
    try:
        exec(compile(request["program"], "program", "exec"), {"__name__": "__main__"})
    except BaseException as error:  # SystemExit is an end before the end, too
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
        os.write(report, f"failed {reason[:LAST_LINE]}".encode(errors="replace"))
    else:
        os.write(report, passed.encode())
    os._exit(0)  # no threads, exit handlers or destructors of the program


def _limit(timeout: float, memory: int) -> None:
    import resource

    limits: dict[int, Any] = {
        resource.RLIMIT_CPU: math.ceil(timeout),
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        _, highest = resource.getrlimit(limit)
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(limit, (value, value + 1 if limit == resource.RLIMIT_CPU else value))


if __name__ == "__main__":
    _run()
