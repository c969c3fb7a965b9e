"""The first process of the namespaces (their PID 1, whose end ends all others in them), and the one of the program.

A program has passed when its process hands the token over and exits with 0. The token is read before the program
starts, after the last fork of ours, and lies on the evaluation stack of one frame while the program runs: neither
frames nor the garbage collector show it there. No descriptor is open but /dev/null; what the process has to say
goes through a page of shared memory, where anybody may write but only the token counts.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import sys
import types
from typing import Any, NoReturn

from . import system

FILE_SIZE = 2**20  # bytes of one file
OPEN_FILES = 128  # in one process; those without a name are outside of the folder, and of FILE_SIZE, too
TOKEN = 32  # bytes
PAGE = 1024  # bytes
LAST_LINE = 200  # characters of an error that are worth a record


def first_process(request: dict[str, Any], page: mmap.mmap, token: int, tells_status: int) -> NoReturn:
    """Set the namespaces up, fork the program's process, wait for it, and tell its exit code.

    `token` and `tells_status` are ends of pipes. Before the program starts, "ready" and the number of its process are
    told, or "refused" or "unlimited" and why.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
    try:
        system.end_with_parent()
        if request["isolated"]:
            system.mount(os.getcwd())
    except OSError as error:
        os.write(tells_status, f"refused {error}".encode())
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # PID 1 takes from its own only the signals that it handles
    program = os.fork()
    if program == 0:
        try:
            _program_process(request, page, token, tells_status)
        finally:
            os._exit(1)
    os.close(token)
    while True:
        process, status = os.wait()
        if process == program:
            os.write(tells_status, str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)


def _program_process(request: dict[str, Any], page: mmap.mmap, token: int, tells_status: int) -> NoReturn:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        system.end_with_parent()
        system.drop_privileges(request["isolated"])
    except OSError as error:
        os.write(tells_status, f"refused {error}".encode())
        os._exit(1)
    try:
        _limit(request["timeout"], request["memory"])
    except (ImportError, ValueError, OverflowError, OSError) as error:
        os.write(tells_status, f"unlimited {error}".encode())
        os._exit(1)
    os.write(tells_status, f"ready {os.getpid()}".encode())
    os.close(tells_status)
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        # From left to right: the token is on the stack of this frame, and under no name, while the program runs.
        page.write(_received(token) + _executed(request["program"], module))
    except BaseException as error:  # SystemExit is an end before the end, too
        page.seek(0)
        page.write(_reason(error).encode(errors="replace"))
        os._exit(1)
    os._exit(0)  # no threads, exit handlers or destructors of the program


def _received(token: int) -> bytes:
    received = os.read(token, TOKEN)
    os.close(token)
    return received


def _executed(program: str, module: types.ModuleType) -> bytes:
    exec(compile(program, "program", "exec"), module.__dict__)
    return b""


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)[:LAST_LINE]


def _limit(timeout: float, memory: int) -> None:
    """The limits of one process; the supervisor counts what all of them use.

    RLIMIT_NPROC is not among them: it counts whatever the user runs, so that right programs would fail on a busy
    machine, and it does not bind root.
    """
    import resource

    limits: dict[int, Any] = {
        resource.RLIMIT_CPU: math.ceil(timeout),
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        _, highest = resource.getrlimit(limit)
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(limit, (value, value + 1 if limit == resource.RLIMIT_CPU else value))
