"""Start a writer of records again and again and kill each at the next of its steps; a small process of its own, since
it forks some hundreds of times.

    python -m tests.killed_writer FOLDER

Prints how many second writers, which resume what a first one left, were killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lcbench.results.records import RECORDS
from tests.helpers import lines_of
from tests.recorded import ids, record, writer


def main(place: Path) -> None:
    deaths = 0
    for first in range(100):
        folder = place / str(first)
        whole, safe = killed_at(folder, first)
        assert safe <= kept_in(folder)
        if whole:
            break
        for second in range(100):
            again = place / f"{first}-{second}"
            if folder.exists():
                shutil.copytree(folder, again)
            whole, safe_again = killed_at(again, second)
            assert safe | safe_again <= kept_in(again)
            deaths += not whole
            if whole:
                break
        assert sorted(each["id"] for each in lines_of(again)) == ["r0", "r1", "r2", "r3"]
    print(deaths)


def killed_at(folder: Path, step: int) -> tuple[bool, set[str]]:
    """Write four records in a child that is killed at its step-th call that changes the disk, within the call where
    that is a write. Whether it came through, and the records that it was told are safe."""
    told, tell = os.pipe()
    real_write, left = os.write, [step]

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                if call is real_write:
                    real_write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **options)

        return wrapped

    def child() -> None:
        for name in ("mkdir", "open", "write", "fsync", "ftruncate", "replace"):
            setattr(os, name, deadly(getattr(os, name)))
        with writer(folder) as run:
            for number in range(4):
                if f"r{number}" not in run.done:
                    run.append(record(number))
                    real_write(tell, b"%d" % number)

    status = in_child(child)
    os.close(tell)
    safe = {f"r{digit}" for digit in os.read(told, 100).decode()}
    os.close(told)
    assert status in (0, signal.SIGKILL)
    return status == 0, safe


def kept_in(folder: Path) -> set[str]:
    return set(ids(folder)) if (folder / RECORDS).exists() else set()


def in_child(action: Callable[[], None]) -> int:
    """Run it in a fork; its exit status, 0 if it returned."""
    return os.waitpid(forked(action), 0)[1]


def forked(action: Callable[[], None]) -> int:
    """Run it in a fork; the id of its process."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return pid


if __name__ == "__main__":
    main(Path(sys.argv[1]))
