"""Readers of source files: JSONL, JSON, CSV, parquet and text, plain, gzipped, or inside a zip or tar archive."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from lcbench.core.errors import UserError, gist_of, shortened
from lcbench.core.files import LARGEST, bounded_lines, require_regular

RawRow = Mapping[str, Any]
RATIO = 200  # of unpacked to packed bytes: texts reach 10, a zip bomb 1,000
SMALL = 2**26  # bytes that anything may unpack to
MOST_ROWS = 1_000_000  # that a parquet file may declare, if it has fewer bytes than rows
TARS = (".tar", ".tar.gz", ".tgz")
BATCH = 64  # rows of parquet in memory at once: a row may contain a book


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
                        raise OSError("it is no file in its archive")
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


def expand(path: Path, name: str) -> list[RawFile]:
    """The readable files at a path: the file itself, or the members of an archive, if their format is known.

    Raises: UserError for a broken archive.
    """
    if name.lower().endswith(TARS):
        try:
            with tarfile.open(path) as tar:
                names = sorted(member.name for member in tar if member.isfile())
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise UserError(f"{name} is no tar archive that can be read: {gist_of(error)}.") from error
        members = [RawFile(path, f"{name}/{member.removeprefix('./')}", member, tar=True) for member in names]
        return [member for member in members if member.suffix in READERS]
    if not name.lower().endswith(".zip"):
        file = RawFile(path, name)
        return [file] if file.suffix in READERS else []
    try:
        with zipfile.ZipFile(path) as archive:
            members = [RawFile(path, f"{name}/{member}", member) for member in sorted(archive.namelist())]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{name} is no zip that can be read: {error}.") from error
    return [member for member in members if member.suffix in READERS]


def read_rows(file: RawFile) -> Iterator[RawRow]:
    """The rows of a file. Raises: UserError for content that does not match the suffix."""
    return READERS[file.suffix](file)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json_lines(file: RawFile) -> Iterator[RawRow]:
    with file.open() as lines:
        for number, line in enumerate(bounded_lines(lines), start=1):
            if line.strip():
                yield parse_row(line, f"{file.name}, line {number},")


def _json(file: RawFile) -> Iterator[RawRow]:
    with file.open() as content:
        text = content.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise UserError(f"{file.name} has more than {LARGEST >> 30} GB; write it as JSONL, a row a line.")
        rows = _parse(text, file.name)
    if not isinstance(rows, list):
        raise UserError(f"{file.name} holds no list of rows.")
    for number, row in enumerate(rows, start=1):
        yield _object(row, f"{file.name}, row {number},")


def _csv(file: RawFile) -> Iterator[RawRow]:
    """Raises: UserError also for what a lenient reader would lose without a word: cells beyond the header, as where a
    comma of a text is not within quotes, and lines behind a quote that is never closed."""
    csv.field_size_limit(sys.maxsize)
    with file.open() as content:
        try:
            lines = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
            table = csv.DictReader(lines, strict=True)
            _require_different(table.fieldnames or [], file.name)
            for number, row in enumerate(table, start=1):
                if beyond := row.pop(None, None):
                    raise UserError(
                        f"{file.name}, row {number}, has {len(beyond)} more than the {len(row)} cells of the header; "
                        "put texts with commas within quotes."
                    )
                yield _object(row, f"{file.name}, row {number},")
        except csv.Error as error:
            place = f"{file.name} as CSV, up to line {table.reader.line_num}"
            raise UserError(f"cannot read {place}: {error}; double the quotes within texts.") from error
        except UnicodeDecodeError as error:
            raise UserError(f"cannot read {file.name} as CSV in UTF-8: {error}.") from error


def _require_different(columns: Iterable[str], name: str) -> None:
    """Raises: UserError for columns of one name, of which only the last would be read."""
    for column, count in Counter(filter(None, columns)).items():
        if count > 1:
            raise UserError(f"{name} has {count} columns {column!r}; give each a name of its own.")


def _text(file: RawFile) -> Iterator[RawRow]:
    """The whole text as one row, with the name of the file."""
    with file.open() as content:
        try:
            yield {"name": file.name, "text": content.read().decode("utf-8")}
        except UnicodeDecodeError as error:
            raise UserError(f"{file.name} is no text in UTF-8 (byte {error.start} is none).") from error


def _labelled_lines(file: RawFile) -> Iterator[RawRow]:
    """Lines of a label, a space and a text, as published for TREC: `NUM:dist How far is it ...`.

    Latin-1, with a byte 0xF0 in place of a space, which the hub's copy has corrected.
    """
    with file.open() as lines:
        for number, line in enumerate(bounded_lines(lines), start=1):
            label, _, text = line.replace(b"\xf0", b" ").decode("latin-1").strip().partition(" ")
            if ":" not in label or not text:
                raise UserError(f"{file.name}, line {number}, is no `COARSE:fine question`.")
            yield {"text": text, "coarse_label": label.partition(":")[0], "fine_label": label}


def _parquet(file: RawFile) -> Iterator[RawRow]:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    with file.open() as content:
        try:
            table = parquet.ParquetFile(content)
            require_plausible(table.metadata, file.path.stat().st_size)
            _require_different(table.schema_arrow.names, file.name)
            classes = _class_names(table.schema_arrow.metadata or {})
            for batch in table.iter_batches(BATCH):
                for row in batch.to_pylist():
                    yield {**row, **{name: _class_name(row[name], names) for name, names in classes.items()}}
        except UnicodeDecodeError as error:
            raise UserError(f"{file.name} has a text that is not UTF-8; write the file again without it.") from error
        except (pyarrow.ArrowException, ValueError, TypeError, KeyError, AttributeError, MemoryError) as error:
            if isinstance(error, UserError):
                raise
            # A damaged footer fails wherever the reader meets what it did not expect.
            raise UserError(f"{file.name} is no parquet that can be read: {gist_of(error)}.") from error


def require_plausible(metadata: Any, size: int) -> None:
    """Raises: ValueError for the metadata of a parquet file that declares more rows than a file of `size` bytes has."""
    if metadata.num_rows > max(MOST_ROWS, size):
        raise ValueError(f"it declares {metadata.num_rows:,} rows in {size:,} bytes")


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Columns of type ClassLabel and their class names, from the metadata that `datasets` writes into parquet files."""
    info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
    features = info.get("features", {})
    return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}


