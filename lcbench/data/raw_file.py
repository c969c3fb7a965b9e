"""Files of a source: on disk, gzipped, or members of a zip or tar archive, with a bound on what they unpack to."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from lcbench.core.errors import UserError, gist_of
from lcbench.core.files import require_regular

RATIO = 200  # of unpacked to packed bytes: texts reach 10, a zip bomb 1,000
SMALL = 2**26  # bytes that any packed file may unpack to


@dataclass(frozen=True)
class RawFile:
    """A file on disk, or a member of an archive. `name` is its name at the source, with `/` between folders."""

    path: Path
    name: str
    member: str | None = None
    tar: bool = False  # of a member: its archive is a tar, else a zip

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The decompressed content. Raises: UserError for a file that cannot be read, or a broken archive."""
        try:
            require_regular(self.path)
            if self.member is not None and self.tar:
                with tarfile.open(self.path) as tar:
                    content = tar.extractfile(self.member)
                    if content is None:
                        raise OSError("it is not a file in its archive")
                    yield _bounded(content, self.path.stat().st_size)
            elif self.member is not None:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                    yield _bounded(file, archive.getinfo(self.member).compress_size)
            elif self.name.endswith(".gz"):
                with gzip.open(self.path) as file:
                    yield _bounded(cast(IO[bytes], file), self.path.stat().st_size)
            else:
                with self.path.open("rb") as file:
                    yield file
        except (OSError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
            raise UserError(f"cannot read {self.name}: {gist_of(error)}.") from error
        except (RuntimeError, NotImplementedError) as error:  # zipfile: encrypted, or packed in another way
            raise UserError(f"cannot read {self.name}: {gist_of(error)}; unpack it and give the folder.") from error

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name.removesuffix(".gz")).suffix.lower()


class _Bounded(io.RawIOBase):
    """What a packed file unpacks to, up to `most` bytes. Raises: OSError beyond them."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._left = file, most

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise OSError(f"it unpacks to more than {RATIO} times its size, as a zip bomb does")
        buffer[: len(content)] = content
        return len(content)


def _bounded(file: IO[bytes], packed: int) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(_Bounded(file, max(SMALL, RATIO * packed)), 2**20))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
