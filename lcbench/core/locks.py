"""Locks on files by which processes of one run, and runs of one folder, keep out of each other's way.

They are the system's, which frees those of a process that dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def locked(path: Path, *, shared: bool = False, wait: bool = False) -> int:
    """An open file whose lock is held until it is closed, by this process alone or with others that share it.

    Raises: BlockingIOError if others have it, unless this is to `wait` for them; other OSErrors.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(file)
        raise
    return file


class Claims:
    """Parts of a run that one of several processes has taken, each a lock on one byte of a file.

    The locks are those of the process: two objects of one process do not see each other's.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def take(self, part: str) -> bool:
        """Whether the part was free, and is this process's now."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(part))
        except (BlockingIOError, PermissionError):  # which of them depends on the system
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
    """Where the lock of a part is: the file need not be that long; 0 is the turn's."""
    return 1 + int.from_bytes(hashlib.sha256(part.encode()).digest()[:7], "big")
