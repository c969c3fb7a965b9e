"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr

LARGEST = 2**30  # bytes of a file that is read as a whole, or of what a pipe has: more than a run can read
LONGEST_LINE = 2**28  # bytes or characters of a line: a hundred times what a book takes


def write_atomically(path: Path, content: str | bytes, *, owned: bool = False) -> None:
    """Write a file as `replaced` does. A pipe or a terminal, such as /dev/stdout, is not replaced but written to.

    Raises: OSError, also for a disk, and for a pipe that nobody reads.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        _write_to_device(path, data)
        return
    with replaced(path, owned=owned) as temporary:
        temporary.write_bytes(data)


def require_regular(path: Path) -> None:
    """Raises: OSError for a pipe or a device, which may have no end; what is missing or a folder is left to `open`."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "it is a device or a pipe and no file")


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and those in it; folders that vanish meanwhile, or may not be read, are passed by."""
    return (Path(place, name) for place, _, names in os.walk(folder) for name in names)


def read_whole(path: Path) -> bytes:
    """The content of a file. Raises: OSError for one that is not a file, or too large to be meant."""
    require_regular(path)
    with path.open("rb") as file:
        return read_bounded(file)


def read_bounded(file: IO[bytes]) -> bytes:
    """What a file or pipe has from here on. Raises: OSError for more than LARGEST bytes."""
    size = os.fstat(file.fileno()).st_size if file.seekable() else 0
    content = file.read(LARGEST + 1) if size <= LARGEST else b""
    if max(size, len(content)) > LARGEST:
        raise OSError(errno.EFBIG, f"it has more than {LARGEST >> 30} GB; split it")
    return content


def bounded_lines(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """The lines of a file. Raises: OSError for one of more than LONGEST_LINE bytes or characters."""
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE)
        if not line:
            return
        if len(line) == LONGEST_LINE:
            raise OSError(errno.EFBIG, f"line {number} has no end within {LONGEST_LINE >> 20} MB")
        yield line


def _write_to_device(path: Path, data: bytes) -> None:
    if path.is_block_device():
        raise OSError(errno.EINVAL, "it is a disk")
    file = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # else a pipe without a reader would be waited for
    with os.fdopen(file, "wb") as opened:
        os.set_blocking(file, True)
        opened.write(data)


@contextlib.contextmanager
def replaced(path: Path, *, owned: bool = False) -> Iterator[Path]:
    """A new temporary file in the folder of `path`, ending in `.tmp`, that takes its place after the block, once it is
    on the disk: the name never stands for half a file. If the block fails, `path` stays as it was.

    In a folder that is `owned` by this process, what a killed one has left under that name is overwritten; elsewhere it
    may be somebody's file, and another name is taken. Raises: OSError.
    """
    path = Path(os.path.realpath(path))  # of a link, what it leads to
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file that could be replaced")
    temporary = path.with_name(f"{path.name}.tmp") if owned else _new_file(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _new_file(path: Path) -> Path:
    """`path` with `.tmp` after it, or with `.1.tmp` and so on where files of others have these names."""
    for number in itertools.count():
        temporary = path.with_name(f"{path.name}.{number}.tmp" if number else f"{path.name}.tmp")
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return temporary
    raise AssertionError


def _sync_folder(folder: Path) -> None:
    """So that the new name is on the disk as well; not all file systems can."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
