"""Forks the processes of one program, watches what they use, ends them, and reports.

The request and a token come on stdin, which stays open as long as an answer is wanted; the report goes to stdout as
JSON. Either `code` and `said` (the exit code of the program's process, the token or why the program failed), or
`ended` (the limit that was passed), `refused` (no namespaces here) or `unlimited` (no limits here), each with why. An
empty line before it says that the program has started.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import sys
import time
from typing import Any, NamedTuple, NoReturn

from . import program, system

PROCESSES = 64
TICK = 0.05  # seconds between two looks at what the program uses


def main() -> NoReturn:
    request = json.loads(_receive(int.from_bytes(_receive(8), "big")))
    try:
        system.set_apart(request["isolated"])
    except OSError as error:
        report = {"refused": str(error)}
    else:
        report = _Supervisor(request).run()
    os.write(1, json.dumps(report).encode())
    os._exit(0)  # quicker


def _receive(size: int) -> bytes:
    """Exactly `size` bytes of stdin: what follows is not for this process, or not yet."""
    received = b""
    while len(received) < size:
        part = os.read(0, size - len(received))
        if not part:
            raise EOFError("the harness is gone")
        received += part
    return received


class _Supervisor:
    """One program's."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.isolated: bool = request["isolated"]
        self.page = mmap.mmap(-1, program.PAGE)
        self.group = 0  # of the program's process, as soon as it is known

    def run(self) -> dict[str, Any]:
        """Fork, watch and end the processes; the report."""
        status, tells_status = os.pipe()
        token, hands_token = os.pipe()
        self.first = os.fork()
        if self.first == 0:
            try:
                os.close(status)
                os.close(hands_token)
                program.first_process(self.request, self.page, token, tells_status)
            finally:
                os._exit(1)
        os.close(token)
        os.close(tells_status)
        try:
            report = self._watch(status, hands_token)
        finally:
            self._end_all()
        if "code" in report:
            report["said"] = self.page[:].rstrip(b"\0").decode(errors="replace")
            report |= self._disk()
        return report

    def _watch(self, status: int, hands_token: int) -> dict[str, Any]:
        """Start the program when its process is ready, and wait for its end or its limits."""
        kind, _, rest = os.read(status, program.PAGE).decode().partition(" ")
        if kind != "ready":
            return {kind: rest} if rest else {"unlimited": "the process of the program has not come to its start"}
        self.group = int(rest)
        os.write(1, b"\n")  # from here on, an end without a report is the program's work
        # Read only now: no process that runs the program has a copy of this one's memory with the token in it.
        os.write(hands_token, _receive(program.TOKEN))
        os.close(hands_token)
        events = select.poll()
        events.register(status, select.POLLIN)
        events.register(0, select.POLLIN)
        patience = self.request["patience"]
        deadline, pause = time.monotonic() + patience, TICK
        while True:
            happened = dict(events.poll(pause * 1000))
            if status in happened:
                return self._ended(os.read(status, program.PAGE))
            if 0 in happened:
                return {}  # the harness is gone, or wants no answer any more
            now = time.monotonic()
            if now > deadline:
                return {"ended": f"no end within {patience:g} seconds"}
            if report := self._use() or self._disk():
                return report
            pause = max(TICK, 4 * (time.monotonic() - now))  # a look takes long where many processes are

    def _ended(self, status: bytes) -> dict[str, Any]:
        code = int(status or -signal.SIGKILL)
        if code == -signal.SIGXCPU:
            return {"ended": f"no end within {self.request['timeout']:g} seconds of processor time"}
        return {"code": code}

    def _use(self) -> dict[str, str]:
        """The limit of number and memory that all processes of the program together pass, if any."""
        found = _descendants(self.first if self.isolated else os.getpid())
        found.pop(self.first, None)
        if len(found) > PROCESSES:
            return {"ended": f"more than {PROCESSES} processes"}
        if sum(process.resident for process in found.values()) > self.request["memory"]:
            return {"ended": f"more than {self.request['memory']} bytes of memory in all processes"}
        return {}

    def _disk(self) -> dict[str, str]:
        """The limit of disk that the program's folder passes, if any; within namespaces its file system has one."""
        size = number = 0
        for folder, folders, files in os.walk(".") if not self.isolated else ():
            if folder.count(os.sep) > system.DEPTH:
                return {"ended": "folders nested too deep"}
            for name in folders + files:
                with contextlib.suppress(OSError):
                    size += os.lstat(os.path.join(folder, name)).st_blocks * 512
            number += len(folders) + len(files)
            if size > system.DISK or number > system.FILES:
                return {"ended": f"more than {system.DISK} bytes or {system.FILES} files written"}
        return {}

    def _end_all(self) -> None:
        """End the first process and everything that the program has started; return when all of it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGKILL)
        os.waitpid(self.first, 0)  # of PID 1 in namespaces: when the kernel has ended and waited for all others there
        if self.isolated:
            return
        if self.group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while (left := _descendants(os.getpid())) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)


class _Process(NamedTuple):
    parent: int
    resident: int  # bytes


def _descendants(ancestor: int) -> dict[int, _Process]:
    """The processes that a process has started, directly or not; empty on systems without Linux's /proc."""
    processes: dict[int, _Process] = {}
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                if fields[0] not in b"ZX":
                    processes[int(name)] = _Process(int(fields[1]), int(fields[21]) * mmap.PAGESIZE)
    found: dict[int, _Process] = {}
    young = {ancestor}
    while young:
        young = {number for number, process in processes.items() if process.parent in young}
        found |= {number: processes[number] for number in young}
    return found