def _class_name(number: int | None, names: list[str]) -> str | None:
    """The name of a class; None for a number without a name, such as -1 in a test split without labels."""
    return names[number] if number is not None and 0 <= number < len(names) else None


def parse_row(line: str | bytes, where: str) -> RawRow:
    """A row from a line of JSONL. Raises: UserError for a line that is not a JSON object, or has a lone surrogate or a
    key twice."""
    return _object(_parse(line, where), where)


def _parse(text: str | bytes, where: str) -> Any:
    """JSON; an object with a key twice, of which Python would keep the last value without a word, is a `_Twice`."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise UserError(f"{where} is not JSON in UTF-8: {error}.") from error
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply.") from error


def _object(row: Any, where: str) -> RawRow:
    if not isinstance(row, dict):
        raise UserError(f"{where} is no JSON object.")
    require_whole_characters(row, where)
    if (key := _twice(row)) is not None:
        raise UserError(f"{where} has the key {shortened(key)!r} twice; keep one of them.")
    return row


class _Twice(dict[str, Any]):
    """An object that JSON spells with a key twice; which row it is part of is known later."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        ((self.key, _),) = Counter(key for key, _ in pairs).most_common(1)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(pairs)


def _twice(value: Any) -> str | None:
    """A key that some object within a value has twice."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, _Twice):
            return one.key
        left += [entry for entry in (one.values() if isinstance(one, dict) else one) if isinstance(entry, dict | list)]
    return None


def require_whole_characters(value: Any, where: str) -> None:
    """Raises: UserError for a lone surrogate, which JSON can express and no tokenizer accepts."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply.") from error
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise UserError(
            f"{where} has {half} in it, half a character; take it out, or restore the other half."
        ) from error


READERS: dict[str, Callable[[RawFile], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
    ".label": _labelled_lines,
    ".csv": _csv,
    ".txt": _text,
}
