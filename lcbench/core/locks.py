"""File locks that keep processes of one run, and runs that write to one folder, from interfering.

The operating system releases the locks of a process that dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def locked(path: Path, *, shared: bool = False, wait: bool = False) -> int:
    """Open and lock a file (flock), exclusively or shared; closing the returned descriptor releases the lock.

    Raises: BlockingIOError if another process has the lock and `wait` is False; other OSErrors.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(file)
        raise
    return file


class Claims:
    """Parts of a run that one of several processes has claimed, each by a lock on one byte of a file (lockf).

    These locks belong to the process: two objects in one process do not exclude each other.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def take(self, part: str) -> bool:
        """Claim a part if no other process has it; whether that succeeded."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(part))
        except (BlockingIOError, PermissionError):  # which of the two depends on the operating system
            return False
        return True

    def release(self, part: str) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(part))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other process is in this block."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)

    def close(self) -> None:
        os.close(self._file)


def _byte(part: str) -> int:
    """The offset of the lock of a part (locks may lie beyond the end of the file); byte 0 is the lock of `turn`."""
    return 1 + int.from_bytes(hashlib.sha256(part.encode()).digest()[:7], "big")
